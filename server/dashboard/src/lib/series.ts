/** The series of one run that charts look at: fetched when wanted, followed, dropped when many. */

import { KEYS_MAX, type SeriesWanted } from "./api";
import { number, type SeriesAnswer, type SeriesColumns } from "./columns";
import { Grid, MERGED } from "./grid";
import type { KeyInfo, MetricsAnswer, Series } from "./types";

/** With more ranks than this a chart shows what the server merged, and the ranks picked out. */
export const RANKS_EACH_MAX = 16;
/** Metrics that nobody looks at and that are kept all the same. */
const UNUSED_MAX = 48;
/** Questions that are open at once. */
const ASKED_MAX = 2;

/** A metric, as far as it is known without its points. */
export interface Known {
  key: string;
  ranks: Set<number>;
  text: boolean;
}

/** A finer piece of a metric, for a zoomed view. */
export interface Detail {
  from: number;
  to: number;
  grid: Grid;
}

export interface Entry {
  key: string;
  state: "wanted" | "asked" | "ready" | "failed";
  grid: Grid;
  texts: Map<number, string>;
  detail: Detail | null;
  /** Rows of the run that are in it. */
  rows: number;
  /** When the newest fetched point of each rank was logged. */
  seenUs: Map<number, number>;
  /** Frames that came while it was being fetched. */
  later: { series: Series; from: number; to: number }[];
  /** Picked ranks that are in it beside the merged series. */
  extra: Set<number>;
  users: number;
  used: number;
}

export interface StoreHooks {
  fetch(wanted: SeriesWanted): Promise<SeriesAnswer>;
  /** Points of this metric changed. */
  points(key: string): void;
  /** A metric appeared. */
  keys(): void;
  failed(error: unknown): void;
}

/** Rows in front of a cursor: `epoch-rows-run log-console`. */
export function rowsOf(cursor: string): number {
  return Number(cursor.split("-")[1] ?? 0) || 0;
}

export class SeriesStore {
  readonly known = new Map<string, Known>();
  readonly entries = new Map<string, Entry>();
  picked: readonly number[] = [];
  private asked = 0;
  private clock = 0;
  private held = true;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private stopped = false;

  constructor(private readonly hooks: StoreHooks) {}

  /** Questions may go out: the stream has begun, so nothing that comes now is missed. */
  begin(): void {
    this.held = false;
    this.schedule();
  }

  stop(): void {
    this.stopped = true;
    if (this.timer !== null) clearTimeout(this.timer);
  }

  takeKeys(keys: KeyInfo[]): void {
    for (const k of keys)
      this.known.set(k.key, { key: k.key, ranks: new Set(k.ranks), text: k.kind === "text" });
    this.hooks.keys();
  }

  /** Somebody looks at this metric. */
  use(key: string): Entry {
    const entry = this.entries.get(key) ?? this.made(key);
    entry.users += 1;
    entry.used = ++this.clock;
    if (entry.state === "failed") entry.state = "wanted";
    this.schedule();
    return entry;
  }

  unuse(key: string): void {
    const entry = this.entries.get(key);
    if (!entry) return;
    entry.users -= 1;
    entry.used = ++this.clock;
    this.forget();
  }

  /** Ranks that are picked out, which large runs fetch one by one. */
  pick(ranks: readonly number[]): void {
    this.picked = ranks;
    for (const entry of this.entries.values()) {
      if (entry.state === "ready" && this.lacks(entry).length > 0) entry.state = "wanted";
    }
    this.schedule();
  }

  /** Everything is fetched again, because what came meanwhile is not known. */
  reload(): void {
    for (const [key, entry] of this.entries) {
      if (entry.users > 0) entry.state = "wanted";
      else this.entries.delete(key);
    }
    this.schedule();
  }

  /** The stream goes on from here: what was fetched before that and not followed is fetched again. */
  resync(cursor: string): void {
    const rows = rowsOf(cursor);
    for (const entry of this.entries.values()) {
      if (entry.state === "ready" && entry.rows < rows) entry.state = "wanted";
    }
    this.schedule();
  }

