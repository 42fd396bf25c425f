/** Lines of one log, bounded, each once. */

import type { LogLine } from "./types";

/** Lines kept of a log, whether followed or read back. */
export const LINES_MAX = 5000;

export class LogBuffer {
  lines: LogLine[] = [];
  /** Byte behind the last line taken: anything before it was seen. */
  end = 0;

  constructor(private readonly linesMax = LINES_MAX) {}

  clear(): void {
    this.lines = [];
    this.end = 0;
  }

  /** Takes a fetched piece; what the stream brought meanwhile stays behind it. */
  replace(lines: LogLine[], end: number): void {
    const later = this.lines.filter((l) => l.at >= end);
    this.lines = [...lines, ...later].slice(-this.linesMax);
    this.end = Math.max(this.end, end);
  }

  /** Adds streamed lines, skipping what a fetch already brought. True when something was new. */
  add(lines: LogLine[], end: number, admits: (line: LogLine) => boolean): boolean {
    const fresh = lines.filter((l) => l.at >= this.end && admits(l));
    this.end = Math.max(this.end, end);
    if (fresh.length === 0) return false;
    this.lines = [...this.lines, ...fresh].slice(-this.linesMax);
    return true;
  }

  /** Puts older lines in front; the newest go when it gets too many. */
  prepend(lines: LogLine[]): void {
    this.lines = [...lines, ...this.lines].slice(0, this.linesMax);
  }
}
