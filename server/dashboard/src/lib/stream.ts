/** The tab's one event stream: opened again by itself, closed while the tab is hidden. */

import { streamUrl } from "./api";
import type { Connection } from "./badge";
import type { LogsFrame, MetricsAnswer, RunDetail } from "./types";

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 15_000;

export interface StreamHooks {
  metrics(frame: MetricsAnswer): void;
  logs(frame: LogsFrame): void;
  state(detail: RunDetail): void;
  /** The server can not go on from our cursor: fetch everything again, then `open` from there. */
  reset(): void;
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

  constructor(
    private readonly key: string,
    private readonly hooks: StreamHooks,
  ) {
    document.addEventListener("visibilitychange", this.onVisibility);
    addEventListener("pagehide", this.onPageHide);
  }

  /** Follows the run from this cursor on. */
  open(cursor: string): void {
    this.cursor = cursor;
    this.connect();
  }

  close(): void {
    this.closed = true;
    this.disconnect();
    document.removeEventListener("visibilitychange", this.onVisibility);
    removeEventListener("pagehide", this.onPageHide);
  }

  private readonly onVisibility = (): void => {
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
    if (this.closed || this.cursor === null || document.hidden) return;
    const source = new EventSource(streamUrl(this.key, this.cursor));
    this.source = source;
    source.onopen = () => {
      this.retry = RETRY_FIRST_MS;
      this.hooks.connection("open");
    };
    source.onerror = () => {
      this.hooks.connection("lost");
      // The browser tries again by itself, unless the answer was a refusal.
      if (source.readyState === EventSource.CLOSED) this.later();
    };
    this.on(source, "metrics", (frame) => this.hooks.metrics(frame as MetricsAnswer));
    this.on(source, "logs", (frame) => this.hooks.logs(frame as LogsFrame));
    this.on(source, "state", (frame) => this.hooks.state(frame as RunDetail));
    source.addEventListener("reset", () => {
      this.disconnect();
      this.cursor = null;
      this.hooks.reset();
    });
  }

  private on(source: EventSource, name: string, take: (frame: unknown) => void): void {
    source.addEventListener(name, (event: MessageEvent<string>) => {
      take(JSON.parse(event.data));
      if (event.lastEventId) this.cursor = event.lastEventId;
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
