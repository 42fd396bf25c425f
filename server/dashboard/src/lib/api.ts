/** Every request of the page. URLs are relative, so that any proxy's path prefix works. */

import type {
  Artifact,
  Health,
  LogFile,
  LogsAnswer,
  MetricsAnswer,
  RunDetail,
  RunSummary,
} from "./types";

/** Buckets asked for: about one for each pixel of a wide chart. */
export const POINTS_MAX = 1024;
/** Lines fetched when a log is opened. */
export const LOG_TAIL = 500;
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

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response: Response;
  try {
    response = await fetch(path, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("the server does not answer", 0);
  }
  if (!response.ok) {
    const answer = (await response.json().catch(() => null)) as { error?: string } | null;
    throw new ApiError(answer?.error ?? `the server answered ${response.status}`, response.status);
  }
  return (await response.json()) as T;
}

const run = (key: string): string => `api/runs/${encodeURIComponent(key)}`;

export const health = (): Promise<Health> => get("api/health");

export const runs = (signal?: AbortSignal): Promise<RunSummary[]> => get("api/runs", signal);

export const detail = (key: string, signal?: AbortSignal): Promise<RunDetail> => get(run(key), signal);

export const config = (key: string, signal?: AbortSignal): Promise<unknown> =>
  get(`${run(key)}/config`, signal);

export const artifacts = (key: string, signal?: AbortSignal): Promise<Artifact[]> =>
  get(`${run(key)}/artifacts`, signal);

export const artifactHref = (key: string, artifact: string): string =>
  `${run(key)}/artifacts/${encodeURIComponent(artifact)}/content`;

export const metrics = (key: string, signal?: AbortSignal): Promise<MetricsAnswer> =>
  get(`${run(key)}/metrics?max_points=${POINTS_MAX}`, signal);

export function logs(
  key: string,
  file: LogFile,
  rank: number | null,
  signal?: AbortSignal,
): Promise<LogsAnswer> {
  const only = rank === null ? "" : `&rank=${rank}`;
  return get(`${run(key)}/logs?file=${file}&tail=${LOG_TAIL}${only}`, signal);
}

export const streamUrl = (key: string, cursor: string): string =>
  `${run(key)}/stream?topics=metrics,logs,state&cursor=${encodeURIComponent(cursor)}`;
