import { describe, expect, it } from "vitest";
import { ago, since, bytes, count, duration, elapsed, flatten, value } from "./format";

describe("format", () => {
  it.each([
    [0, "0"],
    [1234567, "1\u202f234\u202f567"],
  ])("counts %d", (n, text) => expect(count(n)).toBe(text));

  it.each([
    [0.123456, "0.1235"],
    [205_678.25, "205\u202f700"],
    [1e-7, "1.000e-7"],
    [12345678.5, "1.235e+7"],
    [42, "42"],
    [Number.NaN, "NaN"],
    [true, "true"],
    ["text", "text"],
    [null, "–"],
  ])("shows the value %s", (v, text) => expect(value(v)).toBe(text));

  it.each([
    [null, "–"],
    [0.25, "250 ms"],
    [12.34, "12.3 s"],
    [61, "1 min 1 s"],
    [3700, "1 h 1 min"],
    [90_000, "1 d 1 h"],
  ])("shows %s seconds", (s, text) => expect(duration(s)).toBe(text));

  it("lets the clock of a live run go on and keeps an ended one's", () => {
    const run = { started_at: "2026-01-01T00:00:00Z", duration_secs: 5, live: true };
    const now = Date.parse("2026-01-01T00:01:00Z");
    expect(elapsed(run, now)).toBe(60);
    expect(elapsed({ ...run, live: false }, now)).toBe(5);
  });

  it("tells how long ago", () => {
    expect(ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:00:07Z"))).toBe("7 s ago");
    expect(ago(null, 0)).toBe("–");
  });

  it.each([
    [12, "12 B"],
    [2048, "2.0 KiB"],
    [50 * 1024 * 1024, "50 MiB"],
  ])("shows %d bytes", (n, text) => expect(bytes(n)).toBe(text));

  it("flattens a configuration without rounding it", () => {
    expect(flatten({ lr: 0.123456789, model: { width: 64, layers: [1, 2] }, none: {} })).toEqual([
      ["lr", "0.123456789"],
      ["model.width", "64"],
      ["model.layers", "[1,2]"],
      ["none", "{}"],
    ]);
  });
});

it.each([
  [5, "just now"],
  [59, "59 s ago"],
  [3599, "59 min ago"],
  [7200, "2 h ago"],
  [86_400 * 3, "3 d ago"],
])("says of %d s ago", (s, text) => expect(since(new Date(1e12).toISOString(), 1e12 + s * 1000)).toBe(text));
