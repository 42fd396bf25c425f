/** From grids to what one chart draws: x, the lines, and what each of them is. Pure. */

import type { Column, Grid } from "./grid";
import { MERGED } from "./grid";
import { smooth } from "./smooth";

/** What lies along x; anything else is the name of a metric. */
export type XMode = "step" | "time" | "wall" | `metric:${string}`;
export type YScale = "linear" | "log" | "asinh";
/** Every rank as a line, or their mean with the band of their extremes. */
export type LineMode = "ranks" | "mean";
export type Range = readonly [number, number];

export interface ChartLook {
  mode: LineMode;
  /** Ranks that are picked out; empty: none is. */
  ranks: readonly number[];
  x: XMode;
  y: YScale;
  /** Weight of the average, 0 to 0.999. */
  smooth: number;
  /** In units of x. */
  zoom: Range | null;
}

export type Role = "low" | "high" | "mean" | "rank" | "raw";
export type Values = (number | null)[];

export interface DrawnLine {
  name: string;
  role: Role;
  /** Chooses colour and dash; null is the ink of the mean. */
  look: number | null;
  y: Values;
}

export interface Drawing {
  x: number[];
  /** Where each x is: the first step of its bucket. */
  steps: number[];
  lines: DrawnLine[];
  /** Pairs of lines, by number, with a band between them, and whose it is. */
  bands: { high: number; low: number; look: number | null }[];
  /** Values of x where something not finite was logged. */
  marks: number[];
}

/** Everything a grid has to draw, by bucket: a line for each rank asked for and the band over all. */
export interface Lines {
  x: number[];
  ranks: { rank: number; y: Values; n: Uint32Array; points: number }[];
  mean: Values;
  low: Values;
  high: Values;
  counts: Float64Array;
}

export function lines(grid: Grid, only: ReadonlySet<number> | null): Lines {
  const length = grid.length;
  const empty = (): Values => new Array<number | null>(length).fill(null);
  const counts = new Float64Array(length);
  const sums = new Float64Array(length);
  const out: Lines = { x: grid.xs(), ranks: [], mean: empty(), low: empty(), high: empty(), counts };
  for (const c of grid.whole()) {
    for (let i = 0; i < length; i++) {
      const n = c.n[i] as number;
      if (n === 0) continue;
      sums[i] = (sums[i] as number) + (c.sum[i] as number);
      counts[i] = (counts[i] as number) + n;
      const low = out.low[i] ?? null;
      const high = out.high[i] ?? null;
      out.low[i] = low === null ? (c.min[i] as number) : Math.min(low, c.min[i] as number);
      out.high[i] = high === null ? (c.max[i] as number) : Math.max(high, c.max[i] as number);
    }
  }
  for (let i = 0; i < length; i++) if ((counts[i] as number) > 0) out.mean[i] = (sums[i] as number) / (counts[i] as number);
  for (const i of unfinished(grid)) out.mean[i] = null;
  for (const rank of grid.ranks()) {
    if (only && !only.has(rank)) continue;
    const c = grid.column(rank);
    out.ranks.push({ rank, y: means(c, length), n: c.n.subarray(0, length), points: c.points });
  }
  return out;
}

/** Buckets at the end that ranks may be behind. */
const BEHIND_MAX = 8;

/**
 * Buckets at the end that not all ranks have come to: their mean would be that of the fastest ones.
 * A rank that has not come to any of the last ones is no longer waited for.
 */
function unfinished(grid: Grid): number[] {
  const columns = grid.whole();
  if (columns.length < 2) return [];
  const from = Math.max(0, grid.length - BEHIND_MAX - 1);
  const counts = Array.from({ length: grid.length - from }, (_, i) => columns.reduce((n, c) => n + ((c.n[from + i] as number) > 0 ? 1 : 0), 0));
  const most = Math.max(...counts);
  const found: number[] = [];
  for (let i = counts.length - 1; i > 0 && (counts[i] as number) < most; i--) found.push(from + i);
  return found;
}

