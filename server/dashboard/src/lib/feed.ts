/** All data of one run on the page: fetched once, then followed. */

import * as api from "./api";
import type { Connection } from "./badge";
import { LogBuffer } from "./logbuffer";
import { SeriesStore } from "./series";
import { Stream } from "./stream";
import type { LogFile, RunDetail } from "./types";

const RETRY_MS = 2000;
/** A run that the server can not read is tried again after this long. */
const DAMAGED_RETRY_MS = 10_000;

export interface FeedHooks {
  detail(detail: RunDetail): void;
  /** A metric or a rank of one appeared. */
  keys(): void;
  /** A metric's latest text changed. */
  texts(): void;
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
  readonly store = new SeriesStore();
  readonly log = new LogBuffer();
  private logFile: LogFile = "console";
  private logRank: number | null = null;
  private readonly charts = new Map<string, Set<() => void>>();
  private readonly stream: Stream;
  private readonly stopped = new AbortController();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private logsTimer: ReturnType<typeof setTimeout> | null = null;
  private logsAsked = 0;

  constructor(
    readonly key: string,
    private readonly live: boolean,
    private readonly hooks: FeedHooks,
  ) {
    this.stream = new Stream(key, {
      metrics: (frame) => {
        this.hooks.heard();
        const { changed, fresh, texts } = this.store.take(frame);
        if (fresh) this.hooks.keys();
        if (texts) this.hooks.texts();
        for (const key of changed) this.tell(key);
      },
      logs: (frame) => {
        this.hooks.heard();
        if (frame.file !== this.logFile) return;
        if (this.log.add(frame.lines, frame.cursor, this.logRank)) this.hooks.lines();
      },
      state: (detail) => {
        this.hooks.heard();
        this.hooks.detail(detail);
      },
      reset: () => void this.load(),
      connection: (now) => this.hooks.connection(now),
    });
  }

  start(): void {
    void this.load();
  }

  stop(): void {
    this.stopped.abort();
    this.stream.close();
    if (this.timer !== null) clearTimeout(this.timer);
    if (this.logsTimer !== null) clearTimeout(this.logsTimer);
  }

  /** Calls back when points of this metric arrive; the result ends it. */
  onPoints(key: string, listener: () => void): () => void {
    let listeners = this.charts.get(key);
    if (!listeners) {
      listeners = new Set();
      this.charts.set(key, listeners);
    }
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  showLog(file: LogFile, rank: number | null): void {
    this.logFile = file;
    this.logRank = rank;
    this.log.clear();
    this.hooks.lines();
    void this.loadLogs();
  }

  private tell(key: string): void {
    for (const listener of this.charts.get(key) ?? []) listener();
  }

  private async load(): Promise<void> {
    const signal = this.stopped.signal;
    try {
      const detail = await api.detail(this.key, signal);
      this.hooks.heard();
      this.hooks.detail(detail);
      const metrics = await api.metrics(this.key, signal);
      const before = [...this.store.grids.keys()];
      this.store.clear();
      this.store.take(metrics);
      this.hooks.keys();
      this.hooks.texts();
      for (const key of new Set([...before, ...this.store.grids.keys()])) this.tell(key);
      if (this.live) this.stream.open(metrics.cursor);
      else this.hooks.connection("off");
    } catch (error) {
      if (signal.aborted) return;
      const status = error instanceof api.ApiError ? error.status : 0;
      this.hooks.failed(error);
      // A run that is not there does not come back by asking again and again.
      if (status >= 400 && status < 500) return;
      if (status === 0) this.hooks.connection("lost");
      this.timer = setTimeout(() => void this.load(), status === 0 ? RETRY_MS : DAMAGED_RETRY_MS);
      if (status === 0) return;
    }
    // Fetched behind the stream's cursor, so that the two overlap and leave no gap.
    this.log.clear();
    await this.loadLogs();
  }

  private async loadLogs(): Promise<void> {
    const asked = ++this.logsAsked;
    if (this.logsTimer !== null) clearTimeout(this.logsTimer);
    try {
      const answer = await api.logs(this.key, this.logFile, this.logRank, this.stopped.signal);
      if (asked !== this.logsAsked) return;
      this.log.replace(answer.lines, answer.cursor);
      this.hooks.lines();
    } catch (error) {
      if (this.stopped.signal.aborted || asked !== this.logsAsked) return;
      this.hooks.failed(error);
      const wait = error instanceof api.ApiError && error.status >= 500 ? DAMAGED_RETRY_MS : RETRY_MS;
      this.logsTimer = setTimeout(() => void this.loadLogs(), wait);
    }
  }
}
