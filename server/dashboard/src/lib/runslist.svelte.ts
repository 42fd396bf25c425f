/** All runs, as the tab's stream tells of them; asked for where there is none. */

import * as api from "./api";
import { SILENCE_MAX_MS } from "./badge";
import { LateNames, mayName } from "./latenames";
import { merge } from "./runtable";
import { server } from "./server.svelte";
import { Stream } from "./stream";
import type { ColumnNames, RunsDelta, RunSummary, Sparklines } from "./types";

/** Without a word from the stream the list is asked for this often. */
const POLL_MS = 2000;
const LOOK_MS = 1000;
/** Runs of one question for sparklines, and how long what was answered is believed of a live run. */
const SPARKS_MAX = 100;
const SPARK_AGE_MS = 15_000;
/** How often names are asked for while runs tell of changes. */
const NAMES_MS = 3000;

class RunsList {
  /** Null before the first answer. */
  runs = $state.raw<ReadonlyMap<string, RunSummary> | null>(null);
  problem = $state<string | null>(null);
  heardMs = $state<number | null>(null);
  sparks = $state.raw<Sparklines>({});
  /** What columns may be made of; null before the first answer. */
  names = $state.raw<ColumnNames | null>(null);
  namesProblem = $state<string | null>(null);
  private version: string | null = null;
  private columns: readonly string[] = [];
  private live = false;
  private stream: Stream | null = null;
  /** Whether the stream has said something since it was opened. */
  private told = false;
  /** When the stream was opened, or last said something. */
  private quietMs = 0;
  private asking = false;
  private timer: ReturnType<typeof setInterval> | null = null;
  private sparkOf = "";
  private sparkAt = new Map<string, number>();
  private sparking = false;

  private readonly late = new LateNames(
    () => api.columns(),
    (names) => {
      this.names = names;
      this.namesProblem = null;
    },
    (error) => (this.namesProblem = error.message),
    NAMES_MS,
  );

  /** Follows the list until the result is called; a server that is not live is asked once. */
  follow(live: boolean): () => void {
    this.live = live;
    this.begin();
    this.rename();
    this.timer = setInterval(() => void this.poll(), LOOK_MS);
    document.addEventListener("visibilitychange", this.onVisibility);
    return () => {
      if (this.timer !== null) clearInterval(this.timer);
      this.timer = null;
      document.removeEventListener("visibilitychange", this.onVisibility);
      this.stream?.close();
      this.stream = null;
      this.late.stop();
    };
  }

  /** Asks for the names again. */
  rename(): void {
    this.late.ask();
  }

  /** Columns of other names than before are of all runs, so all are asked for. */
  show(columns: readonly string[]): void {
    if (columns.join("\n") === this.columns.join("\n")) return;
    this.columns = columns;
    this.version = null;
    if (this.timer !== null) this.begin();
  }

  /** What somebody just changed, before the server tells it. */
  put(run: RunSummary): void {
    const before = this.runs?.get(run.key);
    this.runs = new Map(this.runs).set(run.key, { ...before, ...run });
  }

  private begin(): void {
    this.stream?.close();
    this.stream = null;
    this.told = false;
    this.quietMs = Date.now();
    if (!this.live) {
      void this.poll();
      return;
    }
    this.stream = new Stream(() => api.listUrl(this.version, this.columns), {
      runs: (delta) => {
        this.told = true;
        this.take(delta);
      },
      connection: (now) => {
        if (now !== "open") this.told = false;
        if (now !== "lost") return;
        // Refused, or is nobody there? An answer tells.
        this.quietMs = 0;
        void this.poll();
      },
    });
    this.stream.open();
  }

  private readonly onVisibility = (): void => {
    this.quietMs = Date.now();
  };

  private take(delta: RunsDelta): void {
    if (mayName(delta) && this.timer !== null) this.late.mark();
    if (this.problem !== null) void server.ask();
    if (delta.full || delta.changed.length > 0 || delta.removed.length > 0) this.runs = merge(this.runs ?? new Map(), delta);
    this.version = delta.version;
    this.problem = null;
    this.heardMs = this.quietMs = Date.now();
  }

  private get isQuiet(): boolean {
    return Date.now() - this.quietMs > (this.told ? SILENCE_MAX_MS : POLL_MS);
  }

  private async poll(): Promise<void> {
    // A snapshot does not change.
    const needed = this.live ? this.isQuiet : this.runs === null || this.version === null;
    if (!needed || this.asking || document.hidden) return;
    this.asking = true;
    const { columns, stream } = this;
    const overtaken = (): boolean => columns !== this.columns || stream !== this.stream || (this.live && !this.isQuiet);
    try {
      const delta = await api.runs(this.version, columns);
      if (!overtaken()) this.take(delta);
    } catch (error) {
      if (!overtaken()) this.problem = error instanceof Error ? error.message : String(error);
    } finally {
      this.asking = false;
      if (columns !== this.columns) void this.poll();
    }
  }

  /** Fetches the sparklines of these runs that are not there, or old while the run is written. */
  async spark(keys: readonly string[], metric: string): Promise<void> {
    if (metric !== this.sparkOf) {
      this.sparkOf = metric;
      this.sparkAt.clear();
      this.sparks = {};
    }
    if (this.sparking || metric === "") return;
    const now = Date.now();
    const old = (key: string): boolean => {
      const at = this.sparkAt.get(key);
      return at === undefined || (now - at > SPARK_AGE_MS && this.runs?.get(key)?.live === true);
    };
    const wanted = keys.filter(old).slice(0, SPARKS_MAX);
    if (wanted.length === 0) return;
    this.sparking = true;
    for (const key of wanted) this.sparkAt.set(key, now);
    try {
      const found = await api.sparklines(wanted, metric);
      if (metric === this.sparkOf) this.sparks = { ...this.sparks, ...found };
    } catch {
      // A table without its small pictures is a table all the same; they are asked for again later.
    } finally {
      this.sparking = false;
    }
  }
}

export const runsList = new RunsList();
