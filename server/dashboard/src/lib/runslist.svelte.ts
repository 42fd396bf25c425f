/** All runs, kept up to date by asking what changed. */

import * as api from "./api";
import { LateNames, mayName } from "./latenames";
import { merge } from "./runtable";
import { server } from "./server.svelte";
import type { ColumnNames, RunSummary, Sparklines } from "./types";

const POLL_MS = 2000;
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
  private asking = false;
  private again = false;
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

  /** Follows the list until the result is called. */
  follow(): () => void {
    const poll = (): void => void this.poll();
    poll();
    this.rename();
    this.timer = setInterval(poll, POLL_MS);
    document.addEventListener("visibilitychange", poll);
    return () => {
      if (this.timer !== null) clearInterval(this.timer);
      this.timer = null;
      document.removeEventListener("visibilitychange", poll);
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
    if (this.asking) this.again = true;
    else void this.poll();
  }

  /** What somebody just changed, before the server tells it. */
  put(run: RunSummary): void {
    const before = this.runs?.get(run.key);
    this.runs = new Map(this.runs).set(run.key, { ...before, ...run });
  }

  async poll(): Promise<void> {
    if (this.asking || document.hidden) return;
    // A snapshot does not change.
    if (this.runs && this.version !== null && server.health?.live === false) return;
    this.asking = true;
    try {
      const delta = await api.runs(this.version, this.columns);
      if (mayName(delta) && this.timer !== null) this.late.mark();
      if (this.problem !== null) void server.ask();
      if (delta.full || delta.changed.length > 0 || delta.removed.length > 0) this.runs = merge(this.runs ?? new Map(), delta);
      this.version = delta.version;
      this.problem = null;
      this.heardMs = Date.now();
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
    } finally {
      this.asking = false;
      if (this.again) {
        this.again = false;
        this.version = null;
        void this.poll();
      }
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
