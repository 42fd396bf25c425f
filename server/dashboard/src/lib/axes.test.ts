import { expect, it } from "vitest";
import { axisTicks, short, span, xLabel } from "./axes";

it.each([
  [0, "0"],
  [0.25, "0.25"],
  [-1500, "-1500"],
  [15_000, "15k"],
  [1_500_000, "1.5M"],
  [2e9, "2G"],
  [1e-7, "1e-7"],
  [3.25e20, "3.25e20"],
])("writes %s short", (n, text) => expect(short(n)).toBe(text));

it.each([
  [0, "0 s"],
  [0.5, "0.5 s"],
  [90, "1:30 min"],
  [3660, "1:01 h"],
  [90_000, "1 d 01 h"],
  [-90, "−1:30 min"],
])("writes %s seconds", (n, text) => expect(span(n)).toBe(text));

it("labels axes and places", () => {
  expect(axisTicks([null, 60], "time")).toEqual(["", "1:00 min"]);
  expect(axisTicks([20_000], "step")).toEqual(["20k"]);
  expect(xLabel(3, "step")).toBe("step 3");
  expect(xLabel(0.5, "metric:train/epoch")).toBe("train/epoch 0.5");
});
