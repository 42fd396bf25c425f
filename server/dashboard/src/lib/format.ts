/** Numbers, times and sizes as people read them. */

export function count(n: number): string {
  return n.toLocaleString("en").replaceAll(",", "\u202f");
}

/** A value with four significant digits, so that a column of them stays narrow. */
export function value(v: unknown): string {
  if (typeof v === "number") {
    if (Number.isInteger(v) && Math.abs(v) < 1e15) return count(v);
    if (!Number.isFinite(v)) return String(v);
    const size = Math.abs(v);
    return size >= 1e6 || size < 1e-3 ? v.toExponential(3) : size >= 1e4 ? count(Number(v.toPrecision(4))) : String(Number(v.toPrecision(4)));
  }
  if (v === null || v === undefined) return "–";
  return typeof v === "object" ? JSON.stringify(v) : String(v);
}

export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const s = whole % 60;
  const m = Math.floor(whole / 60) % 60;
  const h = Math.floor(whole / 3600) % 24;
  const d = Math.floor(whole / 86_400);
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  return `${m} min ${s} s`;
}

/** How long a run has taken: as recorded, or until now while it is written. */
export function elapsed(
  run: { started_at: string | null; duration_secs: number | null; live: boolean },
  nowMs: number,
): number | null {
  if (run.duration_secs !== null && !run.live) return run.duration_secs;
  const start = run.started_at ? Date.parse(run.started_at) : Number.NaN;
  return run.live && Number.isFinite(start) ? Math.max(0, (nowMs - start) / 1000) : run.duration_secs;
}

export function ago(time: string | null, nowMs: number): string {
  const at = time ? Date.parse(time) : Number.NaN;
  if (!Number.isFinite(at)) return "–";
  const seconds = Math.max(0, (nowMs - at) / 1000);
  return seconds < 1 ? "now" : `${duration(Math.round(seconds)).replace(/\.0 s$/, " s")} ago`;
}

/** About how long ago, in one unit: for lists, where the exact time is a tooltip away. */
export function since(time: string | null, nowMs: number): string {
  const at = time ? Date.parse(time) : Number.NaN;
  if (!Number.isFinite(at)) return "–";
  const s = Math.max(0, (nowMs - at) / 1000);
  if (s < 10) return "just now";
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ago`;
  if (s < 86_400 * 60) return `${Math.floor(s / 86_400)} d ago`;
  return moment(time).slice(0, 10);
}

/** Local date and time, to the second. */
export function moment(time: string | null): string {
  const at = time ? Date.parse(time) : Number.NaN;
  if (!Number.isFinite(at)) return "–";
  const d = new Date(at);
  const two = (n: number): string => String(n).padStart(2, "0");
  return (
    `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ` +
    `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`
  );
}

/** Local time of day of a log line, with milliseconds. */
export function clock(time: string): string {
  const at = Date.parse(time);
  if (!Number.isFinite(at)) return time;
  return `${moment(time).slice(11)}.${String(new Date(at).getMilliseconds()).padStart(3, "0")}`;
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  let size = n;
  while (size >= 1024 && i < units.length - 1) {
    size /= 1024;
    i += 1;
  }
  return `${i === 0 ? size : size.toFixed(size < 10 ? 1 : 0)} ${units[i]}`;
}

/** A nested mapping as rows of dotted names, in its own order. */
export function flatten(tree: unknown, prefix = ""): [string, string][] {
  if (tree !== null && typeof tree === "object" && !Array.isArray(tree)) {
    const entries = Object.entries(tree);
    if (entries.length > 0)
      return entries.flatMap(([k, v]) => flatten(v, prefix ? `${prefix}.${k}` : k));
  }
  if (prefix === "") return [];
  // As configured, not rounded: this is a record, not a reading.
  return [[prefix, typeof tree === "string" ? tree : JSON.stringify(tree)]];
}
