import { describe, expect, it } from "vitest";
import { decode } from "./columns";

/** An answer written by hand as the contract says: length, header, padding, seven columns each. */
function answer(header: object, floats: number[]): ArrayBuffer {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const data = Math.ceil((4 + json.length) / 8) * 8;
  const buffer = new ArrayBuffer(data + floats.length * 8);
  const view = new DataView(buffer);
  view.setUint32(0, json.length, true);
  new Uint8Array(buffer, 4).set(json);
  floats.forEach((x, i) => view.setFloat64(data + i * 8, x, true));
  return buffer;
}

const a = { key: "a", rank: 0, kind: "number", n: 9, non_finite: 1, last_step: 5, last: "NaN", len: 2, at: 0 };
const b = { key: "b", rank: null, kind: "number", n: 1, last_step: 8, last: 7, len: 1, at: 112 };
const header = {
  cursor: "1-10-0-0",
  bucket: 4,
  problems: [],
  series: [a, b, { key: "ü, text", rank: 1, kind: "text", n: 3, value: "warm-up", len: 0 }],
};
const floats = [0, 4, 100, 200, 1, 2, 3, 4, 2, 3, 2.5, 3.5, 4, 5, 8, 900, 7, 7, 7, 7, 1];

describe("decode", () => {
  // Every length of padding is met: the header is made longer by one byte at a time.
  it.each([0, 1, 2, 3, 4, 5, 6, 7])("reads columns behind %i bytes more of header", (n) => {
    const read = decode(answer({ ...header, pad: "x".repeat(n) }, floats));
    expect(read).toMatchObject({ cursor: "1-10-0-0", bucket: 4 });
    const [first, second, text] = read.series;
    expect(first).toMatchObject({ key: "a", rank: 0, n: 9, nonFinite: 1, latest: "NaN", length: 2 });
    expect([...(first?.step ?? [])]).toEqual([0, 4]);
    expect([...(first?.time ?? [])]).toEqual([100, 200]);
    expect([...(first?.min ?? [])]).toEqual([1, 2]);
    expect([...(first?.max ?? [])]).toEqual([3, 4]);
    expect([...(first?.mean ?? [])]).toEqual([2, 3]);
    expect([...(first?.last ?? [])]).toEqual([2.5, 3.5]);
    expect([...(first?.count ?? [])]).toEqual([4, 5]);
    expect(second).toMatchObject({ rank: null, latest: 7 });
    expect([...(second?.time ?? [])]).toEqual([900]);
    expect(text).toMatchObject({ kind: "text", latest: "warm-up", length: 0 });
  });

  it("refuses what is cut off anywhere", () => {
    const whole = answer(header, floats);
    for (const length of [0, 3, 4, 50, whole.byteLength - 8])
      expect(() => decode(whole.slice(0, length)), `${length}`).toThrow();
  });
});
