import { describe, expect, it, vi } from "vitest";
import type { SeriesWanted } from "./api";
import { number, type SeriesAnswer } from "./columns";
import { lines } from "./drawing";
import { groups, matcher, RANKS_EACH_MAX, SeriesStore } from "./series";
import { fromMetrics } from "./testing";
import type { MetricsAnswer, Series } from "./types";

/** Points whose time is their step, in microseconds. */
const points = (key: string, rank: number, steps: number[], values: Series["values"]): Series => ({
  key,
  rank,
  kind: "number",
  steps,
  timestamps: steps.map((s) => s * 1000),
  values,
  n: steps.length,
});

const frame = (cursor: string, ...series: Series[]): MetricsAnswer => ({ cursor, bucket: null, series });

/** A store whose questions wait for their answer. */
function asking() {
  const asked: { wanted: SeriesWanted; answer: (a: MetricsAnswer | Error) => void }[] = [];
  const seen: string[] = [];
  const store = new SeriesStore({
    fetch: (wanted) =>
      new Promise<SeriesAnswer>((resolve, reject) => {
        const answer = (a: MetricsAnswer | Error): void => (a instanceof Error ? reject(a) : resolve(fromMetrics(a)));
        asked.push({ wanted, answer });
      }),
    points: (key) => seen.push(key),
    keys: () => seen.push("keys"),
    failed: () => seen.push("failed"),
  });
  const next = async () => {
    await vi.waitFor(() => expect(asked.length).toBeGreaterThan(0));
    return asked.shift() as (typeof asked)[number];
  };
  const settled = async (key: string) => await vi.waitFor(() => expect(store.entries.get(key)?.state).toBe("ready"));
  return { store, asked, seen, next, settled };
}

const drawn = (store: SeriesStore, key: string) => {
  const grid = store.entries.get(key)?.grid;
  return grid ? lines(grid, null) : null;
};

