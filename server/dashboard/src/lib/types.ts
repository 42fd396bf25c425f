/** What the server answers, as far as the page reads it. */

export type Status =
  | "pending"
  | "running"
  | "finished"
  | "failed"
  | "cancelled"
  | "crashed"
  | "preempted"
  | "interrupted"
  | "unknown";

export interface Health {
  status: string;
  version: string;
  /** False when the server was started with `--no-live`: the page is then a snapshot. */
  live: boolean;
  base_dir: string;
  /** Absent on a server that changes nothing anyway. */
  read_only?: boolean;
  /** Another one behind a lost connection: the server was started again. */
  started_at?: string;
}

export interface RankCounts {
  live: number;
  left: number;
  lost: number;
}

export interface LastFlush {
  version: string;
  complete: boolean;
  at: string;
  elapsed_secs: number;
  missing: number[];
  tag: string | null;
}

export interface RunSummary {
  id: string;
  key: string;
  experiment: string;
  name: string;
  status: Status;
  started_at: string | null;
  finished_at: string | null;
  duration_secs: number | null;
  world_size: number | null;
  ranks: RankCounts;
  rows: number;
  dropped: number;
  last_flush: LastFlush | null;
  scalars: Record<string, unknown>;
  tags: string[];
  /** Something writes this run right now. */
  live: boolean;
  problem: string | null;
  display_name?: string | null;
  description?: string | null;
  host?: string | null;
  /** First line of what ended it. */
  error?: string | null;
  /** Values of the columns that were asked for: `metric:loss`, `param:lr`, … */
  columns?: Record<string, Wire | null>;
}

/** What changed in the list of runs since a version of it. */
export interface RunsDelta {
  version: string | null;
  full: boolean;
  changed: RunSummary[];
  removed: string[];
}

/** Names that a column of the list can be made of. */
export interface ColumnNames {
  metrics: string[];
  scalars: string[];
  params: string[];
  more: boolean;
}

export type Sparklines = Record<string, { steps: number[]; values: number[] } | null>;

/** What people may change of a run; null takes it away. */
export interface RunPatch {
  display_name?: string | null;
  description?: string | null;
  tags?: string[] | null;
}

export interface MetricSummary {
  last: Wire;
  step: number | null;
  rank: number;
  min: number | null;
  max: number | null;
  count: number;
}

export interface KeyInfo {
  key: string;
  ranks: number[];
  points: number;
  last_step: number | null;
  kind?: "number" | "text" | "both";
}

/** One process that logged as a rank: a rank that was restarted has several. */
export interface RankEntry {
  incarnation: string;
  attempt: number;
  host: string | null;
  pid: number | null;
  state: "live" | "left" | "lost";
  status: Status;
  joined_at: string | null;
  left_at: string | null;
  last_seen: string | null;
  last_step: number | null;
  /** When it logged its last metrics, and its last line. */
  last_step_at: string | null;
  last_line_at: string | null;
  /** Since when it is silent though others advance, while it is told to be. */
  silent_since: string | null;
  rows: number;
  points: number;
  dropped: Record<string, number>;
  /** Bytes that its process had not been told to be durable when it last told. */
  queued_bytes: number;
  /** Bytes of it that went to files beside the run. */
  spooled_bytes: number;
  reconnects: number;
  /** What kept its records from the disk last. */
  last_error: string | null;
}

export interface RunError {
  rank: number;
  message: string;
  traceback: string;
}

/** The whole record of a run: its `run.yaml`, and what the server knows beside it. */
export interface RunDetail {
  id: string;
  key: string;
  experiment: string;
  name: string;
  status: Status;
  started_at: string | null;
  finished_at: string | null;
  duration_secs: number | null;
  description: string | null;
  display_name?: string | null;
  tags: string[];
  language: string | null;
  env_path?: string | null;
  launch_key?: string | null;
  owner_epoch?: number;
  metrics?: Record<string, MetricSummary>;
  command: string[];
  host: string | null;
  world_size: number | null;
  launcher: string | null;
  rows: number;
  dropped: number;
  error: RunError | null;
  last_flush: LastFlush | null;
  scalars: Record<string, unknown>;
  ranks: Record<string, RankEntry[]>;
  live: boolean;
  problem: string | null;
  /** Change when what is fetched beside the record changes. */
  stamps: { config: string; artifacts: string };
  /** Server's clock, RFC 3339. */
  now: string;
}

