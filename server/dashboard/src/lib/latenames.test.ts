import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { LateNames, mayName, usualMetric } from "./latenames";
import type { ColumnNames, RunSummary } from "./types";

const names = (...metrics: string[]): ColumnNames => ({ metrics, scalars: [], params: [], more: false });

it.each([
  [[], ""],
  [["acc", "lr"], "acc"],
  [["acc", "train/loss", "loss", "val/loss"], "loss"],
])("of %j the trend is %j", (metrics, usual) => expect(usualMetric(metrics)).toBe(usual));

it("a change may bring names, none does not", () => {
  const nothing = { version: "1", full: false, changed: [], removed: [] };
  expect(mayName(nothing)).toBe(false);
  expect(mayName({ ...nothing, changed: [{} as RunSummary] })).toBe(true);
  expect(mayName({ ...nothing, removed: ["a"] })).toBe(true);
  expect(mayName({ ...nothing, full: true })).toBe(true);
});

describe("names that come late", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("are asked for at once, and then once a while however often they are told of", async () => {
    const fetch = vi.fn(async () => names("loss"));
    const took = vi.fn();
    const late = new LateNames(fetch, took, vi.fn(), 1000);
    late.mark();
    await vi.advanceTimersByTimeAsync(0);
    expect(took).toHaveBeenCalledWith(names("loss"));
    for (let i = 0; i < 30; i++) {
      late.mark();
      await vi.advanceTimersByTimeAsync(100);
    }
    expect(fetch).toHaveBeenCalledTimes(4);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetch.mock.calls.length).toBeLessThanOrEqual(5);
    late.stop();
  });

  it("of an answer that was overtaken, or came too late, nothing is taken", async () => {
    const answers: ((names: ColumnNames) => void)[] = [];
    const took = vi.fn();
    const late = new LateNames(() => new Promise((answer) => answers.push(answer)), took, vi.fn(), 1000);
    late.ask();
    late.ask();
    answers[1]?.(names("new"));
    answers[0]?.(names("old"));
    await vi.advanceTimersByTimeAsync(0);
    expect(took.mock.calls).toEqual([[names("new")]]);
    late.ask();
    late.stop();
    answers[2]?.(names("gone"));
    await vi.advanceTimersByTimeAsync(5000);
    expect(took).toHaveBeenCalledTimes(1);
  });
});
