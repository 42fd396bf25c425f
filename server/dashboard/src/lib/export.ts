/** A chart as a file of the reader's own. */

import { css } from "./theme";

export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "_").slice(0, 120);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The picture of a chart with its title, on the page's ground. */
export function png(canvas: HTMLCanvasElement, title: string): Promise<Blob | null> {
  const scale = devicePixelRatio || 1;
  const head = 34 * scale;
  const made = document.createElement("canvas");
  made.width = canvas.width;
  made.height = canvas.height + head;
  const context = made.getContext("2d");
  if (!context) return Promise.resolve(null);
  context.fillStyle = css("--card");
  context.fillRect(0, 0, made.width, made.height);
  context.fillStyle = css("--ink");
  context.font = `600 ${14 * scale}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.fillText(title, 14 * scale, head / 2, made.width - 28 * scale);
  context.drawImage(canvas, 0, head);
  return new Promise((resolve) => made.toBlob(resolve));
}