function means(c: Column, length: number): Values {
  const y = new Array<number | null>(length).fill(null);
  for (let i = 0; i < length; i++) if ((c.n[i] as number) > 0) y[i] = (c.sum[i] as number) / (c.n[i] as number);
  return y;
}

/** What x needs beside the grid itself. */
export interface XContext {
  /** Milliseconds since 1970 at which relative time begins. */
  startMs: number;
  /** The grid of the metric along x. */
  other: Grid | undefined;
}

/** x of every bucket; NaN where there is none. */
export function xs(grid: Grid, mode: XMode, context: XContext): number[] {
  if (mode === "step") return grid.xs();
  if (mode === "time" || mode === "wall") {
    const times = new Array<number>(grid.length).fill(Number.NaN);
    for (const c of grid.whole())
      for (let i = 0; i < grid.length; i++)
        if ((c.n[i] as number) > 0 && !((times[i] as number) >= (c.time[i] as number))) times[i] = c.time[i] as number;
    return mode === "wall" ? times : times.map((t) => (t - context.startMs) / 1000);
  }
  const other = context.other;
  if (!other) return new Array<number>(grid.length).fill(Number.NaN);
  const along = lines(other, null).mean;
  return grid.xs().map((step) => {
    const at = other.find(step);
    return at < 0 ? Number.NaN : (along[at] ?? Number.NaN);
  });
}

/**
 * One run's chart. `detail` is the grid of a zoomed range, finer than `grid`, where it was fetched.
 */
export function drawRun(grid: Grid, look: ChartLook, context: XContext, detail?: Grid): Drawing {
  const shown = detail && detail.length > 0 ? detail : grid;
  const picked = look.ranks.length > 0 ? new Set(look.ranks) : null;
  const all = lines(shown, look.mode === "ranks" ? picked : (picked ?? new Set()));
  const before = shown === grid ? null : frontOf(grid, shown.x(0));
  const out: DrawnLine[] = [
    { name: "max", role: "high", look: null, y: all.high },
    { name: "min", role: "low", look: null, y: all.low },
  ];
  const add = (name: string, rank: number | null, y: Values, n: ArrayLike<number>, points: number): void => {
    if (look.smooth > 0) {
      out.push({ name, role: "raw", look: rank, y });
      const front = before?.(rank ?? MERGED);
      out.push({ name, role: rank === null ? "mean" : "rank", look: rank, y: smooth(y, n, look.smooth, points, front) });
    } else out.push({ name, role: rank === null ? "mean" : "rank", look: rank, y });
  };
  if (look.mode === "mean") {
    const points = grid.whole().reduce((most, c) => Math.max(most, c.points), 0);
    const per = Math.max(1, grid.columns.has(MERGED) ? 1 : grid.columns.size);
    add("mean", null, all.mean, all.counts.map((n) => n / per), points);
  }
  for (const { rank, y, n, points } of all.ranks) add(`rank ${rank}`, rank, y, n, points);
  const steps = shown.xs();
  const x = xs(shown, look.x, context);
  const drawing = { x, steps, lines: out, bands: [{ high: 0, low: 1, look: null }], marks: marksOf(grid, look, x, steps) };
  return look.x === "step" ? drawing : inOrder(drawing);
}

/** Buckets in front of a step, by rank, for the average that goes into a zoomed view. */
function frontOf(grid: Grid, step: number): (rank: number) => { mean: number; n: number }[] {
  const end = Math.max(0, grid.find(step));
  return (rank) => {
    const columns = rank === MERGED ? grid.whole() : [grid.column(rank)];
    return Array.from({ length: end }, (_, i) => {
      let [sum, n] = [0, 0];
      for (const c of columns) {
        sum += (c.n[i] as number) > 0 ? (c.sum[i] as number) : 0;
        n += c.n[i] as number;
      }
      return { mean: n > 0 ? sum / n : 0, n: n / columns.length };
    });
  };
}

function marksOf(grid: Grid, look: ChartLook, x: number[], steps: number[]): number[] {
  if (look.x === "step") return [...grid.marks];
  return grid.marks.flatMap((step) => {
    const at = steps.findIndex((s) => s >= step);
    const there = x[at];
    return there === undefined ? [] : [there];
  });
}