  /** Adds a frame of the stream. */
  frame(frame: MetricsAnswer): void {
    const to = rowsOf(frame.cursor);
    const from = to - frame.series.reduce((n, s) => n + s.values.length, 0);
    let fresh = false;
    const changed = new Set<string>();
    for (const series of frame.series) {
      const known = this.known.get(series.key);
      if (!known) {
        this.known.set(series.key, { key: series.key, ranks: new Set([series.rank]), text: series.kind === "text" });
        fresh = true;
      } else {
        known.ranks.add(series.rank);
        if (series.kind === "number") known.text = false;
      }
      const entry = this.entries.get(series.key);
      if (!entry) continue;
      if (entry.state === "asked") entry.later.push({ series, from, to });
      else if (entry.state === "ready" && takeFrame(entry, series, from, to)) changed.add(series.key);
    }
    // Only now: a metric may have several series in one frame.
    for (const entry of this.entries.values()) if (entry.state === "ready") entry.rows = Math.max(entry.rows, to);
    if (fresh) this.hooks.keys();
    for (const key of changed) this.hooks.points(key);
  }

  /** Fetches these metrics in this range of steps, as fine as it goes. */
  async zoom(keys: readonly string[], from: number, to: number): Promise<void> {
    const wanted = keys.filter((key) => {
      const entry = this.entries.get(key);
      return entry?.state === "ready" && entry.grid.width > 1 && !(entry.detail?.from === from && entry.detail.to === to);
    });
    for (let i = 0; i < wanted.length; i += KEYS_MAX) {
      const part = wanted.slice(i, i + KEYS_MAX);
      const merge = part.some((key) => this.merges(key));
      const answer = await this.hooks.fetch({ keys: part, from, to, merge });
      for (const key of part) {
        const entry = this.entries.get(key);
        if (!entry) continue;
        const grid = new Grid();
        for (const s of answer.series) if (s.key === key && s.kind === "number") grid.load(s.rank ?? MERGED, s, answer.bucket);
        entry.detail = { from, to, grid };
        this.hooks.points(key);
      }
    }
  }

  unzoom(): void {
    for (const entry of this.entries.values()) entry.detail = null;
  }

  private made(key: string): Entry {
    const entry: Entry = {
      key,
      state: "wanted",
      grid: new Grid(),
      texts: new Map(),
      detail: null,
      rows: 0,
      seenUs: new Map(),
      later: [],
      extra: new Set(),
      users: 0,
      used: 0,
    };
    this.entries.set(key, entry);
    return entry;
  }

  private merges(key: string): boolean {
    return (this.known.get(key)?.ranks.size ?? 0) > RANKS_EACH_MAX;
  }

  /** Picked ranks that a merged metric does not have yet. */
  private lacks(entry: Entry): number[] {
    const known = this.known.get(entry.key)?.ranks;
    if (!this.merges(entry.key) || !known) return [];
    return this.picked.filter((rank) => known.has(rank) && !entry.extra.has(rank));
  }

  private forget(): void {
    const idle = [...this.entries.values()].filter((e) => e.users <= 0);
    idle.sort((a, b) => a.used - b.used);
    for (const entry of idle.slice(0, Math.max(0, idle.length - UNUSED_MAX))) this.entries.delete(entry.key);
  }

  private schedule(): void {
    if (this.held || this.stopped || this.timer !== null) return;
    // Charts that come into view together are one question.
    this.timer = setTimeout(() => {
      this.timer = null;
      this.send();
    }, 8);
  }

  private send(): void {
    while (this.asked < ASKED_MAX) {
      const wanted = [...this.entries.values()].filter((e) => e.state === "wanted" && e.users > 0);
      const first = wanted[0];
      if (!first) return;
      const merge = this.merges(first.key);
      const part = wanted.filter((e) => this.merges(e.key) === merge).slice(0, KEYS_MAX);
      for (const entry of part) entry.state = "asked";
      void this.fetch(part, merge);
    }
  }

  private async fetch(part: Entry[], merge: boolean): Promise<void> {
    this.asked += 1;
    const keys = part.map((e) => e.key);
    try {
      const answer = await this.hooks.fetch({ keys, merge });
      const extra = merge && this.picked.length > 0 ? [...this.picked] : [];
      const more = extra.length > 0 ? await this.hooks.fetch({ keys, ranks: extra }) : null;
      if (this.stopped) return;
      for (const entry of part) {
        fill(entry, answer, extra);
        // The two answers may stand at different places; the lines of single ranks may run ahead.
        if (more) for (const s of more.series) if (s.key === entry.key && s.rank !== null) loadInto(entry, s, more.bucket);
        const late = entry.later.splice(0);
        for (const { series, from, to } of late) takeFrame(entry, series, from, to);
        entry.rows = Math.max(entry.rows, late.at(-1)?.to ?? 0);
        entry.state = "ready";
        if (this.lacks(entry).length > 0) entry.state = "wanted";
        this.hooks.points(entry.key);
      }
    } catch (error) {
      for (const entry of part) {
        entry.state = "failed";
        entry.later = [];
      }
      if (!this.stopped) this.hooks.failed(error);
    } finally {
      this.asked -= 1;
      if (!this.stopped) this.schedule();
    }
  }
}