/** A number, or the name of one that JSON cannot hold. */
export type Wire = number | boolean | "NaN" | "inf" | "-inf" | string;

/** Points of one metric of one rank. With `min` and `max` each entry is a bucket, else a point. */
export interface Series {
  key: string;
  rank: number;
  kind: "number" | "text";
  steps: (number | null)[];
  timestamps: number[];
  values: Wire[];
  min?: Wire[];
  max?: Wire[];
  mean?: Wire[];
  counts?: number[];
  /** Values that are not finite, in the whole series. */
  non_finite?: number;
  /** Points of the series in the run, whatever was asked for. */
  n: number;
}

export interface MetricsAnswer {
  cursor: string;
  /** Steps in one bucket, a power of two; null when the points are exact. */
  bucket: number | null;
  series: Series[];
}

export type LogFile = "run" | "console";

export interface LogLine {
  /** Byte where the line begins in its file: its identity. */
  at: number;
  t: string;
  rank: number | null;
  /** `out` or `err` in the console, the level in the run's own log. */
  stream?: string;
  level?: string;
  logger?: string;
  text: string;
}

export interface LogsAnswer {
  /** Byte behind the last line of the answer. */
  cursor: number;
  lines: LogLine[];
  /** Byte of the first line of the answer. */
  first?: number;
  matched?: number;
  searched_bytes?: number;
  more?: boolean;
}

export interface LogsFrame {
  file: LogFile;
  cursor: number;
  lines: LogLine[];
}

export interface Artifact {
  key: string;
  name: string;
  size: number;
  type: string;
  hash: string | null;
}

export interface RunEvent {
  id: string;
  type: string;
  timestamp: string;
  [field: string]: unknown;
}

export interface EventsAnswer {
  cursor: string | null;
  events: RunEvent[];
  malformed: { line: number; what: string }[];
}

export type Preview =
  /** Fetched by itself, as it is. */
  | { kind: "image" }
  | { kind: "text" | "json"; text: string; truncated: boolean }
  | {
      kind: "csv" | "parquet";
      columns: { name: string; type: string }[];
      /** Null where nothing is. */
      rows: (string | null)[][];
      total_rows: number | null;
      truncated: boolean;
    }
  | { kind: "none"; why: string };

/** How a run failed: who, in which order, with which tracebacks. */
export interface Crash {
  failures: Failure[];
  tracebacks: Traceback[];
  /** Tracebacks for which there was no room. */
  tracebacks_left_out: number;
  /** Forked children that vanished while their parent went on. */
  children: number;
  problems: string[];
}

/** A process that failed; the first one to do so stands first. */
export interface Failure {
  rank: number;
  attempt: number;
  host: string | null;
  pid: number | null;
  state: "live" | "left" | "lost";
  status: Status;
  /** False when only one of its threads raised what nobody caught. */
  ended_badly: boolean;
  at: string | null;
  /** Of one that vanished, when it was last heard of. */
  last_heard: string | null;
  reason: string;
  last_step: number | null;
  /** Places in the list of tracebacks. */
  tracebacks: number[];
  lines: LastLine[];
}

/** One of the last lines of a process: its text, or which traceback it was. */
export interface LastLine {
  time: string;
  stream: "out" | "err" | "log";
  level?: string;
  text?: string;
  /** In place of the text when that is no UTF-8. */
  text_base64?: string;
  traceback?: number;
  bytes_left_out?: number;
}

/** The same traceback of many ranks; its wordings differ in numbers only. */
export interface Traceback {
  ranks: number[];
  rank_set: string;
  count: number;
  wordings: { ranks: number[]; count: number; text: string }[];
}
