import { expect, it } from "vitest";
import { look } from "./palette";

it("gives 32 ranks 32 looks", () => {
  const looks = new Set(Array.from({ length: 32 }, (_, n) => JSON.stringify(look(n))));
  expect(looks.size).toBe(32);
});