function fill(entry: Entry, answer: SeriesAnswer, extra: number[]): void {
  entry.grid = new Grid();
  entry.texts = new Map();
  entry.seenUs = new Map();
  entry.extra = new Set(extra);
  entry.rows = rowsOf(answer.cursor);
  for (const s of answer.series) if (s.key === entry.key) loadInto(entry, s, answer.bucket);
}

function loadInto(entry: Entry, s: SeriesColumns, bucket: number): void {
  if (s.kind === "text") {
    if (s.latest !== null) entry.texts.set(s.rank ?? 0, String(s.latest));
    return;
  }
  const rank = s.rank ?? MERGED;
  entry.grid.load(rank, s, bucket);
  if (s.lastTimestampUs !== null) entry.seenUs.set(rank, s.lastTimestampUs);
}

/**
 * Takes a series of a frame that holds the rows from `from` to `to`: none of it when all was fetched
 * already, all of it when none was, and of one that lies across what came later. True when something was new.
 */
function takeFrame(entry: Entry, s: Series, from: number, to: number): boolean {
  if (to <= entry.rows) return false;
  const across = from < entry.rows;
  const merged = entry.grid.columns.has(MERGED);
  const seen = across ? (entry.seenUs.get(merged ? MERGED : s.rank) ?? Number.NEGATIVE_INFINITY) : Number.NEGATIVE_INFINITY;
  let fresh = false;
  s.values.forEach((wire, i) => {
    const at = s.timestamps[i] ?? 0;
    if (at <= seen) return;
    fresh = true;
    if (s.kind === "text") {
      entry.texts.set(s.rank, String(wire));
      return;
    }
    const step = s.steps[i] ?? null;
    const v = number(wire);
    if (merged) entry.grid.point(MERGED, step, v, at / 1000);
    if (!merged || entry.extra.has(s.rank)) entry.grid.point(s.rank, step, v, at / 1000);
    const zoomed = entry.detail;
    if (zoomed && step !== null && step >= zoomed.from && step <= zoomed.to)
      zoomed.grid.point(merged ? MERGED : s.rank, step, v, at / 1000);
  });
  return fresh;
}

/** Groups of metrics that tell of machines. */
export const SYSTEM = /^(sys|system)$/;

/**
 * Metrics by the part of their name before the first slash, each list in order of name.
 * A part that only one metric has is no group: it stands with those that have none.
 */
export function groups(keys: Iterable<string>): [string, string[]][] {
  const sorted = [...keys].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const prefix = (key: string): string => key.slice(0, Math.max(0, key.indexOf("/")));
  const sizes = new Map<string, number>();
  for (const key of sorted) sizes.set(prefix(key), (sizes.get(prefix(key)) ?? 0) + 1);
  const byGroup = new Map<string, string[]>();
  for (const key of sorted) {
    const group = (sizes.get(prefix(key)) ?? 0) > 1 ? prefix(key) : "";
    const found = byGroup.get(group);
    if (found) found.push(key);
    else byGroup.set(group, [key]);
  }
  // What the machines did goes last, and in front of it what stands alone.
  const place = ([group, names]: [string, string[]]): number =>
    SYSTEM.test(group) ? 3 : group === "" && names.length < 3 ? 2 : group === "" ? 0 : 1;
  return [...byGroup].sort((a, b) => place(a) - place(b) || a[0].localeCompare(b[0], "en"));
}

/** Whether a name has all words of a search, or matches its `/regex/`; null when that is no regex. */
export function matcher(search: string): ((name: string) => boolean) | null {
  const text = search.trim();
  const regex = /^\/(.+?)\/?$/.exec(text);
  if (regex) {
    try {
      const made = new RegExp(regex[1] as string, "i");
      return (name) => made.test(name);
    } catch {
      return null;
    }
  }
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (name) => {
    const low = name.toLowerCase();
    return words.every((word) => low.includes(word));
  };
}
