/** Light, dark, or as the system says. */

import { pref, setPref } from "./prefs";

export type Theme = "system" | "light" | "dark";

const STORED = "theme";
const listeners = new Set<() => void>();

export function theme(): Theme {
  const stored = pref(STORED);
  return stored === "light" || stored === "dark" ? stored : "system";
}

export function setTheme(next: Theme): void {
  setPref(STORED, next === "system" ? null : next);
  apply(next);
}

export function apply(next: Theme = theme()): void {
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  for (const listener of listeners) listener();
}

/** Charts take their colours from CSS variables and need to hear when these change. */
export function onThemeChange(listener: () => void): () => void {
  listeners.add(listener);
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", listener);
  return () => {
    listeners.delete(listener);
    media.removeEventListener("change", listener);
  };
}

export function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
