/** Takes the server's series into grids, one for each metric. */

import { Grid } from "./grid";
import type { MetricsAnswer, Series, Wire } from "./types";

/** Latest text of a metric that is not a number, by rank. */
export type Texts = Map<number, string>;

export class SeriesStore {
  readonly grids = new Map<string, Grid>();
  readonly texts = new Map<string, Texts>();

  clear(): void {
    this.grids.clear();
    this.texts.clear();
  }

  /** Adds an answer or a frame; says which metrics changed, whether one of them is new, and whether a text came. */
  take(answer: MetricsAnswer): { changed: Set<string>; fresh: boolean; texts: boolean } {
    const changed = new Set<string>();
    let fresh = false;
    let texts = false;
    for (const series of answer.series) {
      changed.add(series.key);
      if (series.kind === "text") {
        this.takeText(series);
        texts = true;
        continue;
      }
      let grid = this.grids.get(series.key);
      if (!grid) {
        grid = new Grid();
        this.grids.set(series.key, grid);
        fresh = true;
      }
      if (!grid.columns.has(series.rank)) fresh = true;
      takeNumbers(grid, series, answer.bucket);
    }
    return { changed, fresh, texts };
  }

  private takeText(series: Series): void {
    let texts = this.texts.get(series.key);
    if (!texts) {
      texts = new Map();
      this.texts.set(series.key, texts);
    }
    const last = series.values.at(-1);
    if (last !== undefined) texts.set(series.rank, String(last));
  }
}

function takeNumbers(grid: Grid, series: Series, bucket: number | null): void {
  const { min, max, mean, counts } = series;
  if (bucket === null || !min || !max || !mean || !counts) {
    series.values.forEach((v, i) => grid.point(series.rank, series.steps[i] ?? null, number(v)));
    return;
  }
  grid.widen(bucket);
  series.steps.forEach((step, i) => {
    const n = counts[i] ?? 0;
    grid.bucket(series.rank, step ?? 0, {
      min: number(min[i]),
      max: number(max[i]),
      sum: number(mean[i]) * n,
      last: number(series.values[i]),
      n,
    });
  });
  if (series.non_finite) grid.nonFinite(series.rank, series.non_finite, null);
}

/** A value of the wire as a number to draw: truth values are 1 and 0. */
export function number(v: Wire | undefined): number {
  if (typeof v === "number") return v;
  if (typeof v === "boolean") return v ? 1 : 0;
  if (v === "inf") return Number.POSITIVE_INFINITY;
  if (v === "-inf") return Number.NEGATIVE_INFINITY;
  return Number.NaN;
}

/**
 * Metrics by the part of their name before the first slash, each list in order of name.
 * A part that only one metric has is no group: it stands with those that have none.
 */
export function groups(keys: Iterable<string>): [string, string[]][] {
  const sorted = [...keys].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const prefix = (key: string): string => key.slice(0, Math.max(0, key.indexOf("/")));
  const sizes = new Map<string, number>();
  for (const key of sorted) sizes.set(prefix(key), (sizes.get(prefix(key)) ?? 0) + 1);
  const byGroup = new Map<string, string[]>();
  for (const key of sorted) {
    const group = (sizes.get(prefix(key)) ?? 0) > 1 ? prefix(key) : "";
    const list = byGroup.get(group);
    if (list) list.push(key);
    else byGroup.set(group, [key]);
  }
  return [...byGroup].sort(([a], [b]) => a.localeCompare(b, "en"));
}
