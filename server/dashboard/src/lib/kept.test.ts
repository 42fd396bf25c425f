import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Kept } from "./kept";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

/** Fetches that end when the test says so. */
function setup() {
  const asked: { done(value: string): void; fail(error: Error): void }[] = [];
  const taken: string[] = [];
  const failures: unknown[] = [];
  const kept = new Kept<string>(
    () => new Promise((resolve, reject) => asked.push({ done: resolve, fail: reject })),
    (value) => taken.push(value),
    (error) => failures.push(error),
  );
  const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);
  return { asked, taken, failures, kept, settle };
}

test("a stamp is fetched for once", async () => {
  const { asked, taken, kept, settle } = setup();
  kept.stamp("1");
  kept.stamp("1");
  asked[0]?.done("a");
  await settle();
  kept.stamp("1");
  await settle();
  expect([asked.length, taken]).toEqual([1, ["a"]]);
});

test("stamps that come while one is fetched for cost one more fetch, for the last of them", async () => {
  const { asked, taken, kept, settle } = setup();
  for (const stamp of ["1", "2", "3"]) kept.stamp(stamp);
  asked[0]?.done("a");
  await settle();
  expect(asked.length).toBe(2);
  asked[1]?.done("c");
  await settle();
  kept.stamp("3");
  expect([asked.length, taken]).toEqual([2, ["a", "c"]]);
});

test("a fetch that failed is made again by itself", async () => {
  const { asked, taken, failures, kept, settle } = setup();
  kept.stamp("1");
  asked[0]?.fail(new Error("away"));
  await settle();
  kept.stamp("2");
  expect([asked.length, failures.length]).toEqual([1, 1]);
  await vi.advanceTimersByTimeAsync(2000);
  asked[1]?.done("b");
  await settle();
  expect([asked.length, taken]).toEqual([2, ["b"]]);
});

test("what comes after the stop is not taken", async () => {
  const { asked, taken, kept, settle } = setup();
  kept.stamp("1");
  kept.stop();
  asked[0]?.done("a");
  await settle();
  kept.stamp("2");
  expect([asked.length, taken]).toEqual([1, []]);
});
