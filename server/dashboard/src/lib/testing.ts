/** Answers of the server for tests, from points written out. */

import { number, type SeriesAnswer, type SeriesColumns } from "./columns";
import type { MetricsAnswer, Series, Wire } from "./types";

const NOTHING = new Float64Array(0);

/** Columns from points or buckets. */
export function fromMetrics(answer: MetricsAnswer): SeriesAnswer {
  return {
    cursor: answer.cursor,
    bucket: answer.bucket ?? 1,
    problems: [],
    series: answer.series.map(fromSeries),
  };
}

function fromSeries(s: Series): SeriesColumns {
  const text = s.kind === "text";
  const floats = (list: Wire[] | undefined): Float64Array =>
    text ? NOTHING : Float64Array.from(list ?? s.values, number);
  const step = text ? NOTHING : Float64Array.from(s.steps, (x, i) => x ?? i);
  return {
    key: s.key,
    rank: s.rank,
    kind: s.kind,
    n: s.n,
    nonFinite: s.non_finite ?? 0,
    lastStep: text ? null : (step.at(-1) ?? null),
    latest: s.values.at(-1) ?? null,
    lastTimestampUs: s.timestamps.at(-1) ?? null,
    length: step.length,
    step,
    time: text ? NOTHING : Float64Array.from(s.timestamps, (us) => us / 1000),
    min: floats(s.min),
    max: floats(s.max),
    mean: floats(s.mean),
    last: floats(s.values),
    count: text ? NOTHING : Float64Array.from(s.counts ?? s.values, (n) => (s.counts ? Number(n) : 1)),
  };
}
