import { expect, it } from "vitest";
import { rowsIn } from "./windowed";

it("draws what is on the screen and a little more", () => {
  expect(rowsIn(0, 400, 20, 10_000)).toEqual({ first: 0, end: 32 });
  expect(rowsIn(10_000, 400, 20, 10_000)).toEqual({ first: 488, end: 532 });
});

it("stays within the list, also when it has become shorter than where it was scrolled to", () => {
  expect(rowsIn(199_600, 400, 20, 10_000)).toEqual({ first: 9968, end: 10_000 });
  expect(rowsIn(50_000, 400, 20, 3)).toEqual({ first: 2, end: 3 });
  expect(rowsIn(0, 400, 20, 0)).toEqual({ first: 0, end: 0 });
});
