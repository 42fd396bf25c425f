/** What the header says of the page's data: set by the page that is shown. */

import type { BadgeFacts } from "./badge";

class Status {
  facts = $state.raw<BadgeFacts | null>(null);
  /** Beside the badge: how much is followed. */
  note = $state("");
}

export const status = new Status();

/** Seconds of now, for ages that count up. */
class Clock {
  nowMs = $state(Date.now());

  constructor() {
    setInterval(() => (this.nowMs = Date.now()), 1000);
  }
}

export const clock = new Clock();

/** Whether the page is as narrow as a phone's. */
class Screen {
  narrow = $state(false);

  constructor() {
    const media = matchMedia("(max-width: 40rem)");
    this.narrow = media.matches;
    media.addEventListener("change", () => (this.narrow = media.matches));
  }
}

export const screen = new Screen();
