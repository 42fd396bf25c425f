/** What a reader prefers on every page, kept in the browser; the address says everything else. */

const PREFIX = "expman.";

export function pref(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Null takes it back. A browser that stores nothing goes on without it. */
export function setPref(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // Nothing is lost but the preference.
  }
}
