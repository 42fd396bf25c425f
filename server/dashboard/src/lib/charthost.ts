/** What a chart asks of the page it stands on: a run's, or a comparison of several. */

import type { ChartLook, Drawing } from "./drawing";

/** Short facts for a chart's head, as of the last drawing. */
export interface Facts {
  latest: string;
  /** Points that are in it, over all ranks. */
  points: number;
  /** Steps that one point of the chart covers. */
  bucket: number;
  nonFinite: string;
  /** The series are there, and there is nothing to draw. */
  empty: boolean;
  /** Latest texts of a metric that logs no numbers. */
  texts: [rank: number, text: string][];
}

/** Where a point of a chart leads. */
export interface Choice {
  label: string;
  value: string;
  href: string;
}

export interface ChartHost {
  use(key: string): void;
  unuse(key: string): void;
  onPoints(key: string, listener: () => void): () => void;
  /** Null while the series are on their way. */
  draw(key: string, look: ChartLook): { drawing: Drawing; facts: Facts } | null;
  /** Whose lines are worth reading at this point. */
  choices(key: string, step: number, rank: number | null): Promise<Choice[]>;
}

/** Has a metric looked at, as long as what this returns is not called. */
export function lookAt(
  host: Pick<ChartHost, "use" | "unuse" | "onPoints">,
  key: string,
  changed: () => void,
): () => void {
  host.use(key);
  const unfollow = host.onPoints(key, changed);
  return () => {
    unfollow();
    host.unuse(key);
  };
}
