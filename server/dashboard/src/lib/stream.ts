/** The tab's one event stream: opened again by itself, closed while the tab is hidden. */

import type { Connection } from "./badge";
import type { LogsFrame, MetricsAnswer, RunDetail, RunsDelta } from "./types";

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 15_000;

/** A stream for several runs says which one an event is about. */
export type Of<T> = T & { run?: string };

export interface StreamHooks {
  metrics?(frame: Of<MetricsAnswer>): void;
  logs?(frame: Of<LogsFrame>): void;
  state?(detail: Of<RunDetail>): void;
  /** What changed in the list of runs. */
  runs?(delta: RunsDelta): void;
  /** The server could not go on from our cursor and begins anew: fetch everything again. */
  reset?(run: string | undefined): void;
  /** The first event of a stream that was opened without a cursor: what came before it is not sent. */
  begun?(cursor: string): void;
  connection(now: Connection): void;
}

/**
 * Every event's id is the cursor behind it, so whatever cuts the connection, the next one goes on
 * from the last event that was taken in: no gap, and nothing twice.
 */
export class Stream {
  private source: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private retry = RETRY_FIRST_MS;
  private cursor: string | null = null;
  private closed = false;
  private started = false;

  constructor(
    private readonly url: (cursor: string | null) => string,
    private readonly hooks: StreamHooks,
  ) {
    document.addEventListener("visibilitychange", this.onVisibility);
    addEventListener("pagehide", this.onPageHide);
  }

  /** Follows from now on. */
  open(): void {
    this.started = true;
    this.connect();
  }

  close(): void {
    this.closed = true;
    this.disconnect();
    document.removeEventListener("visibilitychange", this.onVisibility);
    removeEventListener("pagehide", this.onPageHide);
  }

  private readonly onVisibility = (): void => {
    if (!this.started) return;
    if (document.hidden) {
      this.disconnect();
      this.hooks.connection("paused");
    } else {
      this.connect();
    }
  };

  private readonly onPageHide = (): void => this.disconnect();

  private connect(): void {
    this.disconnect();
    if (this.closed || document.hidden) return;
    const source = new EventSource(this.url(this.cursor));
    this.source = source;
    source.onopen = () => {
      this.retry = RETRY_FIRST_MS;
      this.hooks.connection("open");
    };
    source.onerror = () => {
      this.hooks.connection("lost");
      // The browser tries again by itself, unless the answer was a refusal; it knows of no cursor
      // before the first event.
      if (source.readyState === EventSource.CLOSED) this.later();
    };
    this.on(source, "metrics", (frame) => this.hooks.metrics?.(frame as Of<MetricsAnswer>));
    this.on(source, "logs", (frame) => this.hooks.logs?.(frame as Of<LogsFrame>));
    this.on(source, "state", (frame) => this.hooks.state?.(frame as Of<RunDetail>));
    this.on(source, "runs", (frame) => this.hooks.runs?.(frame as RunsDelta));
    this.on(source, "reset", (frame) => this.hooks.reset?.((frame as Of<object>).run));
  }

  private on(source: EventSource, name: string, take: (frame: unknown) => void): void {
    source.addEventListener(name, (event: MessageEvent<string>) => {
      if (event.lastEventId) {
        if (this.cursor === null) this.hooks.begun?.(event.lastEventId);
        this.cursor = event.lastEventId;
      }
      take(JSON.parse(event.data));
    });
  }

  private later(): void {
    this.disconnect();
    this.timer = setTimeout(() => this.connect(), this.retry);
    this.retry = Math.min(this.retry * 2, RETRY_MAX_MS);
  }

  private disconnect(): void {
    this.source?.close();
    this.source = null;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }
}
