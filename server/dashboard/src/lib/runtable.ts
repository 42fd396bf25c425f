/** The table of runs: its columns, what is found, in which order, in which groups. Pure. */

import { number } from "./columns";
import { elapsed, value } from "./format";
import type { RunsDelta, RunSummary, Wire } from "./types";

/** Runs that may be compared. */
export const SELECTED_MAX = 10;

export interface RunColumn {
  id: string;
  label: string;
  num: boolean;
  /** Width in rem. */
  width: number;
  /** What rows are ordered by; null goes last, whichever way. */
  sort: (run: RunSummary, nowMs: number) => number | string | null;
}

const time = (text: string | null): number | null => (text ? Date.parse(text) : null);

/** Columns that every run has. The first is always there. */
export const BUILT_IN: readonly RunColumn[] = [
  { id: "name", label: "Run", num: false, width: 20, sort: (r) => (r.display_name || r.name).toLowerCase() },
  { id: "status", label: "Status", num: false, width: 8.5, sort: (r) => (r.problem ? "unreadable" : r.status) },
  { id: "experiment", label: "Experiment", num: false, width: 9, sort: (r) => r.experiment.toLowerCase() },
  { id: "spark", label: "Trend", num: false, width: 7.5, sort: () => null },
  { id: "ranks", label: "Ranks", num: false, width: 7.5, sort: (r) => r.world_size ?? r.ranks.live + r.ranks.left + r.ranks.lost },
  { id: "rows", label: "Points", num: true, width: 6.5, sort: (r) => r.rows },
  { id: "dropped", label: "Dropped", num: true, width: 5.75, sort: (r) => r.dropped },
  { id: "started", label: "Started", num: false, width: 8, sort: (r) => time(r.started_at) },
  { id: "duration", label: "Duration", num: true, width: 7, sort: (r, now) => elapsed(r, now) },
  { id: "host", label: "Host", num: false, width: 9, sort: (r) => r.host?.toLowerCase() ?? null },
  { id: "tags", label: "Tags", num: false, width: 11, sort: (r) => r.tags.join(" ").toLowerCase() || null },
];

export const SHOWN_FIRST = ["status", "experiment", "spark", "ranks", "rows", "dropped", "started", "duration"];

const NAMED = /^(metric|min|max|param|scalar):(.+)$/s;
const PREFIX: Record<string, string> = { metric: "", min: "min ", max: "max ", param: "", scalar: "" };

/** A column by its id; of names that runs may have each makes one of its own. */
export function columnOf(id: string): RunColumn | null {
  const built = BUILT_IN.find((c) => c.id === id);
  if (built) return built;
  const named = NAMED.exec(id);
  if (!named) return null;
  const label = `${PREFIX[named[1] as string]}${named[2]}`;
  return { id, label, num: named[1] !== "param", width: Math.min(14, Math.max(6, label.length * 0.55 + 1.5)), sort: (r) => order(r.columns?.[id]) };
}

/** Ids of what the server has to send beside the runs. */
export const askedOf = (ids: readonly string[]): string[] => ids.filter((id) => NAMED.test(id));

function order(v: Wire | null | undefined): number | string | null {
  if (v === null || v === undefined) return null;
  if (typeof v !== "string") return number(v);
  const n = number(v);
  return Number.isNaN(n) ? (v === "NaN" ? null : v.toLowerCase()) : n;
}

export const cell = (run: RunSummary, id: string): string => {
  const v = run.columns?.[id];
  return v === null || v === undefined ? "" : value(v);
};

/** Takes what changed into what is known, by key; the newest run first. */
export function merge(known: ReadonlyMap<string, RunSummary>, delta: RunsDelta): Map<string, RunSummary> {
  const merged = new Map(delta.full ? [] : known);
  for (const run of delta.changed) merged.set(run.key, run);
  for (const key of delta.removed) merged.delete(key);
  return merged;
}

export type GroupBy = "experiment" | "status" | "tag";

export interface Asked {
  search: (text: string) => boolean;
  experiment: string | null;
  /** An id, with a hyphen in front of it the other way round. */
  sort: string;
  group: GroupBy | null;
  /** Names of groups that are folded. */
  folded: ReadonlySet<string>;
}

/** With an id of its own: a run with two tags is in two groups. */
export type Row =
  | { kind: "run"; id: string; run: RunSummary }
  | { kind: "group"; id: string; name: string; runs: RunSummary[]; folded: boolean };

const text = (r: RunSummary): string =>
  `${r.id} ${r.display_name ?? ""} ${r.problem ? "unreadable" : r.status} ${r.tags.join(" ")} ${r.host ?? ""} ${r.description ?? ""}`;

export function found(runs: Iterable<RunSummary>, asked: Asked, nowMs: number): RunSummary[] {
  const list: RunSummary[] = [];
  for (const run of runs)
    if ((asked.experiment === null || run.experiment === asked.experiment) && asked.search(text(run))) list.push(run);
  const down = asked.sort.startsWith("-");
  const column = columnOf(asked.sort.replace(/^-/, "")) ?? (BUILT_IN.find((c) => c.id === "started") as RunColumn);
  // Keys are made once: making them in every comparison would cost most of the time.
  const keyed = list.map((run) => ({ run, by: column.sort(run, nowMs) }));
  keyed.sort((a, b) => compare(a.by, b.by, down) || (a.run.key < b.run.key ? -1 : 1));
  return keyed.map(({ run }) => run);
}

function compare(a: number | string | null, b: number | string | null, down: boolean): number {
  const none = (v: number | string | null): boolean => v === null || (typeof v === "number" && Number.isNaN(v));
  if (none(a) || none(b)) return Number(none(a)) - Number(none(b));
  // Names and numbers in one column: numbers first.
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  const by = (a as number) < (b as number) ? -1 : (a as number) > (b as number) ? 1 : 0;
  return down ? -by : by;
}

export function rows(list: RunSummary[], asked: Asked): Row[] {
  if (asked.group === null) return list.map((run) => ({ kind: "run", id: run.key, run }));
  const groups = new Map<string, RunSummary[]>();
  for (const run of list) {
    for (const name of namesOf(run, asked.group)) {
      const own = groups.get(name);
      if (own) own.push(run);
      else groups.set(name, [run]);
    }
  }
  return [...groups].flatMap(([name, runs]): Row[] => {
    const folded = asked.folded.has(name);
    const head: Row = { kind: "group", id: `group ${name}`, name, runs, folded };
    return folded ? [head] : [head, ...runs.map((run): Row => ({ kind: "run", id: `${run.key} ${name}`, run }))];
  });
}

function namesOf(run: RunSummary, by: GroupBy): string[] {
  if (by === "experiment") return [run.experiment];
  if (by === "status") return [run.problem ? "unreadable" : run.status];
  return run.tags.length > 0 ? run.tags : ["no tag"];
}

/** A line of a sparkline in a box of this size. */
export function sparkPath(values: number[], width: number, height: number): string {
  const there = values.filter((v) => Number.isFinite(v));
  if (there.length < 2) return "";
  const [low, high] = [Math.min(...there), Math.max(...there)];
  const y = (v: number): number => (high === low ? height / 2 : height - ((v - low) / (high - low)) * height);
  let pen = "M";
  return values
    .map((v, i) => {
      if (!Number.isFinite(v)) return "";
      const part = `${pen}${((i / (values.length - 1)) * width).toFixed(1)} ${y(v).toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}
