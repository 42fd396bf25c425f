import { describe, expect, it } from "vitest";
import { parse, runHref, runsHref } from "./route";

describe("route", () => {
  it.each([
    ["", { page: "runs", experiment: null }],
    ["#/", { page: "runs", experiment: null }],
    ["#/nonsense", { page: "runs", experiment: null }],
    ["#/run/%", { page: "runs", experiment: null }],
    ["#/run/abc123", { page: "run", key: "abc123" }],
    ["#/?experiment=a%20b", { page: "runs", experiment: "a b" }],
  ])("reads %s", (hash, route) => expect(parse(hash)).toEqual(route));

  it("reads back what it writes", () => {
    expect(parse(runHref("a/b?c"))).toEqual({ page: "run", key: "a/b?c" });
    expect(parse(runsHref("x&y=z"))).toEqual({ page: "runs", experiment: "x&y=z" });
  });
});
