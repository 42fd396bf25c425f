import { describe, expect, it } from "vitest";
import { lines } from "./drawing";
import { Grid, MERGED } from "./grid";

describe("Grid", () => {
  it("keeps points exactly while they fit", () => {
    const grid = new Grid();
    [3, 1, 2].forEach((v, step) => grid.point(0, step, v));
    expect(grid.width).toBe(1);
    expect(lines(grid, null)).toMatchObject({ x: [0, 1, 2], ranks: [{ rank: 0, y: [3, 1, 2] }] });
  });

  it("never hides a spike, however coarse it gets", () => {
    const grid = new Grid(64);
    for (let step = 0; step < 100_000; step++) grid.point(0, step, step === 77_777 ? 1e6 : 1);
    expect(grid.length).toBeLessThanOrEqual(64);
    const { high, low, x } = lines(grid, null);
    expect(Math.max(...(high as number[]))).toBe(1e6);
    expect(Math.min(...(low as number[]))).toBe(1);
    expect(high.indexOf(1e6)).toBe(Math.floor(77_777 / grid.width) - (x[0] as number));
  });

  it("counts every point once over growth and coarsening", () => {
    const grid = new Grid(50);
    for (let step = 0; step < 3000; step++) for (const rank of [0, 1]) grid.point(rank, step, rank);
    for (const rank of [0, 1]) {
      const c = grid.column(rank);
      expect(c.n.subarray(0, grid.length).reduce((a, b) => a + b, 0)).toBe(3000);
      expect(c.points).toBe(3000);
    }
  });

  it("aligns ranks that log different steps on the same x", () => {
    const grid = new Grid();
    grid.point(0, 0, 1);
    grid.point(0, 10, 2);
    grid.point(1, 5, 3);
    expect(lines(grid, null)).toMatchObject({
      x: [0, 5, 10],
      ranks: [
        { rank: 0, y: [1, null, 2] },
        { rank: 1, y: [null, 3, null] },
      ],
    });
  });

  it("takes steps that come late, go back, or are negative", () => {
    const grid = new Grid();
    for (const step of [5, 1, 3, -2, 3]) grid.point(0, step, step);
    expect(lines(grid, null).x).toEqual([-2, 1, 3, 5]);
    expect(grid.column(0).points).toBe(5);
  });

  it("merges the same way in any order of arrival", () => {
    const values = Array.from({ length: 500 }, (_, i) => Math.sin(i * 12.9898) * 100);
    const there = new Grid(32);
    const back = new Grid(32);
    values.forEach((v, i) => there.point(0, i, v));
    values.map((v, i) => [v, i] as const).reverse().forEach(([v, i]) => back.point(0, i, v));
    back.widen(there.width);
    there.widen(back.width);
    expect(lines(back, null).low).toEqual(lines(there, null).low);
    expect(lines(back, null).high).toEqual(lines(there, null).high);
  });

  it("joins the server's buckets and later points in one bucket", () => {
    const grid = new Grid();
    grid.widen(4);
    grid.bucket(0, 0, { min: 1, max: 9, sum: 20, last: 5, time: 0, n: 4 });
    grid.bucket(0, 4, { min: 2, max: 2, sum: 2, last: 2, time: 0, n: 1 });
    grid.point(0, 5, 6);
    expect(lines(grid, null)).toMatchObject({ x: [0, 4], mean: [5, 4], low: [1, 2], high: [9, 6] });
    expect(grid.column(0).lastValue).toBe(6);
  });

  it("places points without a step one after the other", () => {
    const grid = new Grid();
    [7, 8, 9].forEach((v) => grid.point(2, null, v));
    expect(lines(grid, null)).toMatchObject({ x: [0, 1, 2], mean: [7, 8, 9] });
  });

  it("counts what no line can show", () => {
    const grid = new Grid();
    grid.point(0, 0, 1);
    grid.point(0, 1, Number.NaN);
    grid.point(0, 2, Number.POSITIVE_INFINITY);
    expect(grid.column(0)).toMatchObject({
      nonFinite: 2,
      lastNonFinite: { step: 2, value: "Infinity" },
      points: 3,
    });
    expect(lines(grid, null).x).toEqual([0]);
  });

  it("draws only the ranks asked for, but the band over all", () => {
    const grid = new Grid();
    for (const rank of [0, 1, 2]) grid.point(rank, 0, rank);
    const out = lines(grid, new Set([1]));
    expect(out.ranks.map((r) => r.rank)).toEqual([1]);
    expect([out.low, out.mean, out.high]).toEqual([[0], [1], [2]]);
  });

  it("finds the bucket of a step, or the one before it", () => {
    const grid = new Grid();
    for (const step of [10, 20, 30]) grid.point(0, step, 1);
    expect([9, 10, 15, 30, 99].map((step) => grid.find(step))).toEqual([-1, 0, 0, 2, 2]);
  });

  it("takes what the server merged over ranks for all of them", () => {
    const grid = new Grid();
    grid.point(MERGED, 0, 2);
    grid.point(MERGED, 0, 4);
    grid.point(5, 0, 4);
    const out = lines(grid, null);
    expect([out.low, out.mean, out.high]).toEqual([[2], [3], [4]]);
    expect(out.ranks.map((r) => r.rank)).toEqual([5]);
  });
});
