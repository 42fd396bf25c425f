/** A captured line as it would stand on a terminal: colours taken out, redrawn parts collapsed. */

// Control sequences (CSI), commands (OSC, DCS and their like, up to BEL or ST), and two-byte escapes.
const ESCAPES =
  /\u001b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\u0007\u001b]*(?:\u0007|\u001b\\|$)|[ -/]*[0-~])/g;
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;
/** Marks that reorder text: a line with them could pretend to be another one. */
const BIDI = /[\u202a-\u202e\u2066-\u2069]/g;

export function visible(text: string): string {
  const plain = text.replace(ESCAPES, "");
  return plain
    .split("\n")
    .map(collapse)
    .join("\n")
    .replace(CONTROLS, "\ufffd")
    .replace(BIDI, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
}

/** What a carriage return leaves: the last thing drawn over the line. */
function collapse(line: string): string {
  const parts = line.split("\r").filter((part) => part !== "");
  return parts.at(-1) ?? "";
}
