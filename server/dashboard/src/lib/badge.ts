import type { RunSummary, Status } from "./types";

/** How the page is connected to the server. */
export type Connection = "connecting" | "open" | "lost" | "paused" | "off";

export type BadgeKind = "live" | "reconnecting" | "stale" | "finished" | "crashed" | "restarted" | "idle";

export interface BadgeFacts {
  kind: BadgeKind;
  label: string;
  /** One sentence for the tooltip and for screen readers. */
  reason: string;
}

/** A stream says something every 5 s; after this long without a word it is not believed. */
export const SILENCE_MAX_MS = 12_000;

const ENDED: Partial<Record<Status, [BadgeKind, string]>> = {
  finished: ["finished", "The run ended normally."],
  failed: ["crashed", "The run ended with an error."],
  crashed: ["crashed", "The run's processes died without closing it."],
  cancelled: ["idle", "The run was cancelled."],
  preempted: ["idle", "The scheduler took the run's machine away."],
  interrupted: ["idle", "The run was interrupted."],
};

/**
 * What may be claimed about a run, from what was last heard and when.
 *
 * An ended run stays ended whatever the connection does. Otherwise "live" needs an open stream that
 * spoke recently and a writer that is there: anything less says so.
 */
export function badge(
  run: Pick<RunSummary, "status" | "live"> | null,
  connection: Connection,
  heardMs: number | null,
  nowMs: number,
  restarted = false,
): BadgeFacts {
  const ended = run ? ENDED[run.status] : undefined;
  if (run && ended) return { kind: ended[0], label: run.status, reason: ended[1] };
  if (connection === "off")
    return { kind: "idle", label: "snapshot", reason: "The server was started without live updates." };
  if (connection === "paused")
    return { kind: "idle", label: "paused", reason: "This tab was hidden; updates are paused." };
  if (connection === "lost")
    return {
      kind: "reconnecting",
      label: "reconnecting",
      reason: "The server does not answer; what is shown may be old.",
    };
  if (!run || connection === "connecting")
    return { kind: "reconnecting", label: "connecting", reason: "Waiting for the server." };
  if (heardMs !== null && nowMs - heardMs > SILENCE_MAX_MS)
    return {
      kind: "stale",
      label: `stale ${Math.round((nowMs - heardMs) / 1000)} s`,
      reason: `Nothing heard from the server for ${Math.round((nowMs - heardMs) / 1000)} s.`,
    };
  if (restarted)
    return {
      kind: "restarted",
      label: "server restarted",
      reason: "The server was started again; the page has fetched what it missed.",
    };
  if (!run.live)
    return {
      kind: "stale",
      label: "stale",
      reason: `The run says ${run.status}, but no process is seen writing it.`,
    };
  if (run.status === "pending")
    return { kind: "idle", label: "pending", reason: "The run has not started yet." };
  if (run.status !== "running")
    return { kind: "stale", label: "unknown", reason: "The run's state could not be read." };
  return { kind: "live", label: "live", reason: "The run is being written; this page follows it." };
}

/** The badge of a page that shows many runs. */
export function listState(live: boolean, heardMs: number | null, problem: string | null, nowMs: number, restarted: boolean): BadgeFacts {
  if (problem !== null)
    return { kind: "reconnecting", label: "reconnecting", reason: `${problem}; what is shown may be old.` };
  if (heardMs === null) return { kind: "reconnecting", label: "connecting", reason: "Waiting for the server." };
  if (!live) return { kind: "idle", label: "snapshot", reason: "The server was started without live updates." };
  const age = Math.round((nowMs - heardMs) / 1000);
  if (nowMs - heardMs > SILENCE_MAX_MS)
    return { kind: "stale", label: `stale ${age} s`, reason: `Nothing heard from the server for ${age} s.` };
  if (restarted) return { kind: "restarted", label: "server restarted", reason: "The server was started again." };
  return { kind: "live", label: "live", reason: "The list follows what happens." };
}

/** The badge of a row in the list of runs, which is fetched and not streamed. */
export function listBadge(run: Pick<RunSummary, "status" | "live" | "problem">): BadgeFacts {
  if (run.problem) return { kind: "crashed", label: "unreadable", reason: run.problem };
  if (run.status === "running" && run.live)
    return { kind: "live", label: "running", reason: "The run is being written." };
  return badge(run, "open", null, 0);
}
