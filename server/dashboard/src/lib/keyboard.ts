/** Keys that work anywhere on a page, unless something is being typed. */

type Handler = (event: KeyboardEvent) => void;
const handlers: Map<string, Handler>[] = [];

/** Adds keys of a page or a part of it; what was added last goes first. The result takes them back. */
export function onKeys(keys: Record<string, Handler>): () => void {
  const own = new Map(Object.entries(keys));
  handlers.push(own);
  return () => {
    const at = handlers.indexOf(own);
    if (at >= 0) handlers.splice(at, 1);
  };
}

const TYPED = "input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]";

export function listen(): () => void {
  const press = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    // A dialog has the keys to itself.
    if (document.querySelector("dialog[open]")) return;
    const typing = event.target instanceof Element && event.target.matches(TYPED);
    if (typing && event.key !== "Escape") return;
    for (const own of handlers.toReversed()) {
      const handler = own.get(event.key);
      if (!handler) continue;
      handler(event);
      event.preventDefault();
      return;
    }
  };
  addEventListener("keydown", press);
  return () => removeEventListener("keydown", press);
}
