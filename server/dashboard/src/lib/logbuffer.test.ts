import { expect, it } from "vitest";
import { LogBuffer } from "./logbuffer";

const line = (at: number, rank = 0) => ({ at, t: "", rank, text: `line ${at}` });

it("takes a line once, whether fetched or streamed first", () => {
  const log = new LogBuffer();
  log.replace([line(0), line(10)], 20);
  expect(log.add([line(10), line(20)], 30, () => true)).toBe(true);
  expect(log.lines.map((l) => l.at)).toEqual([0, 10, 20]);
  expect(log.add([line(20)], 30, () => true)).toBe(false);
});

it("keeps what was streamed while the tail was being fetched", () => {
  const log = new LogBuffer();
  log.add([line(20), line(30)], 40, () => true);
  log.replace([line(0), line(10), line(20)], 30);
  expect(log.lines.map((l) => l.at)).toEqual([0, 10, 20, 30]);
  expect(log.add([line(30)], 40, () => true)).toBe(false);
});

it("keeps the last lines only", () => {
  const log = new LogBuffer(3);
  log.replace([0, 1, 2, 3].map((n) => line(n)), 4);
  log.add([line(4), line(5)], 6, () => true);
  expect(log.lines.map((l) => l.at)).toEqual([3, 4, 5]);
});

it("takes only lines that are wanted", () => {
  const log = new LogBuffer();
  log.add([line(0, 0), line(5, 1)], 10, (l) => l.rank === 1);
  expect(log.lines.map((l) => l.rank)).toEqual([1]);
});

it("goes back within its bound", () => {
  const log = new LogBuffer(3);
  log.replace([line(20), line(30)], 40);
  log.prepend([line(0), line(10)]);
  expect(log.lines.map((l) => l.at)).toEqual([0, 10, 20]);
});
