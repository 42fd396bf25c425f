/** Several runs on one page: each its series, all of them over one stream. */

import * as api from "./api";
import { type BadgeFacts, type Connection, listState } from "./badge";
import { type ChartHost, type Choice, type Facts, lookAt } from "./charthost";
import { type ChartLook, type Compared, type Drawing, drawRuns } from "./drawing";
import { value } from "./format";
import { choicesOf } from "./runcharts";
import { SeriesStore } from "./series";
import { server } from "./server.svelte";
import { clock } from "./status.svelte";
import { Stream } from "./stream";
import type { RunDetail } from "./types";

/** Without a stream runs that are written are asked for anew this often. */
const POLL_MS = 5000;
const STREAM_WAIT_MS = 1500;

export class CompareModel implements ChartHost {
  details = $state.raw<ReadonlyMap<string, RunDetail>>(new Map());
  configs = $state.raw<ReadonlyMap<string, unknown>>(new Map());
  failures = $state.raw<ReadonlyMap<string, string>>(new Map());
  keys = $state(0);
  connection = $state<Connection>("connecting");
  heardMs = $state<number | null>(null);
  private readonly stores = new Map<string, SeriesStore>();
  private readonly charts = new Map<string, Set<() => void>>();
  private readonly stopped = new AbortController();
  private readonly stream: Stream;
  private along: string | null = null;
  private polling: ReturnType<typeof setInterval> | null = null;
  private waiting: ReturnType<typeof setTimeout> | null = null;

  constructor(
    readonly runs: readonly string[],
    private readonly live: boolean,
  ) {
    for (const run of runs) {
      const store = new SeriesStore({
        fetch: (wanted) => api.series(run, { ...wanted, merge: true }, this.stopped.signal),
        points: (key) => this.tell(key),
        keys: () => (this.keys += 1),
        failed: (error) => this.fail(run, error),
      });
      this.stores.set(run, store);
    }
    this.stream = new Stream((cursor) => api.streamsUrl(runs, cursor), {
      metrics: (frame) => {
        this.heardMs = Date.now();
        this.of(frame.run)?.frame(frame);
      },
      state: (detail) => {
        this.heardMs = Date.now();
        this.know(detail.run ?? detail.key, detail);
      },
      begun: (cursor) => {
        // `KEY:CURSOR;KEY:CURSOR;`
        for (const part of cursor.split(";")) {
          const [run = "", at = ""] = part.split(":");
          this.stores.get(run)?.resync(at);
        }
        this.begin();
      },
      reset: (run) => this.of(run)?.reload(),
      connection: (now) => {
        if (now === "open" && this.connection === "lost") void server.ask();
        this.connection = now;
      },
    });
  }

  start(): void {
    if (this.live) {
      this.stream.open();
      this.waiting = setTimeout(() => this.begin(), STREAM_WAIT_MS);
      this.polling = setInterval(() => this.poll(), POLL_MS);
    } else {
      this.connection = "off";
      this.begin();
    }
    for (const run of this.runs) void this.load(run);
  }

  stop(): void {
    this.stopped.abort();
    this.stream.close();
    for (const store of this.stores.values()) store.stop();
    if (this.polling !== null) clearInterval(this.polling);
    if (this.waiting !== null) clearTimeout(this.waiting);
  }

  get facts(): BadgeFacts {
    const lost = this.connection === "lost" ? "The server does not answer" : null;
    const now = clock.nowMs;
    return listState(this.live, this.heardMs, lost, now, server.restarted(now));
  }

  names(): string[] {
    return [...new Set([...this.stores.values()].flatMap((s) => [...s.known.values()].filter((k) => !k.text).map((k) => k.key)))];
  }

  use(key: string): void {
    for (const store of this.stores.values()) if (store.known.has(key)) store.use(key);
  }

  unuse(key: string): void {
    for (const store of this.stores.values()) store.unuse(key);
  }

  onPoints(key: string, listener: () => void): () => void {
    const own = this.charts.get(key) ?? new Set();
    this.charts.set(key, own.add(listener));
    return () => own.delete(listener);
  }

  setAlong(key: string | null, changed: () => void): () => void {
    this.along = key;
    return key === null ? () => undefined : lookAt(this, key, changed);
  }

