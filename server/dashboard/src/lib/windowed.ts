/** Which rows of a long list are on the screen. */

export interface Window {
  first: number;
  /** Behind the last one. */
  end: number;
}

/** Rows that are drawn beyond both edges, so that scrolling shows no gap. */
const OVER = 12;

export function rowsIn(top: number, height: number, rowHeight: number, count: number): Window {
  const first = Math.min(Math.max(0, Math.floor(top / rowHeight) - OVER), Math.max(0, count - 1));
  const end = Math.min(count, Math.ceil((top + height) / rowHeight) + OVER);
  return { first, end: Math.max(end, first) };
}
