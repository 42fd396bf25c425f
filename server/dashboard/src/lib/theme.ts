/** Light, dark, or as the system says. */

export type Theme = "system" | "light" | "dark";

const STORED = "expman.theme";
const listeners = new Set<() => void>();

export function theme(): Theme {
  try {
    const stored = localStorage.getItem(STORED);
    return stored === "light" || stored === "dark" ? stored : "system";
  } catch {
    return "system";
  }
}

export function setTheme(next: Theme): void {
  try {
    if (next === "system") localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, next);
  } catch {
    // A browser that stores nothing still shows the theme until the page is left.
  }
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
