/** Where the page is: the address, as state. */

import { changed, href, parse, type Params, type Route } from "./route";

class Place {
  route = $state.raw<Route>(parse(location.hash));

  constructor() {
    addEventListener("hashchange", () => {
      this.route = parse(location.hash);
    });
  }

  /** Another view: the browser's way back leads to this one. */
  go(to: string): void {
    location.hash = to;
  }

  /** The same view with other settings, which is no step of its own on the way back. */
  set(change: Readonly<Record<string, string | null>>): void {
    const route = { ...this.route, params: changed(this.route.params, change) } as Route;
    history.replaceState(null, "", href(route));
    this.route = route;
  }

  get params(): Params {
    return this.route.params;
  }
}

export const place = new Place();
