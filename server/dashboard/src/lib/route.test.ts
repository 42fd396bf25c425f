import { describe, expect, it } from "vitest";
import { changed, compareHref, href, parse, type Route, runHref, runsHref } from "./route";

describe("route", () => {
  it.each([
    ["", { page: "runs", params: {} }],
    ["#/", { page: "runs", params: {} }],
    ["#/nonsense", { page: "runs", params: {} }],
    ["#/run/%", { page: "runs", params: {} }],
    ["#/run/", { page: "runs", params: {} }],
    ["#/run/abc123", { page: "run", key: "abc123", tab: "charts", params: {} }],
    ["#/run/abc123/logs?rank=1,2", { page: "run", key: "abc123", tab: "logs", params: { rank: "1,2" } }],
    ["#/run/abc123/evil", { page: "run", key: "abc123", tab: "charts", params: {} }],
    ["#/?experiment=a%20b", { page: "runs", params: { experiment: "a b" } }],
    ["#/compare?runs=a,b,&q=%2Floss%2F", { page: "compare", runs: ["a", "b"], params: { q: "/loss/" } }],
    ["#/compare", { page: "compare", runs: [], params: {} }],
  ])("reads %s", (hash, route) => expect(parse(hash)).toEqual(route));

  it.each<Route>([
    { page: "runs", params: { experiment: "x&y=z#?%", sort: "-metric:a,b" } },
    { page: "run", key: "a/b?c", tab: "system", params: { q: "ü 100%" } },
    { page: "run", key: "k", tab: "charts", params: {} },
    { page: "compare", runs: ["a", "b"], params: { s: "0.6" } },
  ])("reads back what it writes: %o", (route) => expect(parse(href(route))).toEqual(route));

  it("writes short addresses", () => {
    expect(runHref("k")).toBe("#/run/k");
    expect(runHref("k", "logs", { rank: "1,2" })).toBe("#/run/k/logs?rank=1,2");
    expect(runsHref()).toBe("#/");
    expect(compareHref(["a", "b"])).toBe("#/compare?runs=a,b");
  });

  it("changes settings and takes them back", () => {
    expect(changed({ a: "1", b: "2" }, { a: null, c: "3" })).toEqual({ b: "2", c: "3" });
  });
});
