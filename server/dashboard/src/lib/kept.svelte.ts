/** What a component fetches by stamp, as state, stopped with it. */

import { Kept } from "./kept";

export class Fetched<T> {
  value = $state.raw<T | null>(null);
  problem = $state<string | null>(null);
  private readonly kept: Kept<T>;

  constructor(fetch: (signal: AbortSignal) => Promise<T>) {
    this.kept = new Kept(
      fetch,
      (value) => {
        this.value = value;
        this.problem = null;
      },
      (error) => (this.problem = error instanceof Error ? error.message : String(error)),
    );
  }

  stamp(now: string): void {
    this.kept.stamp(now);
  }

  stop(): void {
    this.kept.stop();
  }
}
