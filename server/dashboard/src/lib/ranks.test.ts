import { describe, expect, it } from "vitest";
import { Grid } from "./grid";
import { fromGrid, median, rankRows, stepMetric, StepTimes } from "./ranks";
import type { RankEntry, RunDetail } from "./types";

const at = (s: number): string => new Date(s * 1000).toISOString();
const entry = (more: Partial<RankEntry>): RankEntry => ({
  incarnation: "i",
  attempt: 0,
  host: "h",
  pid: 1,
  state: "live",
  status: "running",
  joined_at: at(0),
  left_at: null,
  last_seen: at(0),
  last_step: null,
  last_step_at: null,
  last_line_at: null,
  silent_since: null,
  rows: 0,
  points: 0,
  dropped: {},
  queued_bytes: 0,
  spooled_bytes: 0,
  reconnects: 0,
  last_error: null,
  ...more,
});
const flush = (missing: number[]): RunDetail["last_flush"] => ({
  version: "1.1",
  complete: false,
  at: at(0),
  elapsed_secs: 0.1,
  missing,
  tag: null,
});

describe("rankRows", () => {
  it("flags the straggler, the silent one and who was missing", () => {
    const ranks = {
      10: [entry({ dropped: { full: 2, late: 1 } })],
      2: [entry({ state: "lost" }), entry({ silent_since: at(60), last_seen: at(90) })],
      3: [entry({})],
    };
    const steps = new Map([
      [2, 115],
      [3, 115],
      [10, 159],
    ]);
    const rows = rankRows({ ranks, last_flush: flush([2]) }, steps, 100_000);
    expect(rows.map((r) => r.rank)).toEqual([2, 3, 10]);
    expect(rows.map((r) => r.straggler)).toEqual([false, false, true]);
    expect(rows[2]?.over).toBeCloseTo(0.3826, 3);
    expect(rows[2]?.dropped).toBe(3);
    expect(rows[0]).toMatchObject({ attempts: 2, silentSecs: 40, heartbeatSecs: 10, missing: true });
  });

  it("flags nobody among the dead, or alone", () => {
    const one = rankRows({ ranks: { 0: [entry({})] }, last_flush: null }, new Map([[0, 9]]), 0);
    expect(one[0]?.straggler).toBe(false);
    const two = { 0: [entry({})], 1: [entry({ state: "lost" })] };
    const steps = new Map([[0, 10], [1, 90]]);
    expect(rankRows({ ranks: two, last_flush: null }, steps, 0)[1]).toMatchObject({ straggler: false, heartbeatSecs: null });
  });
});

it.each([
  [["loss", "train/step_time_ms"], { key: "train/step_time_ms", unitMs: 1 }],
  [["iter_time", "perf/step_time_s"], { key: "iter_time", unitMs: 1000 }],
  [["perf/step_seconds"], { key: "perf/step_seconds", unitMs: 1000 }],
  [["stepsize", "time", "batch_size"], null],
])("finds the metric of step times in %j", (keys, found) => expect(stepMetric(keys)).toEqual(found));

it("takes the latest step times of each rank from its metric", () => {
  const grid = new Grid();
  for (let step = 0; step < 100; step++) for (const rank of [0, 1]) grid.point(rank, step, step < 50 ? 9 : 1 + rank);
  expect([...fromGrid(grid, 1000)]).toEqual([
    [0, 1000],
    [1, 2000],
  ]);
});

it("reckons step times from what the record says", () => {
  const times = new StepTimes();
  const ranks = (step: number, s: number): RunDetail["ranks"] => ({ 0: [entry({ last_step: step, last_step_at: at(s) })] });
  expect([...times.observe(ranks(10, 20))]).toEqual([[0, 2000]]);
  expect([...times.observe(ranks(20, 25))]).toEqual([[0, 500]]);
  expect([...times.observe(ranks(20, 25))]).toEqual([[0, 500]]);
});

it("median", () => expect([median([]), median([3]), median([4, 1]), median([9, 1, 5])]).toEqual([null, 3, 2.5, 5]));
