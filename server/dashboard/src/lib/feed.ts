/** All data of one run on the page: fetched when it is looked at, then followed. */

import * as api from "./api";
import type { Connection } from "./badge";
import { LogFeed } from "./logfeed";
import { SeriesStore } from "./series";
import { Stream } from "./stream";
import type { RunDetail } from "./types";

const RETRY_MS = 2000;
/** A run that the server can not read is tried again after this long. */
const DAMAGED_RETRY_MS = 10_000;
/** Series are asked for without a stream when none has begun by then. */
const STREAM_WAIT_MS = 1500;

export interface FeedHooks {
  detail(detail: RunDetail): void;
  /** A metric appeared. */
  keys(): void;
  lines(): void;
  connection(now: Connection): void;
  heard(): void;
  failed(error: unknown): void;
}

/**
 * Holds the series and the log outside of framework state; components are told what changed and
 * read what they show from here.
 */
export class RunFeed {
  readonly store: SeriesStore;
  readonly log: LogFeed;
  private readonly charts = new Map<string, Set<() => void>>();
  private readonly stream: Stream;
  private readonly stopped = new AbortController();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private waiting: ReturnType<typeof setTimeout> | null = null;

  constructor(
    readonly key: string,
    private readonly live: boolean,
    private readonly hooks: FeedHooks,
  ) {
    const failed = (error: unknown): void => {
      if (!this.stopped.signal.aborted) this.hooks.failed(error);
    };
    this.store = new SeriesStore({
      fetch: (wanted) => api.series(key, wanted, this.stopped.signal),
      points: (metric) => this.tell(metric),
      keys: () => this.hooks.keys(),
      failed: (error) => {
        failed(error);
        this.later(error);
      },
    });
    this.log = new LogFeed((wanted) => api.logs(key, wanted, this.stopped.signal), {
      lines: () => this.hooks.lines(),
      failed,
    });
    this.stream = new Stream((cursor) => api.streamUrl(key, cursor), {
      metrics: (frame) => {
        this.hooks.heard();
        this.store.frame(frame);
      },
      logs: (frame) => {
        this.hooks.heard();
        this.log.frame(frame);
      },
      state: (detail) => {
        this.hooks.heard();
        this.hooks.detail(detail);
      },
      begun: (cursor) => {
        this.store.resync(cursor);
        this.log.resync();
        this.begin();
      },
      reset: () => {
        this.store.reload();
        this.log.reload();
        void this.load();
      },
      connection: (now) => this.hooks.connection(now),
    });
  }

  start(): void {
    if (this.live) {
      this.stream.open();
      this.waiting = setTimeout(() => this.begin(), STREAM_WAIT_MS);
    } else {
      this.hooks.connection("off");
      this.begin();
    }
    void this.load();
  }

  stop(): void {
    this.stopped.abort();
    this.stream.close();
    this.store.stop();
    this.log.stop();
    if (this.timer !== null) clearTimeout(this.timer);
    if (this.waiting !== null) clearTimeout(this.waiting);
  }

  /** Calls back when points of this metric arrive; the result ends it. */
  onPoints(key: string, listener: () => void): () => void {
    let listeners = this.charts.get(key);
    if (!listeners) {
      listeners = new Set();
      this.charts.set(key, listeners);
    }
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.charts.delete(key);
    };
  }

  private begin(): void {
    if (this.waiting !== null) clearTimeout(this.waiting);
    this.waiting = null;
    this.store.begin();
    this.log.begin();
  }

  private tell(key: string): void {
    for (const listener of this.charts.get(key) ?? []) listener();
  }

  private async load(): Promise<void> {
    const signal = this.stopped.signal;
    try {
      this.hooks.detail(await api.detail(this.key, signal));
      this.hooks.heard();
      this.store.takeKeys(await api.keys(this.key, signal));
    } catch (error) {
      if (signal.aborted) return;
      this.hooks.failed(error);
      this.later(error);
    }
  }

  /** Tries again what failed, unless asking again can not help. */
  private later(error: unknown): void {
    const status = error instanceof api.ApiError ? error.status : 0;
    if (status >= 400 && status < 500) return;
    if (status === 0) this.hooks.connection("lost");
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(
      () => {
        void this.load();
        this.store.reload();
      },
      status === 0 ? RETRY_MS : DAMAGED_RETRY_MS,
    );
  }
}
