import { describe, expect, it } from "vitest";
import type { ChartLook } from "./drawing";
import { Grid } from "./grid";
import { choicesOf, stepsOf } from "./runcharts";

const look: ChartLook = { mode: "mean", ranks: [], x: "step", y: "linear", smooth: 0, zoom: null };
const series = (rank: number, max: number[], time: number[]) => ({
  rank,
  length: max.length,
  max: Float64Array.from(max),
  min: Float64Array.from(max),
  time: Float64Array.from(time),
});

describe("where a point leads", () => {
  it("is to the rank that sticks out, at the moment it did", () => {
    const choices = choicesOf("k", [series(0, [1, 2], [10, 20]), series(5, [1, 90, 3], [11, 12.5, 13])]);
    expect(choices.map((c) => [c.label, c.value])).toEqual([
      ["Log of rank 5 at that moment", "90"],
      ["Log of rank 0 at that moment", "2"],
      ["Log of all ranks", ""],
    ]);
    expect(choices[0]?.href).toBe("#/run/k/logs?rank=5&at=12500");
  });

  it("is to the highest and the lowest of many", () => {
    const many = Array.from({ length: 100 }, (_, i) => series(i, [i], [i]));
    const ranks = choicesOf("k", many).map((c) => c.label.replace(/\D+/g, ""));
    expect(ranks).toEqual(["99", "98", "97", "0", ""]);
  });
});

describe("the steps of a zoomed range", () => {
  const grid = new Grid();
  for (const step of [0, 10, 20, 30]) grid.point(0, step, 1, 1000 + step * 100);

  it("reach a little beyond it", () => {
    expect(stepsOf(grid, look, [10, 20], { startMs: 0, other: undefined })).toEqual([9, 21]);
  });

  it("are found by time, and none where nothing is", () => {
    const context = { startMs: 1000, other: undefined };
    expect(stepsOf(grid, { ...look, x: "time" }, [0.9, 2.1], context)).toEqual([10, 20]);
    expect(stepsOf(grid, { ...look, x: "time" }, [50, 60], context)).toBeNull();
  });
});
