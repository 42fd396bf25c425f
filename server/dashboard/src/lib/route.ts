/** Hash routes, so that the page needs no rewriting by any proxy. */

export type Route = { page: "runs"; experiment: string | null } | { page: "run"; key: string };

export function parse(hash: string): Route {
  const path = hash.replace(/^#\/?/, "");
  const run = /^run\/([^/?]+)/.exec(path);
  if (run) {
    const key = decode(run[1] as string);
    if (key !== null) return { page: "run", key };
  }
  const query = new URLSearchParams(path.split("?")[1] ?? "");
  return { page: "runs", experiment: query.get("experiment") };
}

export function runHref(key: string): string {
  return `#/run/${encodeURIComponent(key)}`;
}

export function runsHref(experiment: string | null = null): string {
  return experiment === null ? "#/" : `#/?experiment=${encodeURIComponent(experiment)}`;
}

function decode(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
