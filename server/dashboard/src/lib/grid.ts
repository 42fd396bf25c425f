/**
 * The points of one metric, as buckets that all ranks share.
 *
 * A bucket covers `width` steps, a power of two, and keeps min, max, sum, last and count: however
 * far a chart is zoomed out, no spike is lost. Buckets begin at multiples of the width, so a grid
 * takes new points, other ranks and coarser buckets from the server without any resampling.
 * Plain typed arrays: nothing here may live in framework state.
 */

import { number, type SeriesColumns } from "./columns";

/** Buckets kept before neighbours are merged: about one for each pixel of a wide chart. */
export const BUCKETS_MAX = 2048;

/** One rank's values, one entry for each bucket of the grid. */
export interface Column {
  min: Float64Array;
  max: Float64Array;
  sum: Float64Array;
  last: Float64Array;
  /** When the last value was logged, in milliseconds since 1970. */
  time: Float64Array;
  n: Uint32Array;
  /** Points seen, finite or not. */
  points: number;
  /** Values that no line can show: NaN and the infinities. */
  nonFinite: number;
  lastNonFinite: { step: number; value: string } | null;
  lastValue: number | null;
  lastStep: number | null;
}

export interface Bucket {
  min: number;
  max: number;
  sum: number;
  last: number;
  time: number;
  n: number;
}

/** Stands for all ranks at once, where the server merged them. */
export const MERGED = -1;
/** Steps of values that no line can show, remembered to be marked. */
const MARKS_MAX = 64;

const FLOATS = ["min", "max", "sum", "last", "time"] as const;

export class Grid {
  width = 1;
  length = 0;
  readonly columns = new Map<number, Column>();
  /** Latest steps at which something not finite came in. */
  readonly marks: number[] = [];
  private index = new Float64Array(64);

  constructor(private readonly bucketsMax = BUCKETS_MAX) {}

  /** Ranks with a column of their own. */
  ranks(): number[] {
    return [...this.columns.keys()].filter((rank) => rank !== MERGED).sort((a, b) => a - b);
  }

  /** Columns that together hold every point once. */
  whole(): Column[] {
    const merged = this.columns.get(MERGED);
    return merged ? [merged] : [...this.columns.values()];
  }

