/** When names that columns are made of are asked for again. Pure, but for what `LateNames` remembers. */

import type { ColumnNames, RunsDelta } from "./types";

/** Whether what changed may bring names: a run that logs, or one that came or went. */
export const mayName = (delta: RunsDelta): boolean => delta.full || delta.changed.length > 0 || delta.removed.length > 0;

/** The trend that is shown when nobody chose one: the plainest loss, or the first there is. */
export function usualMetric(metrics: readonly string[]): string {
  const losses = metrics.filter((name) => /loss/i.test(name));
  return losses.sort((a, b) => a.length - b.length)[0] ?? metrics[0] ?? "";
}

/** Asks at once, and what is told meanwhile once more after a while: runs log much more often than they bring names. */
export class LateNames {
  private last = Number.NEGATIVE_INFINITY;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private asked = 0;

  constructor(
    private readonly fetch: () => Promise<ColumnNames>,
    private readonly took: (names: ColumnNames) => void,
    private readonly failed: (error: Error) => void,
    private readonly periodMs: number,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** Asks, whenever that was last done. */
  ask(): void {
    this.stop();
    this.last = this.now();
    const asked = ++this.asked;
    this.fetch().then(
      (names) => asked === this.asked && this.took(names),
      (error: Error) => asked === this.asked && this.failed(error),
    );
  }

  /** There may be new names. */
  mark(): void {
    this.timer ??= setTimeout(() => this.ask(), Math.max(0, this.last + this.periodMs - this.now()));
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.asked += 1;
  }
}
