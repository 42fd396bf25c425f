/** What is known of the server, and whether it is still the one that it was. */

import * as api from "./api";
import type { Health } from "./types";

/** For so long a restart is told. */
const TOLD_MS = 6_000;

class Server {
  health = $state.raw<Health | null>(null);
  problem = $state<string | null>(null);
  restartedMs = $state<number | null>(null);
  private asking = false;

  /** Asks until there is an answer, and again when a connection was lost. */
  async ask(): Promise<void> {
    if (this.asking) return;
    this.asking = true;
    try {
      const health = await api.health();
      const before = this.health?.started_at;
      if (before !== undefined && health.started_at !== before) this.restartedMs = Date.now();
      this.health = health;
      this.problem = null;
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
      if (!this.health) setTimeout(() => void this.ask(), 1500);
    } finally {
      this.asking = false;
    }
  }

  /** Whether it was started again a moment ago. */
  restarted(nowMs: number): boolean {
    return this.restartedMs !== null && nowMs - this.restartedMs < TOLD_MS;
  }

  /** What people write can be changed here. */
  get writes(): boolean {
    return this.health?.read_only === false;
  }
}

export const server = new Server();
