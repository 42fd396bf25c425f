/** Series as the server sends them for charts: a JSON header, then columns of 64-bit floats. */

import type { Wire } from "./types";

/** Media type of the binary answer. */
export const COLUMNS_TYPE = "application/vnd.expman.columns";
const COLUMNS = ["step", "time", "min", "max", "mean", "last", "count"] as const;

/** One metric of one rank, or of all of them merged, as buckets of one width. */
export interface SeriesColumns {
  key: string;
  /** Null when the series is merged over ranks. */
  rank: number | null;
  kind: "number" | "text";
  /** Points in the whole run, whatever range was asked for. */
  n: number;
  nonFinite: number;
  lastStep: number | null;
  /** Exact last value; the latest text of a series of texts. */
  latest: Wire | null;
  lastTimestampUs: number | null;
  length: number;
  step: Float64Array;
  /** Milliseconds since 1970 of the last value in each bucket. */
  time: Float64Array;
  min: Float64Array;
  max: Float64Array;
  mean: Float64Array;
  last: Float64Array;
  count: Float64Array;
}

export interface SeriesAnswer {
  cursor: string;
  /** Steps in one bucket, a power of two. */
  bucket: number;
  problems: string[];
  series: SeriesColumns[];
}

interface WireSeries {
  key: string;
  rank: number | null;
  kind: "number" | "text";
  n: number;
  non_finite?: number;
  last_step?: number | null;
  last?: Wire | null;
  last_timestamp_us?: number | null;
  value?: Wire | null;
  len?: number;
  at?: number;
}

interface WireHeader {
  cursor: string;
  bucket: number;
  problems?: string[];
  series: WireSeries[];
}

const NOTHING = new Float64Array(0);

/** Reads `u32 length | JSON | padding to 8 | columns`; an answer that is cut off throws. */
export function decode(buffer: ArrayBuffer): SeriesAnswer {
  if (buffer.byteLength < 4) throw new Error("the answer with the series is cut off");
  const length = new DataView(buffer).getUint32(0, true);
  const data = Math.ceil((4 + length) / 8) * 8;
  if (4 + length > buffer.byteLength) throw new Error("the header of the series is cut off");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as WireHeader;
  return {
    cursor: header.cursor,
    bucket: header.bucket,
    problems: header.problems ?? [],
    series: header.series.map((s) => columnsOf(s, buffer, data)),
  };
}

function columnsOf(s: WireSeries, buffer: ArrayBuffer, data: number): SeriesColumns {
  const length = s.len ?? 0;
  const from = data + (s.at ?? 0);
  if (length > 0 && from + length * COLUMNS.length * 8 > buffer.byteLength)
    throw new Error(`the columns of ${s.key} are cut off`);
  const column = (i: number): Float64Array =>
    length === 0 ? NOTHING : new Float64Array(buffer, from + i * length * 8, length);
  return {
    key: s.key,
    rank: s.rank,
    kind: s.kind,
    n: s.n,
    nonFinite: s.non_finite ?? 0,
    lastStep: s.last_step ?? null,
    latest: (s.kind === "text" ? s.value : s.last) ?? null,
    lastTimestampUs: s.last_timestamp_us ?? null,
    length,
    step: column(0),
    time: column(1),
    min: column(2),
    max: column(3),
    mean: column(4),
    last: column(5),
    count: column(6),
  };
}

/** A value of the wire as a number to draw: truth values are 1 and 0. */
export function number(v: Wire | null | undefined): number {
  if (typeof v === "number") return v;
  if (typeof v === "boolean") return v ? 1 : 0;
  if (v === "inf") return Number.POSITIVE_INFINITY;
  if (v === "-inf") return Number.NEGATIVE_INFINITY;
  return Number.NaN;
}
