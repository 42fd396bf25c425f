import { describe, expect, it } from "vitest";
import { type Asked, askedOf, columnOf, found, merge, rows, sparkPath } from "./runtable";
import type { RunSummary } from "./types";

const run = (name: string, more: Partial<RunSummary> = {}): RunSummary => ({
  id: `exp/${name}`,
  key: name,
  experiment: "exp",
  name,
  status: "finished",
  started_at: null,
  finished_at: null,
  duration_secs: null,
  world_size: null,
  ranks: { live: 0, left: 0, lost: 0 },
  rows: 0,
  dropped: 0,
  last_flush: null,
  scalars: {},
  tags: [],
  live: false,
  problem: null,
  ...more,
});
const asked: Asked = { search: () => true, experiment: null, sort: "name", group: null, folded: new Set() };
const names = (list: RunSummary[]): string[] => list.map((r) => r.name);

describe("the table of runs", () => {
  it("sorts either way, and what has no value goes last in both", () => {
    const list = [run("a", { columns: { "metric:loss": 3 } }), run("b"), run("c", { columns: { "metric:loss": 1 } }), run("d", { columns: { "metric:loss": "NaN" } })];
    expect(names(found(list, { ...asked, sort: "metric:loss" }, 0))).toEqual(["c", "a", "b", "d"]);
    expect(names(found(list, { ...asked, sort: "-metric:loss" }, 0))).toEqual(["a", "c", "b", "d"]);
  });

  it("sorts parameters of mixed kinds", () => {
    const list = ["sgd", 2, true, "inf", "Adam"].map((v, i) => run(`${i}`, { columns: { "param:x": v } }));
    expect(names(found(list, { ...asked, sort: "param:x" }, 0))).toEqual(["2", "1", "3", "4", "0"]);
  });

  it("shows a renamed run where its new name stands", () => {
    expect(names(found([run("b"), run("z", { display_name: "A first" })], asked, 0))).toEqual(["z", "b"]);
  });

  it("finds by what was typed and by experiment", () => {
    const list = [run("a", { tags: ["blue"] }), run("b", { experiment: "other" }), run("c", { problem: "run.yaml: line 3" })];
    expect(names(found(list, { ...asked, search: (t) => t.includes("blue") }, 0))).toEqual(["a"]);
    expect(names(found(list, { ...asked, experiment: "other" }, 0))).toEqual(["b"]);
    expect(names(found(list, { ...asked, search: (t) => t.includes("unreadable") }, 0))).toEqual(["c"]);
  });

  it("groups by tag, a run under each of its tags, and folds", () => {
    const list = [run("a", { tags: ["x", "y"] }), run("b", { tags: ["y"] }), run("c")];
    const told = rows(list, { ...asked, group: "tag", folded: new Set(["y"]) }).map((r) =>
      r.kind === "run" ? r.run.name : `${r.name} ${r.runs.length}`,
    );
    expect(told).toEqual(["x 1", "a", "y 2", "no tag 1", "c"]);
  });

  it("sorts 10,000 runs in a blink", () => {
    const many = Array.from({ length: 10_000 }, (_, i) => run(`r${(i * 7919) % 10_000}`, { rows: i }));
    const started = performance.now();
    expect(found(many, { ...asked, sort: "-rows" }, 0)[0]?.rows).toBe(9999);
    expect(performance.now() - started).toBeLessThan(300);
  });
});

it("merges what changed, and begins anew when told all", () => {
  const first = merge(new Map(), { version: "1", full: true, changed: [run("a"), run("b")], removed: [] });
  const next = merge(first, { version: "2", full: false, changed: [run("b", { rows: 5 }), run("c")], removed: ["a"] });
  expect([...next.values()].map((r) => [r.name, r.rows])).toEqual([["b", 5], ["c", 0]]);
  expect([...merge(next, { version: "9", full: true, changed: [run("z")], removed: [] }).keys()]).toEqual(["z"]);
});

it("makes columns of names, whatever they are", () => {
  expect(columnOf("min:train/loss")).toMatchObject({ label: "min train/loss", num: true });
  expect(columnOf("param:a:b,c")).toMatchObject({ label: "a:b,c", num: false });
  expect(columnOf("evil")).toBeNull();
  expect(askedOf(["status", "metric:a", "evil:b"])).toEqual(["metric:a"]);
});

it("draws a sparkline over gaps", () => {
  expect(sparkPath([0, Number.NaN, 2], 10, 4)).toBe("M0.0 4.0L10.0 0.0");
  expect(sparkPath([1, 1], 10, 4)).toBe("M0.0 2.0L10.0 2.0");
  expect(sparkPath([1], 10, 4)).toBe("");
});
