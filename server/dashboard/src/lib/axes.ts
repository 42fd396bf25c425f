/** How places along an axis are written. */

import type { XMode } from "./drawing";
import { moment, value } from "./format";

/** Distances of ticks along relative time, in seconds: what people count in. */
export const RELATIVE_STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200,
  10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000,
];

/** 1500 as 1.5k: an axis has little room. */
export function short(n: number): string {
  const size = Math.abs(n);
  if (size < 10_000) return size !== 0 && size < 1e-3 ? exponent(n) : String(Number(n.toPrecision(6)));
  for (const [unit, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const)
    if (size >= unit && size < unit * 1e3) return `${Number((n / unit).toPrecision(6))}${letter}`;
  return exponent(n);
}

const exponent = (n: number): string => n.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");

/** Seconds as the two units that matter: 90 is 1:30 min. */
export function span(seconds: number): string {
  const sign = seconds < 0 ? "−" : "";
  const s = Math.abs(seconds);
  if (s < 60) return `${sign}${Number(s.toPrecision(4))} s`;
  const two = (n: number): string => String(Math.floor(n)).padStart(2, "0");
  if (s < 3600) return `${sign}${Math.floor(s / 60)}:${two(s % 60)} min`;
  if (s < 86_400) return `${sign}${Math.floor(s / 3600)}:${two((s / 60) % 60)} h`;
  return `${sign}${Math.floor(s / 86_400)} d ${two((s / 3600) % 24)} h`;
}

export function axisTicks(ticks: (number | null)[], axis: XMode | "y"): string[] {
  return ticks.map((t) => (t == null ? "" : axis === "time" ? span(t) : short(t)));
}

/** One place along x in full. */
export function xLabel(x: number, mode: XMode): string {
  if (mode === "step") return `step ${value(x)}`;
  if (mode === "time") return span(x);
  if (mode === "wall") return moment(new Date(x).toISOString());
  return `${mode.slice("metric:".length)} ${value(x)}`;
}

/** What stands along x, in words. */
export function xName(mode: XMode): string {
  if (mode === "step") return "step";
  if (mode === "time") return "seconds";
  if (mode === "wall") return "time_ms";
  return mode.slice("metric:".length);
}
