import { describe, expect, it } from "vitest";
import { segments, visible } from "./logtext";

describe("visible", () => {
  it.each([
    ["plain", "plain", "plain"],
    ["colours", "\u001b[1;31mred\u001b[0m text", "red text"],
    ["a terminal title", "\u001b]0;owned\u0007after", "after"],
    ["an unfinished command", "before\u001b]0;never ends", "before"],
    ["a progress bar", "10%\r50%\r100%", "100%"],
    ["a bar that ends with a return", "10%\r50%\r", "50%"],
    ["several lines", "a\rb\nc", "b\nc"],
    ["reordering marks", "a\u202eb", "a\\u202eb"],
    ["control bytes", "a\u0000b\u0007", "a\ufffdb\ufffd"],
    ["html", "<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
  ])("shows %s", (_, raw, shown) => expect(visible(raw)).toBe(shown));

  it("takes a long line of escapes in linear time", () => {
    const started = performance.now();
    visible("\u001b]".repeat(50_000));
    visible("\u001b[".repeat(50_000));
    expect(performance.now() - started).toBeLessThan(500);
  });
});

describe("segments", () => {
  const styles = (text: string) => segments(text).map((s) => [s.text, s.style]);

  it.each([
    ["plain text", "abc", [["abc", ""]]],
    ["a colour and its end", "\u001b[31mred\u001b[0m!", [["red", "ansi-1"], ["!", ""]]],
    ["weight and colour", "\u001b[1;92mok\u001b[22m.", [["ok", "ansi-2 ansi-bold"], [".", "ansi-2"]]],
    ["256 colours", "\u001b[38;5;196mx\u001b[39my", [["x", "ansi-1"], ["y", ""]]],
    ["all colours", "\u001b[38;2;10;10;255mx", [["x", "ansi-4"]]],
    ["a background, which is left out", "\u001b[48;5;1mx", [["x", ""]]],
    ["a redrawn bar", "\u001b[32m10%\r\u001b[32m90%\u001b[0m", [["90%", "ansi-2"]]],
    ["codes that are none", "\u001b[999;;mx", [["x", ""]]],
  ])("reads %s", (_, text, expected) => expect(styles(text)).toEqual(expected));

  it("gives class names that only we chose", () => {
    const names = segments("\u001b[31;38;5;77;1;4;38;2;1;2;3mx").map((s) => s.style).join(" ");
    expect(names).toMatch(/^[a-z0-9 -]*$/);
  });
});
