/** The charts of one run: drawings from its series, finer ones where they are zoomed, ways to its log. */

import * as api from "./api";
import { type ChartHost, type Choice, type Facts, lookAt } from "./charthost";
import { type ChartLook, type Drawing, drawRun, type Range, xs, type XContext } from "./drawing";
import type { RunFeed } from "./feed";
import { value } from "./format";
import type { Grid } from "./grid";
import { runHref } from "./route";
import type { Entry } from "./series";

/** A zoom that is still being changed is not fetched. */
const ZOOM_WAIT_MS = 150;
/** Fetched beyond both ends of a zoomed range, so that lines leave the picture on their way. */
const ZOOM_PAD = 0.05;
const CHOICES_MAX = 4;

export class RunCharts implements ChartHost {
  private readonly zooms = new Map<string, [number, number]>();
  /** What each metric was last asked for, so that no drawing asks again. */
  private readonly asked = new Map<string, string>();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private along: string | null = null;

  constructor(
    private readonly feed: RunFeed,
    private readonly startMs: () => number,
    private readonly failed: (error: unknown) => void,
  ) {}

  use(key: string): void {
    this.feed.store.use(key);
  }

  unuse(key: string): void {
    this.feed.store.unuse(key);
  }

  onPoints(key: string, listener: () => void): () => void {
    return this.feed.onPoints(key, listener);
  }

  /** The metric along x is looked at by all charts. */
  setAlong(key: string | null, changed: () => void): () => void {
    this.along = key;
    return key === null ? () => undefined : lookAt(this, key, changed);
  }

  draw(key: string, look: ChartLook): { drawing: Drawing; facts: Facts } | null {
    const entry = this.feed.store.entries.get(key);
    if (!entry || entry.rows === 0 && entry.state !== "ready" && entry.grid.length === 0) return null;
    const context = this.context();
    this.refine(entry, look, context);
    const drawing = drawRun(entry.grid, look, context, entry.detail?.grid);
    return { drawing, facts: facts(entry, look.ranks) };
  }

  async choices(key: string, step: number, rank: number | null): Promise<Choice[]> {
    const entry = this.feed.store.entries.get(key);
    const width = (entry?.detail?.grid ?? entry?.grid)?.width ?? 1;
    const from = Math.floor(step / width) * width;
    const answer = await api.series(this.feed.key, {
      keys: [key],
      ranks: rank === null ? null : [rank],
      from,
      to: from + width - 1,
      // Fine enough for the exact moment of one rank; of many only the extremes are looked for.
      maxPoints: rank === null ? 64 : 1024,
    });
    return choicesOf(this.feed.key, answer.series.filter((s) => s.kind === "number" && s.rank !== null && s.length > 0));
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
  }

  private context(): XContext {
    const other = this.along === null ? undefined : this.feed.store.entries.get(this.along)?.grid;
    return { startMs: this.startMs(), other };
  }

  /** Fetches what a zoomed chart could show beyond what it has. */
  private refine(entry: Entry, look: ChartLook, context: XContext): void {
    if (!look.zoom) {
      entry.detail = null;
      this.asked.delete(entry.key);
      return;
    }
    if (entry.grid.width === 1 || entry.state !== "ready") return;
    const range = stepsOf(entry.grid, look, look.zoom, context);
    if (!range || (entry.detail?.from === range[0] && entry.detail.to === range[1])) return;
    if (this.asked.get(entry.key) === range.join()) return;
    this.asked.set(entry.key, range.join());
    this.zooms.set(entry.key, range);
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.fetch(), ZOOM_WAIT_MS);
  }

  private async fetch(): Promise<void> {
    const byRange = new Map<string, { keys: string[]; range: [number, number] }>();
    for (const [key, range] of this.zooms) {
      const part = byRange.get(range.join()) ?? { keys: [], range };
      part.keys.push(key);
      byRange.set(range.join(), part);
    }
    this.zooms.clear();
    for (const { keys, range } of byRange.values()) {
      try {
        await this.feed.store.zoom(keys, ...range);
      } catch (error) {
        this.failed(error);
      } finally {
        // What came to nothing may be asked for again.
        for (const key of keys) if (this.asked.get(key) === range.join()) this.asked.delete(key);
      }
    }
  }
}

/** The steps of a range of x, with a little beyond its ends. */
export function stepsOf(grid: Grid, look: ChartLook, [from, to]: Range, context: XContext): [number, number] | null {
  const pad = (to - from) * ZOOM_PAD;
  if (look.x === "step") return [Math.floor(from - pad), Math.ceil(to + pad)];
  const places = xs(grid, look.x, context);
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  places.forEach((x, i) => {
    if (!(x >= from - pad && x <= to + pad)) return;
    low = Math.min(low, grid.x(i));
    high = Math.max(high, grid.x(i) + grid.width - 1);
  });
  return low <= high ? [low, high] : null;
}

interface Spot {
  rank: number | null;
  value: number;
  atMs: number;
}

/** The ranks that stick out of a bucket, the highest first, each with the moment at which it did. */
export function choicesOf(
  run: string,
  series: { rank: number | null; length: number; max: Float64Array; min: Float64Array; time: Float64Array }[],
): Choice[] {
  const spots: Spot[] = series.map((s) => {
    let at = 0;
    for (let i = 1; i < s.length; i++) if ((s.max[i] as number) > (s.max[at] as number)) at = i;
    return { rank: s.rank, value: s.max[at] as number, atMs: s.time[at] as number };
  });
  spots.sort((a, b) => b.value - a.value);
  const few = spots.length <= CHOICES_MAX ? spots : [...spots.slice(0, CHOICES_MAX - 1), spots.at(-1) as Spot];
  const at = (ms: number): string => String(Math.round(ms * 1000));
  const choices = few.map((s): Choice => ({
    label: `Log of rank ${s.rank} at that moment`,
    value: value(s.value),
    href: runHref(run, "logs", { rank: String(s.rank), at: at(s.atMs) }),
  }));
  const first = spots[0];
  if (spots.length > 1 && first)
    choices.push({ label: "Log of all ranks", value: "", href: runHref(run, "logs", { at: at(first.atMs) }) });
  return choices;
}

export function facts(entry: Entry, picked: readonly number[]): Facts {
  const { grid } = entry;
  const bad: string[] = [];
  let latest: { step: number; value: number } | null = null;
  for (const [rank, c] of grid.columns) {
    if (picked.length > 0 && rank >= 0 && !picked.includes(rank)) continue;
    if (c.lastStep !== null && c.lastValue !== null && (!latest || c.lastStep >= latest.step))
      latest = { step: c.lastStep, value: c.lastValue };
    if (c.nonFinite > 0) {
      const where = c.lastNonFinite ? `, ${c.lastNonFinite.value} at step ${c.lastNonFinite.step}` : "";
      bad.push(`${rank < 0 ? "all ranks" : `rank ${rank}`}: ${c.nonFinite} ${c.nonFinite === 1 ? "value" : "values"}${where}`);
    }
  }
  return {
    latest: latest ? value(latest.value) : "–",
    points: grid.whole().reduce((n, c) => n + c.points, 0),
    bucket: (entry.detail?.grid ?? grid).width,
    nonFinite: bad.join(" · "),
    empty: grid.length === 0,
    texts: [...entry.texts].sort(([a], [b]) => a - b),
  };
}
