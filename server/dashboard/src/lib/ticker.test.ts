import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Ticker } from "./ticker";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it("draws the first change at once and a flood twice a second", () => {
  const ticker = new Ticker(() => Date.now());
  const chart = { draw: vi.fn() };
  ticker.mark(chart);
  vi.advanceTimersByTime(0);
  expect(chart.draw).toHaveBeenCalledTimes(1);
  for (let i = 0; i < 200; i++) {
    ticker.mark(chart);
    vi.advanceTimersByTime(10);
  }
  expect(chart.draw.mock.calls.length).toBeLessThanOrEqual(5);
  vi.advanceTimersByTime(500);
  const drawn = chart.draw.mock.calls.length;
  vi.advanceTimersByTime(5000);
  expect(chart.draw).toHaveBeenCalledTimes(drawn);
});

it("does not draw what is gone", () => {
  const ticker = new Ticker(() => Date.now());
  const chart = { draw: vi.fn() };
  ticker.mark(chart);
  ticker.forget(chart);
  vi.advanceTimersByTime(5000);
  expect(chart.draw).not.toHaveBeenCalled();
});
