/** The last lines of one log, bounded, each line once. */

import type { LogLine } from "./types";

/** Lines kept of a followed log. */
export const LINES_MAX = 2000;

export class LogBuffer {
  lines: LogLine[] = [];
  /** Byte behind the last line taken: anything before it was seen. */
  private end = 0;

  constructor(private readonly linesMax = LINES_MAX) {}

  clear(): void {
    this.lines = [];
    this.end = 0;
  }

  /** Takes a fetched tail; what the stream brought meanwhile stays behind it. */
  replace(lines: LogLine[], end: number): void {
    const later = this.lines.filter((l) => l.at >= end);
    this.lines = [...lines, ...later].slice(-this.linesMax);
    this.end = Math.max(this.end, end);
  }

  /** Adds streamed lines, skipping what a fetch already brought. True when something was new. */
  add(lines: LogLine[], end: number, rank: number | null): boolean {
    const fresh = lines.filter((l) => l.at >= this.end && (rank === null || l.rank === rank));
    this.end = Math.max(this.end, end);
    if (fresh.length === 0) return false;
    this.lines = [...this.lines, ...fresh].slice(-this.linesMax);
    return true;
  }
}
