/** The settings of charts in the address, read and written. */

import type { ChartLook, LineMode, Range, XMode, YScale } from "./drawing";
import type { Params } from "./route";

export const SMOOTH_MAX = 0.99;

/** Everything about charts that an address says; per-chart scales beside the common one. */
export interface ChartsView extends Omit<ChartLook, "mode"> {
  /** Null: as fits the number of ranks. */
  mode: LineMode | null;
  scales: Readonly<Record<string, YScale>>;
  search: string;
  /** The chart that fills the window. */
  full: string | null;
  /** Groups that are not as they would be by default. */
  folded: readonly string[];
}

const scale = (text: string | undefined): YScale | null => (text === "log" || text === "asinh" || text === "linear" ? text : null);

export function read(params: Params): ChartsView {
  const x = params.x ?? "step";
  const known = x === "time" || x === "wall" || /^metric:./.test(x);
  return {
    mode: params.lines === "ranks" || params.lines === "mean" ? params.lines : null,
    ranks: numbers(params.rank),
    x: (known ? x : "step") as XMode,
    y: scale(params.y) ?? "linear",
    smooth: clamp(Number(params.s ?? 0), SMOOTH_MAX),
    zoom: range(params.zoom),
    scales: scales(params.yc),
    search: params.q ?? "",
    full: params.full ?? null,
    folded: params.fold === undefined ? [] : params.fold.split(",").map(unescape),
  };
}

export function numbers(text: string | undefined): number[] {
  const found = (text ?? "").split(",").filter((part) => /^\d{1,7}$/.test(part));
  return [...new Set(found.map(Number))].sort((a, b) => a - b);
}

function clamp(n: number, max: number): number {
  return Number.isFinite(n) ? Math.min(Math.max(n, 0), max) : 0;
}

function range(text: string | undefined): Range | null {
  const [from, to] = (text ?? "").split(":").map(Number);
  if (text === undefined || from === undefined || to === undefined) return null;
  return Number.isFinite(from) && Number.isFinite(to) && from < to ? [from, to] : null;
}

/** Six digits are finer than a pixel, and short. */
export const writeZoom = (zoom: Range | null): string | null =>
  zoom && zoom.map((x) => String(Math.abs(x) > 1e9 ? Math.round(x) : Number(x.toPrecision(7)))).join(":");

// Names may hold anything, the separators too.
const escape = (name: string): string => name.replace(/[~,=]/g, (c) => `~${c === "~" ? "t" : c === "," ? "c" : "e"}`);
const unescape = (text: string): string => text.replace(/~([tce])/g, (_, c: string) => (c === "t" ? "~" : c === "c" ? "," : "="));

export const writeList = (names: readonly string[]): string | null => (names.length > 0 ? names.map(escape).join(",") : null);

function scales(text: string | undefined): Record<string, YScale> {
  const found: Record<string, YScale> = {};
  for (const part of (text ?? "").split(",")) {
    const [name, value] = part.split("=");
    const y = scale(value);
    if (name && y) found[unescape(name)] = y;
  }
  return found;
}

export function writeScales(all: Readonly<Record<string, YScale>>): string | null {
  const parts = Object.entries(all).map(([name, y]) => `${escape(name)}=${y}`);
  return parts.length > 0 ? parts.join(",") : null;
}
