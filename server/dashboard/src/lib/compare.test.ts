import { expect, it } from "vitest";
import { best, configDiff, goalOf } from "./compare";
import type { MetricSummary } from "./types";

it("tells which parameters differ, and which one run lacks", () => {
  const rows = configDiff([{ lr: 0.1, opt: { name: "adam" } }, { lr: 0.1, opt: { name: "sgd" }, x: null }, null]);
  expect(rows).toEqual([
    { name: "lr", values: ["0.1", "0.1", null], changed: true },
    { name: "opt.name", values: ["adam", "sgd", null], changed: true },
    { name: "x", values: [null, "null", null], changed: true },
  ]);
  expect(configDiff([{ a: 1 }, { a: 1 }])).toEqual([{ name: "a", values: ["1", "1"], changed: false }]);
});

const m = (min: number | null, max: number | null): MetricSummary => ({ last: 0, step: 0, rank: 0, min, max, count: 1 });

it("finds the best run by each metric, less or more as it should be", () => {
  const runs = [{ metrics: { loss: m(2, 9), acc: m(0, 0.5) } }, { metrics: { loss: m(1, 99), acc: m(0, 0.9), odd: m(null, null) } }, null];
  expect(best(runs, {})).toEqual([
    { metric: "acc", goal: "max", values: [0.5, 0.9, null], best: 1 },
    { metric: "loss", goal: "min", values: [2, 1, null], best: 1 },
  ]);
  expect(best(runs, { loss: "max" })[1]).toMatchObject({ goal: "max", values: [9, 99, null], best: 1 });
});

it.each([
  ["train/loss", "min"],
  ["val/accuracy", "max"],
  ["tokens_per_sec", "max"],
])("%s is best at its %s", (name, goal) => expect(goalOf(name)).toBe(goal));