/** Brings x into order and leaves out what has none: a clock may go back, and a metric always may. */
export function inOrder(drawing: Drawing): Drawing {
  const { x } = drawing;
  let rising = true;
  for (let i = 0; i < x.length; i++) {
    if (!Number.isFinite(x[i]) || (i > 0 && (x[i] as number) < (x[i - 1] as number))) rising = false;
  }
  if (rising) return drawing;
  const order = x.map((_, i) => i).filter((i) => Number.isFinite(x[i]));
  order.sort((a, b) => (x[a] as number) - (x[b] as number));
  const pick = <T>(list: T[]): T[] => order.map((i) => list[i] as T);
  return {
    ...drawing,
    x: pick(x),
    steps: pick(drawing.steps),
    lines: drawing.lines.map((line) => ({ ...line, y: pick(line.y) })),
  };
}

/** One run of several in a comparison. */
export interface Compared {
  name: string;
  look: number;
  grid: Grid;
  context: XContext;
}

/** The means of several runs over one x, each with its band. */
export function drawRuns(runs: Compared[], look: ChartLook): Drawing {
  const parts = runs.map((run) => {
    const { mean, low, high, counts } = lines(run.grid, new Set());
    const points = run.grid.whole().reduce((most, c) => Math.max(most, c.points), 0);
    const whole = {
      x: xs(run.grid, look.x, run.context),
      steps: run.grid.xs(),
      lines: [high, low, mean, smooth(mean, counts, look.smooth, points)].map((y) => ({ name: run.name, role: "mean" as Role, look: run.look, y })),
      bands: [],
      marks: [],
    };
    return { run, part: inOrder(whole) };
  });
  const x = union(parts.map(({ part }) => part.x));
  const place = new Map(x.map((at, i) => [at, i]));
  const drawing: Drawing = { x, steps: [...x], lines: [], bands: [], marks: [] };
  for (const { run, part } of parts) {
    const spread = (line: number): Values => {
      const y = new Array<number | null>(x.length).fill(null);
      part.x.forEach((at, i) => {
        const to = place.get(at) as number;
        y[to] = part.lines[line]?.y[i] ?? null;
        drawing.steps[to] = part.steps[i] as number;
      });
      return y;
    };
    const first = drawing.lines.length;
    drawing.lines.push(
      { name: run.name, role: "high", look: run.look, y: spread(0) },
      { name: run.name, role: "low", look: run.look, y: spread(1) },
    );
    drawing.bands.push({ high: first, low: first + 1, look: run.look });
    if (look.smooth > 0) drawing.lines.push({ name: run.name, role: "raw", look: run.look, y: spread(2) });
    drawing.lines.push({ name: run.name, role: "mean", look: run.look, y: spread(look.smooth > 0 ? 3 : 2) });
  }
  return drawing;
}

function union(lists: number[][]): number[] {
  if (lists.length === 1) return [...new Set(lists[0])];
  const all = new Set<number>();
  for (const list of lists) for (const x of list) all.add(x);
  return [...all].sort((a, b) => a - b);
}

/** The rows of a chart's table and of its CSV: x, then each line that is not a faint one. */
export function table(drawing: Drawing, xName: string): { head: string[]; rows: (number | null)[][] } {
  const kept = drawing.lines.filter((line) => line.role !== "raw");
  const name = (line: DrawnLine): string =>
    drawing.bands.length > 1 && line.role !== "mean" ? `${line.name} ${line.role === "high" ? "max" : "min"}` : line.name;
  return {
    head: [xName, ...kept.map(name)],
    rows: drawing.x.map((x, i) => [x, ...kept.map((line) => line.y[i] ?? null)]),
  };
}

/** RFC 4180, numbers in full. */
export function csv({ head, rows }: { head: string[]; rows: (number | null)[][] }): string {
  const cell = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [head.map(cell).join(","), ...rows.map((row) => row.map((v) => (v === null ? "" : String(v))).join(","))];
  return `${lines.join("\r\n")}\r\n`;
}
