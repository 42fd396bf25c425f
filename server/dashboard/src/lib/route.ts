/** Hash routes: the whole view is in the address, and no proxy has to rewrite anything. */

export const TABS = ["charts", "ranks", "logs", "config", "events", "artifacts", "system"] as const;
export type Tab = (typeof TABS)[number];
/** What a view is set to; what is not there is as by default. */
export type Params = Readonly<Record<string, string>>;

export type Route =
  | { page: "runs"; params: Params }
  | { page: "run"; key: string; tab: Tab; params: Params }
  | { page: "compare"; runs: string[]; params: Params };

export function parse(hash: string): Route {
  const [path = "", search = ""] = cut(hash.replace(/^#\/?/, ""), "?");
  const params: Record<string, string> = {};
  for (const [name, value] of new URLSearchParams(search)) params[name] = value;
  const [page, name, tab] = path.split("/");
  const key = decode(name ?? "");
  if (page === "run" && key) {
    return { page: "run", key, tab: TABS.find((t) => t === tab) ?? "charts", params };
  }
  if (page === "compare") {
    const { runs = "", ...rest } = params;
    return { page: "compare", runs: runs.split(",").filter(Boolean), params: rest };
  }
  return { page: "runs", params };
}

export function href(route: Route): string {
  if (route.page === "run") {
    const tab = route.tab === "charts" ? "" : `/${route.tab}`;
    return `#/run/${encodeURIComponent(route.key)}${tab}${search(route.params)}`;
  }
  if (route.page === "compare") return `#/compare${search({ runs: route.runs.join(","), ...route.params })}`;
  return `#/${search(route.params)}`;
}

export const runHref = (key: string, tab: Tab = "charts", params: Params = {}): string =>
  href({ page: "run", key, tab, params });

export const runsHref = (params: Params = {}): string => href({ page: "runs", params });

export const compareHref = (runs: string[], params: Params = {}): string => href({ page: "compare", runs, params });

/** The same settings with some of them changed; null takes one back to its default. */
export function changed(params: Params, change: Readonly<Record<string, string | null>>): Params {
  const merged: Record<string, string> = { ...params };
  for (const [name, value] of Object.entries(change)) {
    if (value === null || value === "") delete merged[name];
    else merged[name] = value;
  }
  return merged;
}

function search(params: Params): string {
  const given = Object.entries(params).filter(([, value]) => value !== "");
  // Commas and slashes need no escape here, and an address is to be read by people.
  const text = given.map(([k, v]) => `${k}=${encodeURIComponent(v).replaceAll("%2C", ",").replaceAll("%2F", "/").replaceAll("%3A", ":")}`).join("&");
  return text === "" ? "" : `?${text}`;
}

function cut(text: string, at: string): [string, string] {
  const i = text.indexOf(at);
  return i < 0 ? [text, ""] : [text.slice(0, i), text.slice(i + 1)];
}

function decode(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
