/** Something that is fetched, and fetched again when its stamp says that it changed. */

/** A fetch that failed is tried again after this long. */
const RETRY_MS = 2000;

/**
 * One fetch at a time: a stamp that comes meanwhile is fetched for behind it, so that what was
 * taken last is never older than the last stamp.
 */
export class Kept<T> {
  private wanted: string | null = null;
  private held: string | null = null;
  private busy = false;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private readonly stopped = new AbortController();

  constructor(
    private readonly fetched: (signal: AbortSignal) => Promise<T>,
    private readonly take: (value: T) => void,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** The stamp of now. */
  stamp(now: string): void {
    this.wanted = now;
    if (this.timer === null) void this.follow();
  }

  stop(): void {
    this.stopped.abort();
    if (this.timer !== null) clearTimeout(this.timer);
  }

  private async follow(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    const { signal } = this.stopped;
    try {
      while (this.wanted !== this.held && !signal.aborted) {
        const stamp = this.wanted;
        const value = await this.fetched(signal);
        if (signal.aborted) return;
        this.held = stamp;
        this.take(value);
      }
    } catch (error) {
      if (signal.aborted) return;
      this.failed(error);
      this.timer = setTimeout(() => {
        this.timer = null;
        void this.follow();
      }, RETRY_MS);
    } finally {
      this.busy = false;
    }
  }
}
