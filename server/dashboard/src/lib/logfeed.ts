/** What the log panel shows: the end of a log, followed; what a search found; or a moment. */

import type { LogsWanted } from "./api";
import { LogBuffer } from "./logbuffer";
import type { LogFile, LogLine, LogsAnswer, LogsFrame } from "./types";

const RETRY_MS = 2000;
/** A search is made again over what came meanwhile, at most this often. */
const SEARCH_AGAIN_MS = 1000;
/** Lines of one page further back. */
const PAGE = 1000;

export interface LogView {
  file: LogFile;
  ranks: readonly number[];
  stream: string | null;
  level: string | null;
  grep: string;
  /** A moment in microseconds since 1970; null: the end, followed. */
  around: number | null;
}

export interface LogHooks {
  lines(): void;
  failed(error: unknown): void;
}

const LEVELS = ["DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"];

export class LogFeed {
  readonly buffer = new LogBuffer();
  /** What is wrong with the search, in the server's words. */
  problem: string | null = null;
  /** Lines that a search looked through say how much there was. */
  answer: LogsAnswer | null = null;
  loading = false;
  /** Whether earlier lines may be had. */
  earlier = true;
  private view: LogView = { file: "console", ranks: [], stream: null, level: null, grep: "", around: null };
  private asked = 0;
  private held = true;
  private wanted = false;
  private stopped = false;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    private readonly fetch: (wanted: LogsWanted) => Promise<LogsAnswer>,
    private readonly hooks: LogHooks,
  ) {}

  get lines(): LogLine[] {
    return this.buffer.lines;
  }

  begin(): void {
    this.held = false;
    if (this.wanted) void this.load();
  }

  /** The stream begins only now: what was fetched before it may lack what came since. */
  resync(): void {
    if (!this.held) this.reload();
  }

  stop(): void {
    this.stopped = true;
    this.cancel();
  }

  /** Shows this; nothing is fetched before somebody wants to see lines. */
  show(view: LogView): void {
    this.view = view;
    this.wanted = true;
    this.reload();
  }

  hide(): void {
    this.wanted = false;
    this.cancel();
    this.buffer.clear();
  }

  reload(): void {
    if (!this.wanted) return;
    this.buffer.clear();
    this.answer = null;
    this.problem = null;
    this.earlier = true;
    this.loading = true;
    this.hooks.lines();
    if (!this.held) void this.load();
  }

  frame(frame: LogsFrame): void {
    if (!this.wanted || frame.file !== this.view.file || this.view.around !== null) return;
    if (this.view.grep !== "") {
      // The server searches: its expressions are linear in time, the browser's are not.
      this.timer ??= setTimeout(() => {
        this.timer = null;
        void this.more();
      }, SEARCH_AGAIN_MS);
      return;
    }
    if (this.buffer.add(frame.lines, frame.cursor, (line) => this.admits(line))) this.hooks.lines();
  }

  /** One page of lines in front of the first one. */
  async back(): Promise<void> {
    const first = this.buffer.lines[0];
    if (!first || this.loading) return;
    this.loading = true;
    try {
      const answer = await this.fetch({ ...this.filters(), before: first.at, tail: PAGE });
      const older = answer.lines.filter((l) => l.at < first.at);
      this.earlier = older.length > 0;
      this.buffer.prepend(older);
    } catch (error) {
      this.hooks.failed(error);
    } finally {
      this.loading = false;
      this.hooks.lines();
    }
  }

  private admits(line: LogLine): boolean {
    const { ranks, stream, level } = this.view;
    return (
      (ranks.length === 0 || (line.rank !== null && ranks.includes(line.rank))) &&
      (stream === null || line.stream === stream) &&
      (level === null || LEVELS.indexOf(line.level ?? "") >= LEVELS.indexOf(level))
    );
  }

  private filters(): LogsWanted {
    const { file, ranks, stream, level, grep } = this.view;
    return { file, ranks, stream, level, grep };
  }

  /** What a search finds behind what it has looked through. */
  private async more(): Promise<void> {
    const asked = this.asked;
    try {
      const answer = await this.fetch({ ...this.filters(), after: this.buffer.end });
      if (asked !== this.asked || this.stopped) return;
      if (this.buffer.add(answer.lines, answer.cursor, (line) => this.admits(line))) this.hooks.lines();
    } catch {
      // The next frame tries again.
    }
  }

  private async load(): Promise<void> {
    const asked = ++this.asked;
    this.cancel();
    try {
      const answer = await this.fetch({ ...this.filters(), around: this.view.around });
      if (asked !== this.asked || this.stopped) return;
      this.answer = answer;
      this.loading = false;
      this.buffer.replace(answer.lines, answer.cursor);
    } catch (error) {
      if (this.stopped || asked !== this.asked) return;
      const status = (error as { status?: number }).status ?? 0;
      this.loading = false;
      if (status === 400) {
        this.problem = error instanceof Error ? error.message : String(error);
      } else {
        this.hooks.failed(error);
        this.timer = setTimeout(() => void this.load(), RETRY_MS);
      }
    }
    this.hooks.lines();
  }

  private cancel(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }
}
