import { describe, expect, it } from "vitest";
import { lines } from "./grid";
import { groups, number, SeriesStore } from "./series";
import type { Series } from "./types";

const points = (key: string, rank: number, steps: number[], values: Series["values"]): Series => ({
  key,
  rank,
  kind: "number",
  steps,
  timestamps: steps,
  values,
  n: steps.length,
});

describe("SeriesStore", () => {
  it("continues the fetched buckets with streamed points", () => {
    const store = new SeriesStore();
    const fetched: Series = {
      ...points("loss", 0, [0, 4], [3, 2]),
      min: [1, 2],
      max: [9, 2],
      mean: [4, 2],
      counts: [4, 1],
      non_finite: 2,
    };
    expect(store.take({ cursor: "1-5", bucket: 4, series: [fetched] }).fresh).toBe(true);
    const next = store.take({ cursor: "1-6", bucket: null, series: [points("loss", 0, [5], [4])] });
    expect(next).toEqual({ changed: new Set(["loss"]), fresh: false, texts: false });
    const grid = store.grids.get("loss");
    expect(grid && lines(grid, null)).toMatchObject({ x: [0, 4], mean: [4, 3], high: [9, 4] });
    expect(grid?.column(0)).toMatchObject({ nonFinite: 2, points: 6 });
  });

  it("tells of a rank that joins a metric", () => {
    const store = new SeriesStore();
    store.take({ cursor: "1-1", bucket: null, series: [points("a", 0, [0], [1])] });
    const later = store.take({ cursor: "1-2", bucket: null, series: [points("a", 1, [0], [1])] });
    expect(later.fresh).toBe(true);
  });

  it("keeps the latest text by rank and draws none", () => {
    const store = new SeriesStore();
    const text: Series = { ...points("phase", 1, [0, 1], ["warm", "NaN"]), kind: "text" };
    store.take({ cursor: "1-1", bucket: null, series: [text] });
    expect(store.texts.get("phase")?.get(1)).toBe("NaN");
    expect(store.grids.size).toBe(0);
  });
});

it.each([
  [1.5, 1.5],
  [true, 1],
  ["inf", Number.POSITIVE_INFINITY],
  ["-inf", Number.NEGATIVE_INFINITY],
  ["NaN", Number.NaN],
  [undefined, Number.NaN],
])("reads the wire value %s", (wire, value) => expect(number(wire)).toBe(value));

it("groups metrics by prefix, in human order", () => {
  expect(groups(["train/b", "loss", "train/a", "val/x10", "val/x9", "sys/time"])).toEqual([
    ["", ["loss", "sys/time"]],
    ["train", ["train/a", "train/b"]],
    ["val", ["val/x9", "val/x10"]],
  ]);
});
