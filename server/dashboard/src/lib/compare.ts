/** What differs between runs, and which is best. Pure. */

import { flatten } from "./format";
import type { MetricSummary, RunDetail } from "./types";

export interface DiffRow {
  name: string;
  /** One for each run; null where it is not set. */
  values: (string | null)[];
  changed: boolean;
}

/** All parameters of all runs, in order of name. */
export function configDiff(configs: unknown[]): DiffRow[] {
  const flat = configs.map((tree) => new Map(tree === null ? [] : flatten(tree)));
  const names = [...new Set(flat.flatMap((map) => [...map.keys()]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return names.map((name) => {
    const values = flat.map((map) => map.get(name) ?? null);
    return { name, values, changed: new Set(values).size > 1 };
  });
}

export type Goal = "min" | "max";

export interface BestRow {
  metric: string;
  goal: Goal;
  values: (number | null)[];
  /** Which of the runs; null when none has a value. */
  best: number | null;
}

const RISING = /acc|accuracy|f1|auc|precision|recall|score|reward|throughput|bleu|rouge|map|iou|per_sec|_ps$/i;

/** Of most metrics less is better; their names tell of the others. */
export const goalOf = (metric: string): Goal => (RISING.test(metric) ? "max" : "min");

/** The best value that each run ever had of each metric. */
export function best(runs: (Pick<RunDetail, "metrics"> | null)[], goals: Readonly<Record<string, Goal>>): BestRow[] {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run?.metrics ?? {})))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return names.flatMap((metric): BestRow[] => {
    const goal = goals[metric] ?? goalOf(metric);
    const of = (m: MetricSummary | undefined): number | null => (m ? (goal === "min" ? m.min : m.max) : null);
    const values = runs.map((run) => of(run?.metrics?.[metric]));
    let first: number | null = null;
    values.forEach((v, i) => {
      const now = first === null ? null : (values[first] as number);
      if (v !== null && (now === null || (goal === "min" ? v < now : v > now))) first = i;
    });
    return values.every((v) => v === null) ? [] : [{ metric, goal, values, best: first }];
  });
}
