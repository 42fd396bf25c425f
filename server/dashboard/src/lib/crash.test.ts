import { describe, expect, it } from "vitest";
import { behind, crashStamp, differing, how, lastLine, logHref, micros, others, ranksNamed, reason, textOf, title, when } from "./crash";
import type { Failure, LastLine, RunDetail, Traceback } from "./types";

const failure = (over: Partial<Failure> = {}): Failure => ({
  rank: 3,
  attempt: 0,
  host: "node",
  pid: 7,
  state: "left",
  status: "failed",
  ended_badly: true,
  at: "2026-01-01T00:00:01.000250Z",
  last_heard: null,
  reason: "ValueError: bad",
  last_step: 4,
  tracebacks: [],
  lines: [],
  ...over,
});
const line = (over: Partial<LastLine> = {}): LastLine => ({ time: "2026-01-01T00:00:00.999999Z", stream: "err", text: "x", ...over });
const traceback = (...texts: [number[], string][]): Traceback => {
  const ranks = texts.flatMap(([own]) => own);
  return { ranks, rank_set: "", count: ranks.length, wordings: texts.map(([own, text]) => ({ ranks: own, count: own.length, text })) };
};

describe("a run is asked how it failed", () => {
  const run = (status: string, ...ends: [string, string][]): RunDetail =>
    ({
      status,
      error: null,
      live: true,
      ranks: Object.fromEntries(ends.map(([id, end], rank) => [rank, [{ incarnation: id, status: end }]])),
    }) as unknown as RunDetail;

  it.each([
    ["running", "running"],
    ["finished", "finished"],
    ["interrupted", "interrupted"],
  ])("not when it is %s", (status, own) => expect(crashStamp(run(status, ["a", own]))).toBeNull());

  it.each([
    ["failed", "finished"],
    ["crashed", "finished"],
    ["running", "failed"],
    ["running", "crashed"],
  ])("when it is %s and its rank %s", (status, own) => expect(crashStamp(run(status, ["a", own]))).not.toBeNull());

  it("and again when another rank fails, and when its writer is done", () => {
    const one = crashStamp(run("running", ["a", "failed"], ["b", "running"]));
    const two = run("running", ["a", "failed"], ["b", "crashed"]);
    expect(crashStamp(two)).not.toBe(one);
    expect(crashStamp({ ...two, live: false })).not.toBe(crashStamp(two));
    expect(crashStamp(run("running", ["a", "failed"], ["b", "finished"]))).toBe(one);
  });
});

describe("failures in words", () => {
  it.each([
    [[3], "rank 3"],
    [[7, 1, 0, 2, 1], "ranks 0-2,7"],
  ])("names %j", (ranks, told) => expect(ranksNamed(ranks)).toBe(told));

  it("says who came first and who then, each rank once", () => {
    const [a, b, c] = [failure(), failure({ rank: 1, state: "lost", status: "crashed" }), failure({ rank: 0, ended_badly: false })];
    expect([a, b, c].map(title)).toEqual(["First to fail", "Then", "In a thread"]);
    expect([a, b].map(how)).toEqual(["failed", "lost"]);
    expect(others({ failures: [a, b, failure({ rank: 1 }), c] })).toBe("then rank 1");
    expect(others({ failures: [a, c] })).toBe("");
  });

  it("keeps a reason to one line of plain text", () => {
    expect(reason("a\n\u001b[31mred\u001b[0m\tb \u202e")).toBe("a red b \\u202e");
    expect(reason("x".repeat(5000)).length).toBeLessThan(500);
  });

  it("tells a moment, or between which two", () => {
    expect(when(failure())).toMatch(/^at .*\.000$/);
    expect(when(failure({ last_heard: "2026-01-01T00:00:00Z" }))).toMatch(/^between .* and .*\.000$/);
    expect(when(failure({ at: null }))).toBe("at a time that nobody noted");
  });

  it("tells how long after the first", () => {
    const first = failure();
    expect(behind(first, first)).toBe("");
    expect(behind(failure({ at: "2026-01-01T00:00:03.500250Z" }), first)).toBe("2.5 s later");
    expect(behind(failure({ at: first.at }), first)).toBe("0 ms later");
    expect(behind(failure({ at: null }), first)).toBe("");
  });
});

describe("the log at that moment", () => {
  it.each([
    ["1970-01-01T00:00:01Z", 1_000_000],
    ["1970-01-01T00:00:01.000250Z", 1_000_250],
    ["1970-01-01T00:00:01.5Z", 1_500_000],
    ["1970-01-01T01:00:01.123456789+01:00", 1_123_456],
  ])("reads %s", (time, us) => expect(micros(time)).toBe(us));

  it("is of the rank, where it said its last line", () => {
    const at = Date.UTC(2026, 0, 1) * 1000;
    expect(logHref("abc", failure())).toBe(`#/run/abc/logs?rank=3&at=${at + 1_000_250}`);
    expect(logHref("abc", failure({ lines: [line()] }))).toBe(`#/run/abc/logs?rank=3&at=${at + 999_999}`);
    expect(logHref("abc", failure({ lines: [line({ stream: "log" })] }))).toContain("file=run");
    expect(logHref("abc", failure({ at: null }))).toBe("#/run/abc/logs?rank=3");
  });

  it("shows lines of any bytes", () => {
    expect(textOf(line({ text: "<b>" }))).toBe("<b>");
    expect(textOf({ time: "", stream: "out", text_base64: btoa("a\xffb") })).toBe("a\ufffdb");
    expect(textOf({ time: "", stream: "out", text_base64: "?" })).toBe("?");
  });
});

describe("a traceback of many ranks", () => {
  const all = traceback([[0, 1], "Traceback:\n  step()\nValueError: at 1"], [[4], "Traceback:\n  step()\nValueError: at 9"]);

  it("tells its end and where other ranks differ", () => {
    expect(lastLine(all)).toBe("ValueError: at 1");
    expect(differing(all)).toEqual([{ who: "rank 4", line: 3, words: "ValueError: at 9" }]);
    expect(differing(traceback([[0], "a"]))).toEqual([]);
    expect(lastLine(traceback())).toBe("");
  });
});