  /** Bucket in which this step lies, or the one before it; -1 in front of the first. */
  find(step: number): number {
    const number = Math.floor(step / this.width);
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.index[middle] as number) <= number) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** First step of bucket `i`. */
  x(i: number): number {
    return (this.index[i] as number) * this.width;
  }

  xs(): number[] {
    const xs = new Array<number>(this.length);
    for (let i = 0; i < this.length; i++) xs[i] = this.x(i);
    return xs;
  }

  /** Takes one value. A point without a step is placed at the number of points before it. */
  point(rank: number, step: number | null, value: number, time = 0): void {
    const column = this.column(rank);
    const at = step ?? column.points;
    column.points += 1;
    if (!Number.isFinite(value)) {
      this.nonFinite(rank, 1, { step: at, value: String(value) });
      return;
    }
    this.merge(column, at, { min: value, max: value, sum: value, last: value, time, n: 1 });
  }

  /** Takes a bucket of the server, which must not be wider than this grid's (see `widen`). */
  bucket(rank: number, step: number, bucket: Bucket): void {
    const column = this.column(rank);
    column.points += bucket.n;
    if (bucket.n > 0) this.merge(column, step, bucket);
  }

  nonFinite(rank: number, count: number, latest: { step: number; value: string } | null): void {
    const column = this.column(rank);
    column.nonFinite += count;
    if (!latest) return;
    column.lastNonFinite = latest;
    this.marks.push(latest.step);
    if (this.marks.length > MARKS_MAX) this.marks.shift();
  }

  /** Takes a whole series of the server; its points count as seen. */
  load(rank: number, s: SeriesColumns, width: number): void {
    this.widen(width);
    const column = this.column(rank);
    for (let i = 0; i < s.length; i++) {
      const n = s.count[i] as number;
      if (n === 0) continue;
      this.merge(column, s.step[i] as number, {
        min: s.min[i] as number,
        max: s.max[i] as number,
        sum: (s.mean[i] as number) * n,
        last: s.last[i] as number,
        time: s.time[i] as number,
        n,
      });
    }
    column.points = s.n;
    column.nonFinite = s.nonFinite;
    const last = number(s.latest);
    if (Number.isFinite(last)) column.lastValue = last;
    if (s.lastStep !== null) column.lastStep = s.lastStep;
  }

  /** Makes buckets at least `width` steps wide. */
  widen(width: number): void {
    while (this.width < width) this.coarsen();
  }

  column(rank: number): Column {
    let column = this.columns.get(rank);
    if (!column) {
      const size = this.index.length;
      column = {
        min: new Float64Array(size),
        max: new Float64Array(size),
        sum: new Float64Array(size),
        last: new Float64Array(size),
        time: new Float64Array(size),
        n: new Uint32Array(size),
        points: 0,
        nonFinite: 0,
        lastNonFinite: null,
        lastValue: null,
        lastStep: null,
      };
      this.columns.set(rank, column);
    }
    return column;
  }

  private merge(column: Column, step: number, bucket: Bucket): void {
    const i = this.slot(Math.floor(step / this.width));
    if (column.n[i] === 0) {
      column.min[i] = bucket.min;
      column.max[i] = bucket.max;
      column.sum[i] = bucket.sum;
      column.n[i] = bucket.n;
    } else {
      column.min[i] = Math.min(column.min[i] as number, bucket.min);
      column.max[i] = Math.max(column.max[i] as number, bucket.max);
      column.sum[i] = (column.sum[i] as number) + bucket.sum;
      column.n[i] = (column.n[i] as number) + bucket.n;
    }
    column.last[i] = bucket.last;
    column.time[i] = bucket.time;
    column.lastValue = bucket.last;
    column.lastStep = step;
    if (this.length > this.bucketsMax) this.coarsen();
  }

  /** Position of the bucket with this number, made when absent. Appending is the fast path. */
  private slot(number: number): number {
    const end = this.length - 1;
    if (end >= 0 && this.index[end] === number) return end;
    if (end < 0 || (this.index[end] as number) < number) return this.insert(this.length, number);
    let low = 0;
    let high = end;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.index[middle] as number) < number) low = middle + 1;
      else high = middle;
    }
    return this.index[low] === number ? low : this.insert(low, number);
  }

  private insert(at: number, number: number): number {
    if (this.length === this.index.length) this.grow();
    this.index.copyWithin(at + 1, at, this.length);
    this.index[at] = number;
    for (const column of this.columns.values()) {
      for (const name of FLOATS) {
        column[name].copyWithin(at + 1, at, this.length);
        column[name][at] = 0;
      }
      column.n.copyWithin(at + 1, at, this.length);
      column.n[at] = 0;
    }
    this.length += 1;
    return at;
  }

  private grow(): void {
    const size = this.index.length * 2;
    const wider = (old: Float64Array): Float64Array<ArrayBuffer> => {
      const array = new Float64Array(size);
      array.set(old);
      return array;
    };
    this.index = wider(this.index);
    for (const column of this.columns.values()) {
      for (const name of FLOATS) column[name] = wider(column[name]);
      const n = new Uint32Array(size);
      n.set(column.n);
      column.n = n;
    }
  }

  /** Doubles the width: neighbours that now have the same number become one. */
  private coarsen(): void {
    this.width *= 2;
    let to = -1;
    for (let from = 0; from < this.length; from++) {
      const number = Math.floor((this.index[from] as number) / 2);
      const fresh = to < 0 || this.index[to] !== number;
      if (fresh) to += 1;
      this.index[to] = number;
      for (const column of this.columns.values()) fold(column, from, to, fresh);
    }
    this.length = to + 1;
  }
}

function fold(c: Column, from: number, to: number, fresh: boolean): void {
  if (fresh || c.n[to] === 0) {
    for (const name of FLOATS) c[name][to] = c[name][from] as number;
    c.n[to] = c.n[from] as number;
  } else if ((c.n[from] as number) > 0) {
    c.min[to] = Math.min(c.min[to] as number, c.min[from] as number);
    c.max[to] = Math.max(c.max[to] as number, c.max[from] as number);
    c.sum[to] = (c.sum[to] as number) + (c.sum[from] as number);
    c.last[to] = c.last[from] as number;
    c.time[to] = c.time[from] as number;
    c.n[to] = (c.n[to] as number) + (c.n[from] as number);
  }
}
