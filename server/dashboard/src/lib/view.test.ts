import { describe, expect, it } from "vitest";
import { numbers, read, writeList, writeScales, writeZoom } from "./view";

describe("view", () => {
  it("is plain by default, and whatever an address says", () => {
    const plain = { mode: null, ranks: [], x: "step", y: "linear", smooth: 0, zoom: null, scales: {}, search: "", full: null, folded: [] };
    expect(read({})).toEqual(plain);
    expect(read({ x: "evil", y: "evil", s: "NaN", zoom: "3", rank: "x,-1", lines: "?" })).toEqual(plain);
    expect(read({ s: "7", zoom: "5:1" })).toEqual({ ...plain, smooth: 0.99 });
  });

  it("reads everything that it may say", () => {
    const all = { x: "metric:epoch", y: "log", s: "0.6", zoom: "-10:2.5", rank: "5,1,5", lines: "mean", q: "/loss/", full: "a/b" };
    expect(read(all)).toMatchObject({
      x: "metric:epoch",
      y: "log",
      smooth: 0.6,
      zoom: [-10, 2.5],
      ranks: [1, 5],
      mode: "mean",
      search: "/loss/",
      full: "a/b",
    });
  });

  it("keeps names with separators in them", () => {
    const scales = { "a,b=c~d": "log", plain: "asinh" } as const;
    expect(read({ yc: writeScales(scales) ?? "" }).scales).toEqual(scales);
    const names = ["a,b", "~t", "", "x=y"];
    expect(read({ fold: writeList(names) ?? "" }).folded).toEqual(names);
  });

  it("writes a zoom short, and times to the millisecond", () => {
    expect(writeZoom([1 / 3, 1_763_000_000_123.4])).toBe("0.3333333:1763000000123");
    expect(writeZoom(null)).toBeNull();
  });

  it("reads lists of ranks", () => expect(numbers("3,,1,99999999,a")).toEqual([1, 3]));
});
