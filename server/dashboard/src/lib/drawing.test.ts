import { describe, expect, it } from "vitest";
import { type ChartLook, csv, drawRun, drawRuns, inOrder, table, type XContext } from "./drawing";
import { Grid } from "./grid";

const look: ChartLook = { mode: "mean", ranks: [], x: "step", y: "linear", smooth: 0, zoom: null };
const plain: XContext = { startMs: 1000, other: undefined };

function grid(points: [rank: number, step: number, value: number, time?: number][]): Grid {
  const made = new Grid();
  for (const point of points) made.point(...point);
  return made;
}

describe("drawRun", () => {
  const two = grid([
    [0, 0, 1, 1000],
    [1, 0, 3, 1500],
    [0, 1, 2, 3000],
    [1, 1, 6, 2000],
  ]);

  it("draws the mean with its band, and a picked rank over it", () => {
    const roles = drawRun(two, { ...look, ranks: [1] }, plain).lines.map((l) => [l.role, l.look, l.y]);
    expect(roles).toEqual([
      ["high", null, [3, 6]],
      ["low", null, [1, 2]],
      ["mean", null, [2, 4]],
      ["rank", 1, [3, 6]],
    ]);
  });

  it("waits with the mean for ranks that are a little behind, not for the dead", () => {
    const uneven = grid([...two.xs().flatMap((step): [number, number, number][] => [[0, step, 1], [1, step, 3]]), [0, 2, 9]]);
    const mean = (g: Grid) => drawRun(g, look, plain).lines.find((l) => l.role === "mean")?.y;
    expect(mean(uneven)).toEqual([2, 2, null]);
    for (let step = 3; step < 14; step++) uneven.point(0, step, 9);
    expect(mean(uneven)?.at(-1)).toBe(9);
  });

  it("draws every rank, or only the picked ones", () => {
    const names = (ranks: number[]): string[] =>
      drawRun(two, { ...look, mode: "ranks", ranks }, plain)
        .lines.filter((l) => l.role === "rank")
        .map((l) => l.name);
    expect(names([])).toEqual(["rank 0", "rank 1"]);
    expect(names([1])).toEqual(["rank 1"]);
  });

  it("keeps the raw line beside the smoothed one", () => {
    const { lines } = drawRun(two, { ...look, smooth: 0.5 }, plain);
    expect(lines.map((l) => l.role)).toEqual(["high", "low", "raw", "mean"]);
    expect(lines[2]?.y).toEqual([2, 4]);
    expect(lines[3]?.y[1]).toBeLessThan(4);
  });

  it("puts time along x, of the last rank that came to a step", () => {
    expect(drawRun(two, { ...look, x: "wall" }, plain).x).toEqual([1500, 3000]);
    expect(drawRun(two, { ...look, x: "time" }, plain).x).toEqual([0.5, 2]);
  });

  it("puts another metric along x, in order of its values", () => {
    const other = grid([
      [0, 0, 9],
      [0, 1, 5],
    ]);
    const drawn = drawRun(two, { ...look, x: "metric:epoch" }, { startMs: 0, other });
    expect(drawn.x).toEqual([5, 9]);
    expect(drawn.lines[0]?.y).toEqual([6, 3]);
    expect(drawn.steps).toEqual([1, 0]);
    expect(drawRun(two, { ...look, x: "metric:none" }, plain).x).toEqual([]);
  });

  it("takes the finer grid of a zoomed range", () => {
    const detail = grid([
      [0, 10, 1],
      [0, 11, 2],
    ]);
    expect(drawRun(two, look, plain, detail).x).toEqual([10, 11]);
  });
});

it("drawRuns lays runs over one x, each with its band", () => {
  const a = grid([
    [0, 0, 1],
    [0, 2, 3],
  ]);
  const b = grid([[0, 1, 5]]);
  const runs = [a, b].map((g, i) => ({ name: `run ${i}`, look: i, grid: g, context: plain }));
  const drawn = drawRuns(runs, look);
  expect(drawn.x).toEqual([0, 1, 2]);
  expect(drawn.lines.filter((l) => l.role === "mean").map((l) => l.y)).toEqual([
    [1, null, 3],
    [null, 5, null],
  ]);
  expect(drawn.bands).toEqual([
    { high: 0, low: 1, look: 0 },
    { high: 3, low: 4, look: 1 },
  ]);
});

it("inOrder leaves out what has no x", () => {
  const drawn = inOrder({ x: [3, Number.NaN, 1], steps: [0, 1, 2], lines: [], bands: [], marks: [] });
  expect([drawn.x, drawn.steps]).toEqual([[1, 3], [2, 0]]);
});

it("a chart's table and CSV have every line and quote names", () => {
  const drawn = drawRun(grid([[0, 0, 0.1]]), { ...look, mode: "ranks" }, plain);
  drawn.lines[2] = { name: 'a "b", c', role: "rank", look: 0, y: [null] };
  expect(csv(table(drawn, "step"))).toBe('step,max,min,"a ""b"", c"\r\n0,0.1,0.1,\r\n');
});