  draw(key: string, look: ChartLook): { drawing: Drawing; facts: Facts } | null {
    const compared: Compared[] = [];
    const latest: string[] = [];
    let [bad, bucket, waiting] = [0, 1, false];
    this.runs.forEach((run, n) => {
      const store = this.stores.get(run);
      const entry = store?.entries.get(key);
      if (!entry) return;
      if (entry.state !== "ready" && entry.grid.length === 0) waiting = true;
      const detail = this.details.get(run);
      const other = this.along === null ? undefined : store?.entries.get(this.along)?.grid;
      const context = { startMs: Date.parse(detail?.started_at ?? "") || 0, other };
      compared.push({ name: this.nameOf(run), look: n, grid: entry.grid, context });
      bucket = Math.max(bucket, entry.grid.width);
      for (const c of entry.grid.whole()) {
        bad += c.nonFinite;
        if (c.lastValue !== null) latest.push(value(c.lastValue));
      }
    });
    if (compared.length === 0 || (waiting && compared.every((c) => c.grid.length === 0))) return null;
    const facts: Facts = {
      latest: compared.length === 1 ? (latest[0] ?? "") : "",
      points: compared.reduce((n, { grid }) => n + grid.whole().reduce((m, c) => m + c.points, 0), 0),
      bucket,
      nonFinite: bad > 0 ? `${bad} values` : "",
      empty: compared.every((c) => c.grid.length === 0),
      texts: [],
    };
    return { drawing: drawRuns(compared, look), facts };
  }

  async choices(key: string, step: number): Promise<Choice[]> {
    const found = await Promise.all(
      this.runs.map(async (run): Promise<Choice[]> => {
        const width = this.stores.get(run)?.entries.get(key)?.grid.width ?? 1;
        const from = Math.floor(step / width) * width;
        const answer = await api.series(run, { keys: [key], from, to: from + width - 1, maxPoints: 64 }, this.stopped.signal);
        const first = choicesOf(run, answer.series.filter((s) => s.kind === "number" && s.length > 0))[0];
        return first ? [{ ...first, label: `${this.nameOf(run)}: ${first.label.toLowerCase()}` }] : [];
      }),
    );
    return found.flat();
  }

  nameOf(run: string): string {
    const detail = this.details.get(run);
    return detail?.display_name || detail?.name || run;
  }

  private of(run: string | undefined): SeriesStore | undefined {
    return this.stores.get(run ?? (this.runs[0] as string));
  }

  private begin(): void {
    if (this.waiting !== null) clearTimeout(this.waiting);
    for (const store of this.stores.values()) store.begin();
  }

  private poll(): void {
    if (this.connection === "open" || document.hidden) return;
    for (const run of this.runs) if (this.details.get(run)?.live) void this.load(run).then(() => this.stores.get(run)?.reload());
  }

  private tell(key: string): void {
    for (const listener of this.charts.get(key) ?? []) listener();
  }

  private know(run: string, detail: RunDetail): void {
    const metrics = detail.metrics ?? this.details.get(run)?.metrics;
    this.details = new Map(this.details).set(run, metrics ? { ...detail, metrics } : detail);
  }

  private fail(run: string, error: unknown): void {
    if (this.stopped.signal.aborted) return;
    this.failures = new Map(this.failures).set(run, error instanceof Error ? error.message : String(error));
  }

  private async load(run: string): Promise<void> {
    const signal = this.stopped.signal;
    try {
      const [detail, keys, config] = await Promise.all([api.detail(run, signal), api.keys(run, signal), api.config(run, signal)]);
      this.heardMs = Date.now();
      this.know(run, detail);
      this.configs = new Map(this.configs).set(run, config);
      this.stores.get(run)?.takeKeys(keys);
      // A chart may have been asked for by a run that was there earlier.
      for (const key of this.charts.keys()) if ((this.charts.get(key)?.size ?? 0) > 0 && !this.stores.get(run)?.entries.has(key)) this.stores.get(run)?.use(key);
      const failures = new Map(this.failures);
      if (failures.delete(run)) this.failures = failures;
    } catch (error) {
      this.fail(run, error);
    }
  }
}
