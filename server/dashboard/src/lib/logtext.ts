/** A captured line as it would stand on a terminal: redrawn parts collapsed, colours as classes. */

// Control sequences (CSI), commands (OSC, DCS and their like, up to BEL or ST), and two-byte escapes.
const ESCAPES =
  /\u001b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\|$)|[ -/]*[0-~])/g;
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;
/** Marks that reorder text: a line with them could pretend to be another one. */
const BIDI = /[\u202a-\u202e\u2066-\u2069]/g;

/** A piece of a line in one style. */
export interface Segment {
  text: string;
  /** Classes of the style sheet; empty for plain text. */
  style: string;
}

export function visible(text: string): string {
  return segments(text)
    .map((s) => s.text)
    .join("");
}

/** The text cut where its style changes. Only colours and weights are taken from escapes, nothing else. */
export function segments(text: string): Segment[] {
  const shown = text.includes("\r") ? text.split("\n").map(collapse).join("\n") : text;
  const found: Segment[] = [];
  let style = new Style();
  let from = 0;
  const add = (piece: string): void => {
    if (piece === "") return;
    const clean = piece.replace(CONTROLS, "\ufffd").replace(BIDI, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
    const names = style.names();
    const last = found.at(-1);
    if (last && last.style === names) last.text += clean;
    else found.push({ text: clean, style: names });
  };
  for (const match of shown.matchAll(ESCAPES)) {
    add(shown.slice(from, match.index));
    from = match.index + match[0].length;
    const codes = /^\u001b\[([0-9;]*)m$/.exec(match[0]);
    if (codes) style = style.with(codes[1] as string);
  }
  add(shown.slice(from));
  return found;
}

/** What a carriage return leaves: the last thing drawn over the line. */
function collapse(line: string): string {
  const parts = line.split("\r").filter((part) => part.replace(ESCAPES, "") !== "");
  return parts.at(-1) ?? "";
}

const FLAGS: Record<number, [string, boolean]> = {
  1: ["ansi-bold", true],
  2: ["ansi-dim", true],
  3: ["ansi-italic", true],
  4: ["ansi-under", true],
  23: ["ansi-italic", false],
  24: ["ansi-under", false],
};

class Style {
  constructor(
    private readonly color = "",
    private readonly flags: ReadonlySet<string> = new Set(),
  ) {}

  names(): string {
    return [this.color, ...this.flags].filter(Boolean).join(" ");
  }

  with(codes: string): Style {
    let color = this.color;
    let flags = new Set(this.flags);
    const list = codes.split(";").map(Number);
    for (let i = 0; i < list.length; i++) {
      const code = list[i] as number;
      const flag = FLAGS[code];
      if (code === 0) [color, flags] = ["", new Set()];
      else if (flag) flag[1] ? flags.add(flag[0]) : flags.delete(flag[0]);
      else if (code === 22) {
        flags.delete("ansi-bold");
        flags.delete("ansi-dim");
      } else if (code === 39) color = "";
      else if (code >= 30 && code <= 37) color = `ansi-${code - 30}`;
      else if (code >= 90 && code <= 97) color = `ansi-${code - 90}`;
      else if (code === 38 || code === 48) {
        const [name, skipped] = extended(list.slice(i + 1));
        if (code === 38) color = name;
        i += skipped;
      }
    }
    return new Style(color, flags);
  }
}

/** The nearest of the eight colours to one of 256 or of all, and how many codes it took. */
function extended(codes: number[]): [string, number] {
  if (codes[0] === 5) {
    const n = codes[1] ?? 0;
    if (n < 16) return [`ansi-${n % 8}`, 2];
    if (n >= 232) return [n > 243 ? "ansi-7" : "", 2];
    const level = (part: number): number => (part > 2 ? 1 : 0);
    const cube = n - 16;
    return [`ansi-${level(Math.floor(cube / 36)) + 2 * level(Math.floor(cube / 6) % 6) + 4 * level(cube % 6)}`, 2];
  }
  if (codes[0] === 2) {
    const level = (part: number | undefined): number => ((part ?? 0) > 127 ? 1 : 0);
    return [`ansi-${level(codes[1]) + 2 * level(codes[2]) + 4 * level(codes[3])}`, 4];
  }
  return ["", 0];
}
