/** How a run failed, in words. Pure. */

import { clock, duration, moment } from "./format";
import { visible } from "./logtext";
import { runHref } from "./route";
import type { Crash, Failure, LastLine, RankEntry, RunDetail, Traceback } from "./types";

/** Letters of a reason that are shown in a line; its traceback has all of them. */
const REASON_MAX = 400;
const BAD = new Set(["failed", "crashed"]);

/** Null while nothing of a run has ended badly; another text when there is more to ask for. */
export function crashStamp(run: Pick<RunDetail, "status" | "error" | "live" | "ranks">): string | null {
  const bad = (entry: RankEntry): boolean => BAD.has(entry.status);
  const ended = Object.values(run.ranks).flatMap((entries) => entries.filter(bad));
  if (ended.length === 0 && !BAD.has(run.status) && !run.error) return null;
  return [run.status, run.live, ...ended.map((entry) => `${entry.incarnation} ${entry.status}`)].join("\n");
}

/** `0-3,7`. */
export function rankSet(ranks: readonly number[]): string {
  const sorted = [...new Set(ranks)].sort((a, b) => a - b);
  const spans: [number, number][] = [];
  for (const rank of sorted) {
    const last = spans.at(-1);
    if (last && last[1] === rank - 1) last[1] = rank;
    else spans.push([rank, rank]);
  }
  return spans.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
}

/** `rank 3`, or `ranks 0-3,7`. */
export const ranksNamed = (ranks: readonly number[]): string => `${ranks.length === 1 ? "rank" : "ranks"} ${rankSet(ranks)}`;

/** Who ended badly behind the first one; empty when nobody did. */
export function others(crash: Pick<Crash, "failures">): string {
  const rest = crash.failures.slice(1).filter((failure) => failure.ended_badly);
  return rest.length === 0 ? "" : `then ${ranksNamed([...new Set(rest.map((failure) => failure.rank))])}`;
}

export function title(failure: Failure, place: number): string {
  if (!failure.ended_badly) return "In a thread";
  return place === 0 ? "First to fail" : "Then";
}

export const how = (failure: Failure): string => (failure.state === "lost" ? "lost" : failure.status);

/** One line of what is told of it. */
export function reason(text: string): string {
  const line = visible(text).replace(/\s+/g, " ").trim();
  return line.length > REASON_MAX ? `${line.slice(0, REASON_MAX)}…` : line;
}

/** When it failed; of one that vanished only between which moments is known. */
export function when(failure: Failure): string {
  if (failure.at === null) return "at a time that nobody noted";
  const exact = (time: string): string => `${moment(time).slice(0, 10)} ${clock(time)}`;
  const heard = failure.last_heard;
  if (heard !== null && micros(heard) < micros(failure.at)) return `between ${exact(heard)} and ${exact(failure.at)}`;
  return `at ${exact(failure.at)}`;
}

/** How long behind the first failure this one came; empty for that one. */
export function behind(failure: Failure, first: Failure | undefined): string {
  if (!first || first === failure || failure.at === null || first.at === null) return "";
  const secs = (micros(failure.at) - micros(first.at)) / 1e6;
  return secs < 0 ? "" : `${secs === 0 ? "0 ms" : duration(secs)} later`;
}

/** A time in microseconds since 1970: more than `Date` keeps, and the log is cut by them. */
export function micros(time: string): number {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? "";
  const seconds = Math.floor(Date.parse(time) / 1000);
  return seconds * 1e6 + Number(fraction.padEnd(6, "0").slice(0, 6));
}

/** The log of its rank at the moment it failed, where that rank was heard last. */
export function logHref(key: string, failure: Failure): string {
  const last = failure.lines.at(-1);
  const at = last?.time ?? failure.at;
  // Who printed nothing has left its last words among the messages.
  const messages = failure.lines.length > 0 && failure.lines.every((line) => line.stream === "log");
  return runHref(key, "logs", {
    file: messages ? "run" : "",
    rank: String(failure.rank),
    at: at === null ? "" : String(micros(at)),
  });
}

/** The text of a line, whatever bytes it had. */
export function textOf(line: LastLine): string {
  if (line.text_base64 === undefined) return line.text ?? "";
  try {
    const bytes = Uint8Array.from(atob(line.text_base64), (c) => c.charCodeAt(0));
    return new TextDecoder().decode(bytes);
  } catch {
    return line.text_base64;
  }
}

/** What a traceback ends with. */
export function lastLine(traceback: Traceback): string {
  return reason(traceback.wordings[0]?.text.trimEnd().split("\n").at(-1) ?? "");
}

/** Where other ranks have other numbers in a traceback than the first one. */
export function differing(traceback: Traceback): { who: string; line: number; words: string }[] {
  const [told, ...rest] = traceback.wordings;
  const lines = told?.text.split("\n") ?? [];
  return rest.flatMap((wording) => {
    const who = ranksNamed(wording.ranks);
    return wording.text.split("\n").flatMap((words, i) => (words === lines[i] ? [] : [{ who, line: i + 1, words: visible(words) }]));
  });
}