describe("SeriesStore", () => {
  it("asks once for what comes into view together, and not before the stream has begun", async () => {
    const { store, asked, next } = asking();
    store.use("a");
    await new Promise((done) => setTimeout(done, 20));
    expect(asked).toEqual([]);
    store.begin();
    store.use("b");
    expect((await next()).wanted.keys).toEqual(["a", "b"]);
    expect(asked).toEqual([]);
  });

  it("neither loses nor doubles what is streamed around a fetch", async () => {
    const { store, next, settled } = asking();
    store.begin();
    store.use("loss");
    const fetch = await next();
    // Rows 0..4 are in the answer. One frame lies in front of its end, one across it, one behind.
    store.frame(frame("1-2-0-0", points("loss", 0, [0, 1], [9, 9])));
    store.frame(frame("1-5-0-0", points("loss", 0, [2, 3, 4], [9, 9, 5])));
    store.frame(frame("1-6-0-0", points("loss", 0, [5], [6])));
    fetch.answer(frame("1-4-0-0", points("loss", 0, [0, 1, 2, 3], [1, 2, 3, 4])));
    await settled("loss");
    expect(drawn(store, "loss")).toMatchObject({ x: [0, 1, 2, 3, 4, 5], mean: [1, 2, 3, 4, 5, 6] });
    expect(store.entries.get("loss")?.grid.column(0).points).toBe(6);
    // The same frame again, as after a connection that was cut: nothing twice.
    store.frame(frame("1-6-0-0", points("loss", 0, [5], [6])));
    store.frame(frame("1-7-0-0", points("loss", 0, [6], [7])));
    expect(drawn(store, "loss")?.mean).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(store.entries.get("loss")?.grid.column(0).points).toBe(7);
  });

  it("takes a frame with several ranks of one metric whole", async () => {
    const { store, next, settled } = asking();
    store.begin();
    store.use("loss");
    (await next()).answer(frame("1-0-0-0"));
    await settled("loss");
    store.frame(frame("1-2-0-0", points("loss", 0, [0], [1]), points("loss", 1, [0], [3])));
    expect(drawn(store, "loss")).toMatchObject({ mean: [2], low: [1], high: [3] });
  });

  it("fetches again what a stream that begins later would leave out", async () => {
    const { store, asked, next, settled } = asking();
    store.begin();
    store.use("a");
    (await next()).answer(frame("1-3-0-0", points("a", 0, [0, 1, 2], [1, 2, 3])));
    await settled("a");
    store.resync("1-3-9-9");
    await new Promise((done) => setTimeout(done, 20));
    expect(asked).toEqual([]);
    store.resync("1-5-0-0");
    expect((await next()).wanted.keys).toEqual(["a"]);
  });

  it("tells of a metric that nobody looks at, and keeps no points of it", () => {
    const { store, seen } = asking();
    store.frame(frame("1-1-0-0", points("new", 0, [0], [1])));
    expect(seen).toEqual(["keys"]);
    expect([...store.known.keys()]).toEqual(["new"]);
    expect(store.entries.size).toBe(0);
  });

  it("forgets what has not been looked at for long", async () => {
    const { store } = asking();
    for (let i = 0; i < 200; i++) {
      store.use(`m${i}`);
      store.unuse(`m${i}`);
    }
    expect(store.entries.size).toBeLessThan(60);
    expect(store.entries.has("m199")).toBe(true);
  });

  it("asks the server to merge many ranks, and for the picked ones beside that", async () => {
    const { store, next, settled } = asking();
    store.begin();
    const ranks = Array.from({ length: RANKS_EACH_MAX + 1 }, (_, i) => i);
    store.takeKeys([{ key: "k", ranks, points: 9, last_step: 1 }]);
    store.use("k");
    const first = await next();
    expect(first.wanted.merge).toBe(true);
    first.answer(frame("1-9-0-0", { ...points("k", 0, [0], [5]), rank: null as unknown as number }));
    await settled("k");
    store.pick([3]);
    (await next()).answer(frame("1-9-0-0", { ...points("k", 0, [0], [5]), rank: null as unknown as number }));
    const picked = await next();
    expect(picked.wanted).toMatchObject({ ranks: [3] });
    picked.answer(frame("1-9-0-0", points("k", 3, [0], [7])));
    await settled("k");
    store.frame(frame("1-11-0-0", points("k", 3, [1], [8]), points("k", 4, [1], [0])));
    expect(drawn(store, "k")).toMatchObject({ mean: [5, 4], ranks: [{ rank: 3, y: [7, 8] }] });
  });

  it("tries again what failed when somebody looks again", async () => {
    const { store, seen, next } = asking();
    store.begin();
    store.use("a");
    (await next()).answer(new Error("down"));
    await vi.waitFor(() => expect(seen).toContain("failed"));
    store.use("a");
    expect((await next()).wanted.keys).toEqual(["a"]);
  });

  it("fetches a zoomed range where there is more to see, and streams into it", async () => {
    const { store, asked, next, settled } = asking();
    store.begin();
    store.use("fine");
    store.use("wide");
    const bucket: Series = { ...points("wide", 0, [0, 4], [1, 2]), min: [1, 2], max: [1, 2], mean: [1, 2], counts: [4, 4] };
    const [fine, wide] = [points("fine", 0, [0], [1]), bucket];
    const answer = await next();
    answer.answer({ ...frame("1-9-0-0", wide), bucket: 4 });
    await settled("wide");
    await settled("fine");
    expect(fine.key).toBe("fine");
    const done = store.zoom(["fine", "wide"], 4, 12);
    const zoom = await next();
    expect(zoom.wanted).toMatchObject({ keys: ["wide"], from: 4, to: 12 });
    zoom.answer(frame("1-9-0-0", points("wide", 0, [4, 5], [1, 3])));
    await done;
    store.frame(frame("1-11-0-0", points("wide", 0, [6, 20], [5, 6])));
    expect(store.entries.get("wide")?.detail?.grid.xs()).toEqual([4, 5, 6]);
    expect(asked).toEqual([]);
  });
});

it.each([
  [1.5, 1.5],
  [true, 1],
  ["inf", Number.POSITIVE_INFINITY],
  ["-inf", Number.NEGATIVE_INFINITY],
  ["NaN", Number.NaN],
  [undefined, Number.NaN],
])("reads the wire value %s", (wire, value) => expect(number(wire)).toBe(value));

it("groups metrics by prefix, in human order, those of machines last", () => {
  expect(groups(["train/b", "loss", "train/a", "val/x10", "val/x9", "alone/x", "sys/b", "sys/a"])).toEqual([
    ["train", ["train/a", "train/b"]],
    ["val", ["val/x9", "val/x10"]],
    ["", ["alone/x", "loss"]],
    ["sys", ["sys/a", "sys/b"]],
  ]);
  expect(groups(["z/1", "z/2", "a", "b", "c"]).map(([name]) => name)).toEqual(["", "z"]);
});

it("searches by words or by a regular expression", () => {
  expect(matcher("LOSS train")?.("train/loss")).toBe(true);
  expect(matcher("loss val")?.("train/loss")).toBe(false);
  expect(matcher("/^train.*s$/")?.("train/loss")).toBe(true);
  expect(matcher("/(/")).toBeNull();
  expect(matcher("")?.("anything")).toBe(true);
});
