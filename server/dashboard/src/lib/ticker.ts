/** Redraws what changed and is visible, twice a second at most. */

export const TICK_MS = 500;

export interface Drawn {
  draw(): void;
}

/**
 * The first change after a pause is drawn at once, further ones with the next tick, so a new point
 * waits for half a second at the very most and a busy run costs two drawings a second.
 */
export class Ticker {
  private readonly dirty = new Set<Drawn>();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private last = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly now: () => number = () => performance.now(),
    private readonly period = TICK_MS,
  ) {}

  mark(drawn: Drawn): void {
    this.dirty.add(drawn);
    this.timer ??= setTimeout(() => this.run(), Math.max(0, this.last + this.period - this.now()));
  }

  forget(drawn: Drawn): void {
    this.dirty.delete(drawn);
    if (this.dirty.size === 0 && this.timer !== null) {
      clearTimeout(this.timer);
      this.timer = null;
    }
  }

  private run(): void {
    this.timer = null;
    this.last = this.now();
    const batch = [...this.dirty];
    this.dirty.clear();
    for (const drawn of batch) drawn.draw();
  }
}

export const ticker = new Ticker();
