/** One run on the screen: what is state, around the feed that holds what is not. */

import { badge, type BadgeFacts, type Connection } from "./badge";
import { RunFeed } from "./feed";
import { fromGrid, rankRows, type RankRow, stepMetric, StepTimes } from "./ranks";
import { server } from "./server.svelte";
import { clock } from "./status.svelte";
import type { RunDetail } from "./types";

export class RunModel {
  detail = $state.raw<RunDetail | null>(null);
  connection = $state<Connection>("connecting");
  heardMs = $state<number | null>(null);
  failure = $state<string | null>(null);
  /** Grow when metrics appear and when lines change: what they count is held elsewhere. */
  keys = $state(0);
  lines = $state(0);
  /** Milliseconds of a step, by rank. */
  stepMs = $state.raw<ReadonlyMap<number, number>>(new Map());
  readonly feed: RunFeed;
  private readonly times = new StepTimes();
  private told: { key: string; unitMs: number } | null = null;
  private untold: (() => void) | null = null;

  constructor(
    readonly key: string,
    live: boolean,
  ) {
    this.feed = new RunFeed(key, live, {
      detail: (next) => {
        // The stream leaves the summaries of metrics out.
        const metrics = next.metrics ?? this.detail?.metrics;
        this.detail = metrics ? { ...next, metrics } : next;
        this.failure = null;
        this.reckon();
      },
      keys: () => {
        this.keys += 1;
        this.follow();
      },
      lines: () => (this.lines += 1),
      connection: (now) => {
        if (now === "open" && this.connection === "lost") void server.ask();
        this.connection = now;
      },
      heard: () => (this.heardMs = Date.now()),
      failed: (error) => (this.failure = error instanceof Error ? error.message : String(error)),
    });
  }

  start(): void {
    this.feed.start();
  }

  stop(): void {
    this.untold?.();
    this.feed.stop();
  }

  get facts(): BadgeFacts {
    return badge(this.detail, this.connection, this.heardMs, clock.nowMs, server.restarted(clock.nowMs));
  }

  readonly rows: RankRow[] = $derived.by(() => (this.detail ? rankRows(this.detail, this.stepMs, clock.nowMs) : []));

  /** Looks at the metric that tells of step times, as soon as there is one. */
  private follow(): void {
    if (this.told) return;
    this.told = stepMetric(this.feed.store.known.keys());
    if (!this.told) return;
    const { key } = this.told;
    this.feed.store.use(key);
    const unfollow = this.feed.onPoints(key, () => this.reckon());
    this.untold = () => {
      unfollow();
      this.feed.store.unuse(key);
    };
  }

  private reckon(): void {
    const observed = this.times.observe(this.detail?.ranks ?? {});
    const entry = this.told && this.feed.store.entries.get(this.told.key);
    const measured = entry && this.told ? fromGrid(entry.grid, this.told.unitMs) : new Map<number, number>();
    this.stepMs = measured.size > 0 ? measured : observed;
  }
}
