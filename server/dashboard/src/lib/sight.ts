/** What is on the screen, and what is near it: two observers for all charts of the page. */

export interface Sighted {
  /** It comes near the screen, or is far from it again. */
  near(is: boolean): void;
  /** It is on the screen. */
  seen(is: boolean): void;
}

/** A chart is made this far in front of the screen, and dropped behind it. */
const NEAR_PX = 500;

const watched = new Map<Element, Sighted>();
const observer = (margin: number, tell: (s: Sighted, is: boolean) => void): IntersectionObserver =>
  new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const sighted = watched.get(entry.target);
        if (sighted) tell(sighted, entry.isIntersecting);
      }
    },
    { rootMargin: `${margin}px 0px` },
  );
let near: IntersectionObserver | null = null;
let seen: IntersectionObserver | null = null;

export function watchSight(element: Element, sighted: Sighted): () => void {
  near ??= observer(NEAR_PX, (s, is) => s.near(is));
  seen ??= observer(0, (s, is) => s.seen(is));
  watched.set(element, sighted);
  near.observe(element);
  seen.observe(element);
  return () => {
    watched.delete(element);
    near?.unobserve(element);
    seen?.unobserve(element);
  };
}
