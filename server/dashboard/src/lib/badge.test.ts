import { describe, expect, it } from "vitest";
import { badge, type Connection, listBadge, listState, SILENCE_MAX_MS } from "./badge";

const running = { status: "running", live: true } as const;

describe("badge", () => {
  it("says live only with an open stream, a recent word and a writer", () => {
    expect(badge(running, "open", 1000, 2000).kind).toBe("live");
    for (const connection of ["connecting", "lost", "paused", "off"] as Connection[])
      expect(badge(running, connection, 1000, 2000).kind).not.toBe("live");
    expect(badge({ ...running, live: false }, "open", 1000, 2000).kind).toBe("stale");
    expect(badge(running, "open", 1000, 1001 + SILENCE_MAX_MS).kind).toBe("stale");
    expect(badge(null, "open", 1000, 2000).kind).not.toBe("live");
  });

  it("keeps an ended run's status while the server is away", () => {
    for (const connection of ["open", "lost", "off"] as Connection[]) {
      expect(badge({ status: "finished", live: false }, connection, 0, 1e9).kind).toBe("finished");
      expect(badge({ status: "crashed", live: false }, connection, 0, 1e9).kind).toBe("crashed");
      expect(badge({ status: "failed", live: false }, connection, 0, 1e9).label).toBe("failed");
    }
  });

  it("shows a lost connection as reconnecting", () => {
    expect(badge(running, "lost", 0, 0)).toMatchObject({ kind: "reconnecting" });
  });

  it("does not call a run unknown to it live", () => {
    expect(badge({ status: "unknown", live: true }, "open", 0, 0).kind).toBe("stale");
  });
});

describe("listBadge", () => {
  it("names what is broken, what runs, and what nobody writes", () => {
    const row = { status: "running", live: true, problem: null } as const;
    expect(listBadge(row).label).toBe("running");
    expect(listBadge({ ...row, live: false }).label).toBe("stale");
    expect(listBadge({ ...row, problem: "run.yaml: line 3" })).toMatchObject({
      label: "unreadable",
      reason: "run.yaml: line 3",
    });
  });
});

describe("the state of a list", () => {
  it("is live only when it was heard of lately", () => {
    expect(listState(true, 1000, null, 2000, false).kind).toBe("live");
    expect(listState(true, 1000, "down", 2000, false).kind).toBe("reconnecting");
    expect(listState(true, null, null, 2000, false).kind).toBe("reconnecting");
    expect(listState(true, 1000, null, 1001 + SILENCE_MAX_MS, false)).toMatchObject({ kind: "stale", label: "stale 12 s" });
    expect(listState(false, 1000, null, 9e9, false).kind).toBe("idle");
    expect(listState(true, 1000, null, 2000, true).kind).toBe("restarted");
  });
});

it("tells of a server that was started again, but not over an end or a silence", () => {
  expect(badge(running, "open", 1000, 2000, true).kind).toBe("restarted");
  expect(badge(running, "open", 0, SILENCE_MAX_MS + 1, true)).toMatchObject({ kind: "stale", label: "stale 12 s" });
  expect(badge({ status: "finished", live: false }, "open", 0, 0, true).kind).toBe("finished");
});
