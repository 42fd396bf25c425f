/** How the ranks of a run stand beside each other. Pure, but for what `StepTimes` remembers. */

import type { Grid } from "./grid";
import type { RankEntry, RunDetail } from "./types";

/** A rank whose steps take this much longer than the median is a straggler. */
export const STRAGGLER_OVER = 0.2;
/** A rank is heard of at least this often; a heartbeat older than that is told. */
export const HEARTBEAT_OLD_SECS = 15;

export interface RankRow {
  rank: number;
  entry: RankEntry;
  /** Processes that this rank has had. */
  attempts: number;
  /** Time of a step in milliseconds. */
  stepMs: number | null;
  /** How much longer than the median, as a fraction. */
  over: number | null;
  straggler: boolean;
  silentSecs: number | null;
  heartbeatSecs: number | null;
  dropped: number;
  /** It was missing in the last flush. */
  missing: boolean;
}

export function rankRows(run: Pick<RunDetail, "ranks" | "last_flush">, stepMs: ReadonlyMap<number, number>, nowMs: number): RankRow[] {
  const middle = median([...stepMs.values()]);
  const age = (time: string | null): number | null => (time ? Math.max(0, (nowMs - Date.parse(time)) / 1000) : null);
  const rows = Object.entries(run.ranks).flatMap(([name, entries]): RankRow[] => {
    const entry = entries.at(-1);
    if (!entry) return [];
    const rank = Number(name);
    const own = stepMs.get(rank) ?? null;
    const over = own !== null && middle !== null && middle > 0 ? own / middle - 1 : null;
    return [
      {
        rank,
        entry,
        attempts: entries.length,
        stepMs: own,
        over,
        straggler: stepMs.size > 1 && over !== null && over > STRAGGLER_OVER && entry.state !== "lost",
        silentSecs: age(entry.silent_since),
        heartbeatSecs: entry.state === "live" ? age(entry.last_seen) : null,
        dropped: Object.values(entry.dropped).reduce((a, b) => a + b, 0),
        missing: run.last_flush?.missing.includes(rank) ?? false,
      },
    ];
  });
  return rows.sort((a, b) => a.rank - b.rank);
}

export function median(values: number[]): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? (sorted[middle] as number) : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

const STEP_TIME = /(^|[/_.-])(step|iter|iteration|batch)[_-]?(time|ms|secs?|seconds|duration|latency)([/_.-]|$)/i;

/** The metric that says how long a step takes, and what a unit of it is in milliseconds. */
export function stepMetric(keys: Iterable<string>): { key: string; unitMs: number } | null {
  for (const key of [...keys].sort((a, b) => a.length - b.length || (a < b ? -1 : 1)))
    if (STEP_TIME.test(key)) return { key, unitMs: /ms(\W|_|$)|milli/i.test(key) ? 1 : 1000 };
  return null;
}

/** Buckets at the end of a series that count as now. */
const RECENT = 16;

/** The latest step times by rank from the metric that tells of them. */
export function fromGrid(grid: Grid, unitMs: number): Map<number, number> {
  const found = new Map<number, number>();
  for (const rank of grid.ranks()) {
    const c = grid.column(rank);
    const recent: number[] = [];
    for (let i = grid.length - 1; i >= 0 && recent.length < RECENT; i--)
      if ((c.n[i] as number) > 0) recent.push((c.sum[i] as number) / (c.n[i] as number));
    const own = median(recent);
    if (own !== null) found.set(rank, own * unitMs);
  }
  return found;
}

/** Step times from what the run's record says of each rank, for runs that log none. */
export class StepTimes {
  private readonly seen = new Map<string, { step: number; ms: number }[]>();

  observe(ranks: RunDetail["ranks"]): Map<number, number> {
    const found = new Map<number, number>();
    for (const [rank, entries] of Object.entries(ranks)) {
      const entry = entries.at(-1);
      if (!entry || entry.last_step === null || !entry.last_step_at) continue;
      const now = { step: entry.last_step, ms: Date.parse(entry.last_step_at) };
      const name = `${rank} ${entry.incarnation}`;
      const list = this.seen.get(name) ?? [];
      if (list.at(-1)?.step !== now.step) list.push(now);
      if (list.length > 8) list.shift();
      this.seen.set(name, list);
      const first = list[0];
      const joined = entry.joined_at ? Date.parse(entry.joined_at) : Number.NaN;
      const steps = first ? now.step - first.step : 0;
      if (first && steps > 0) found.set(Number(rank), (now.ms - first.ms) / steps);
      else if (now.step > 0 && entries.length === 1 && now.ms > joined) found.set(Number(rank), (now.ms - joined) / now.step);
    }
    return found;
  }
}
