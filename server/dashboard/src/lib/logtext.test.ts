import { describe, expect, it } from "vitest";
import { visible } from "./logtext";

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
