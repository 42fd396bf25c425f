/** Every request of the page. URLs are relative, so that any proxy's path prefix works. */

import { COLUMNS_TYPE, decode, type SeriesAnswer } from "./columns";
import type {
  Artifact,
  ColumnNames,
  Crash,
  EventsAnswer,
  Health,
  KeyInfo,
  LogFile,
  LogsAnswer,
  Preview,
  RunDetail,
  RunPatch,
  RunsDelta,
  RunSummary,
  Sparklines,
} from "./types";

/** Buckets asked for: about one for each pixel of a wide chart. */
export const POINTS_MAX = 1024;
/** Lines fetched when a log is opened. */
export const LOG_TAIL = 1000;
/** Metrics of one question. */
export const KEYS_MAX = 32;
const TIMEOUT_MS = 20_000;

/** An answer that is not the one asked for, with what the server said about it. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function ask(path: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response: Response;
  try {
    response = await fetch(path, { ...init, signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("the server does not answer", 0);
  }
  if (!response.ok) {
    const answer = (await response.json().catch(() => null)) as { error?: string } | null;
    throw new ApiError(answer?.error ?? `the server answered ${response.status}`, response.status);
  }
  return response;
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, {}, signal)).json()) as T;
}

const run = (key: string): string => `api/runs/${encodeURIComponent(key)}`;

/** A query of what is there: empty and absent parts are left out. */
export function query(parts: Record<string, string | number | null | undefined>): string {
  const given = Object.entries(parts).filter(([, v]) => v !== null && v !== undefined && v !== "");
  const text = given.map(([k, v]) => `${k}=${encodeURIComponent(String(v))}`).join("&");
  return text === "" ? "" : `?${text}`;
}

/** Names in a list with commas. */
export const list = (names: readonly string[]): string => names.map((n) => n.replace(/[\\,]/g, "\\$&")).join(",");

export const health = (signal?: AbortSignal): Promise<Health> => get("api/health", signal);

/** What changed in the list of runs; a server that can only tell all of it does so. */
export async function runs(since: string | null, columns: readonly string[], signal?: AbortSignal): Promise<RunsDelta> {
  const answer = await get<RunSummary[] | RunsDelta>(
    `api/runs${query({ since: since ?? "0", columns: list(columns) })}`,
    signal,
  );
  if (Array.isArray(answer)) return { version: null, full: true, changed: answer, removed: [] };
  return { ...answer, full: answer.full ?? false };
}

export const columns = (signal?: AbortSignal): Promise<ColumnNames> => get("api/columns", signal);

export async function sparklines(keys: readonly string[], metric: string, signal?: AbortSignal): Promise<Sparklines> {
  const path = `api/sparklines${query({ runs: keys.join(","), key: metric, max_points: 48 })}`;
  return (await get<{ runs: Sparklines }>(path, signal)).runs;
}

export const detail = (key: string, signal?: AbortSignal): Promise<RunDetail> => get(run(key), signal);

async function send<T>(path: string, body: unknown): Promise<T> {
  const headers = { "content-type": "application/json", "x-expman": "1" };
  return (await (await ask(path, { method: "PATCH", headers, body: JSON.stringify(body) })).json()) as T;
}

export const patchRun = (key: string, patch: RunPatch): Promise<RunSummary> => send(run(key), patch);

export const config = (key: string, signal?: AbortSignal): Promise<unknown> => get(`${run(key)}/config`, signal);

export const keys = (key: string, signal?: AbortSignal): Promise<KeyInfo[]> => get(`${run(key)}/keys`, signal);

export const events = (key: string, after: string | null, signal?: AbortSignal): Promise<EventsAnswer> =>
  get(`${run(key)}/events${query({ after })}`, signal);

export const crash = (key: string, signal?: AbortSignal): Promise<Crash> => get(`${run(key)}/crash`, signal);

export const artifacts = (key: string, signal?: AbortSignal): Promise<Artifact[]> =>
  get(`${run(key)}/artifacts`, signal);

export const artifactHref = (key: string, artifact: string): string =>
  `${run(key)}/artifacts/${encodeURIComponent(artifact)}/content`;

/** A picture, for an element that shows it. */
export const pictureHref = (key: string, artifact: string): string =>
  `${run(key)}/artifacts/${encodeURIComponent(artifact)}/inline`;

export const preview = (key: string, artifact: string, signal?: AbortSignal): Promise<Preview> =>
  get(`${run(key)}/artifacts/${encodeURIComponent(artifact)}/preview`, signal);

export interface SeriesWanted {
  keys: readonly string[];
  /** Null: every rank. */
  ranks?: readonly number[] | null;
  from?: number | null;
  to?: number | null;
  merge?: boolean;
  maxPoints?: number;
}

/** Series as buckets, in columns. */
export async function series(key: string, wanted: SeriesWanted, signal?: AbortSignal): Promise<SeriesAnswer> {
  const path = `${run(key)}/series${query({
    keys: list(wanted.keys),
    rank: wanted.ranks?.join(","),
    from_step: wanted.from,
    to_step: wanted.to,
    max_points: wanted.maxPoints ?? POINTS_MAX,
    merge: wanted.merge ? "ranks" : null,
  })}`;
  const answer = await ask(path, { headers: { accept: COLUMNS_TYPE } }, signal);
  return decode(await answer.arrayBuffer());
}

/** Which lines of a log. */
export interface LogsWanted {
  file: LogFile;
  ranks?: readonly number[];
  stream?: string | null;
  level?: string | null;
  grep?: string | null;
  tail?: number;
  after?: number | null;
  before?: number | null;
  /** Lines around this moment, in microseconds since 1970. */
  around?: number | null;
}

export function logs(key: string, wanted: LogsWanted, signal?: AbortSignal): Promise<LogsAnswer> {
  const { ranks, tail, ...rest } = wanted;
  const more = { rank: ranks?.join(","), tail: wanted.after == null ? (tail ?? LOG_TAIL) : tail };
  return get(`${run(key)}/logs${query({ ...rest, ...more })}`, signal);
}

export const streamUrl = (key: string, cursor: string | null): string =>
  `${run(key)}/stream${query({ topics: "metrics,logs,state", cursor })}`;

/** One stream for several runs. */
export const streamsUrl = (keys: readonly string[], cursor: string | null): string =>
  `api/stream${query({ runs: keys.join(","), topics: "metrics,state", cursor })}`;

/** The list of runs, from a version of it on. */
export const listUrl = (since: string | null, columns: readonly string[]): string =>
  `api/stream${query({ topics: "runs", cursor: since === null ? null : `runs:${since}`, columns: list(columns) })}`;
