import { describe, expect, it } from "vitest";
import { smooth } from "./smooth";

const ones = (n: number): number[] => new Array<number>(n).fill(1);

describe("smooth", () => {
  it("is debiased: the first point is itself and a constant stays", () => {
    expect(smooth([5, 5, 5], ones(3), 0.99, 3)).toEqual([5, 5, 5].map((x) => expect.closeTo(x, 9)));
    expect(smooth([5, 1], ones(2), 0.5, 2)[0]).toBeCloseTo(5, 9);
  });

  it("gives the usual average for single points", () => {
    // (1*0.5 + 3*0.5*... ) by hand: weights 0.25 and 0.5 over their sum.
    expect(smooth([1, 3], ones(2), 0.5, 2)[1]).toBeCloseTo((1 * 0.25 + 3 * 0.5) / 0.75, 9);
  });

  it("does not depend on the width of buckets", () => {
    const exact = Array.from({ length: 4096 }, (_, i) => Math.sin(i / 300) * 10);
    const fine = smooth(exact, ones(4096), 0.9, 4096);
    const wide = Array.from({ length: 512 }, (_, i) => exact.slice(i * 8, i * 8 + 8).reduce((a, b) => a + b) / 8);
    const coarse = smooth(wide, ones(512).map(() => 8), 0.9, 4096);
    coarse.forEach((y, i) => expect(y).toBeCloseTo(fine[i * 8 + 7] as number, 0));
    expect(Math.max(...coarse.map((y, i) => Math.abs((y ?? 0) - (fine[i * 8 + 7] ?? 0))))).toBeLessThan(0.15);
  });

  it("goes on from what lies in front of a zoomed view", () => {
    const all = Array.from({ length: 100 }, (_, i) => i % 7);
    const whole = smooth(all, ones(100), 0.9, 100);
    const before = all.slice(0, 60).map((mean) => ({ mean, n: 1 }));
    const part = smooth(all.slice(60), ones(40), 0.9, 100, before);
    part.forEach((y, i) => expect(y).toBeCloseTo(whole[60 + i] as number, 9));
  });

  it("leaves gaps alone and does nothing at zero", () => {
    expect(smooth([1, null, 3], ones(3), 0.5, 3)[1]).toBeNull();
    const same = [1, 2];
    expect(smooth(same, ones(2), 0, 2)).toBe(same);
  });
});
