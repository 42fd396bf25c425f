/** One uPlot chart and the little that stands around it, outside of framework state. */

import uPlot from "uplot";
import { axisTicks, RELATIVE_STEPS, xLabel } from "./axes";
import type { Drawing, DrawnLine, Range, XMode, YScale } from "./drawing";
import { value } from "./format";
import { look } from "./palette";
import { css } from "./theme";

/** A place in a chart that a reader chose. */
export interface Picked {
  /** Number of the x in the drawing. */
  index: number;
  /** The line nearest to the pointer. */
  line: DrawnLine | null;
  /** Where it is, in pixels of the plot. */
  left: number;
  top: number;
}

export interface ViewHooks {
  /** A range was drawn with the mouse; null: all of it again. */
  zoom(range: Range | null): void;
  pick(picked: Picked): void;
}

export interface ViewLook {
  x: XMode;
  y: YScale;
  zoom: Range | null;
}

/** The pointer may move so far within a click. */
const CLICK_PX = 3;
/** A second click comes within this, or none does. */
const DOUBLE_MS = 220;
const TOOLTIP_ROWS_MAX = 12;
/** The cursor is linked over the charts of a page. */
const SYNC = uPlot.sync("charts");
const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';

export class ChartView {
  private plot: uPlot | null = null;
  private shape = "";
  private drawing: Drawing | null = null;
  private size = "";
  private clicked: ReturnType<typeof setTimeout> | null = null;
  private readonly tip = document.createElement("div");
  private readonly resize: ResizeObserver;

  constructor(
    private readonly host: HTMLElement,
    private readonly hooks: ViewHooks,
    public look: ViewLook,
  ) {
    this.tip.className = "chart-tip";
    this.tip.hidden = true;
    this.resize = new ResizeObserver(() => this.fit());
    this.resize.observe(host);
  }

  draw(drawing: Drawing): void {
    this.drawing = drawing;
    const columns = this.columns(drawing);
    const lines = drawing.lines.map((l) => `${l.role} ${l.look} ${isFew(l)} ${l.name}`).join("\n");
    const shape = `${this.look.x} ${this.look.y}\n${lines}`;
    if (this.plot && shape === this.shape) {
      // The scale of x asks for the zoom itself, so new points never lose it.
      this.plot.setData(columns);
    } else {
      this.drop();
      this.shape = shape;
      this.plot = new uPlot(this.options(drawing), columns, this.host);
      this.plot.over.append(this.tip);
      this.clickable(this.plot.over);
    }
  }

  /** Takes the colours of a new theme. */
  restyle(): void {
    this.shape = "";
    if (this.drawing) this.draw(this.drawing);
  }

  destroy(): void {
    this.resize.disconnect();
    this.drop();
  }

  /** Moves the cursor by so many values of x, for the keyboard. */
  step(by: number): void {
    const u = this.plot;
    if (!u || u.data[0].length === 0) return;
    const last = u.data[0].length - 1;
    const at = Math.min(Math.max((u.cursor.idx ?? (by > 0 ? -1 : last + 1)) + by, 0), last);
    const x = u.data[0][at] as number;
    const line = u.data.slice(1).find((column) => column?.[at] != null);
    const top = line ? u.valToPos(line[at] as number, "y") : u.over.clientHeight / 2;
    u.setCursor({ left: u.valToPos(x, "x"), top });
  }

  /** Chooses the place under the cursor. */
  pick(): void {
    const u = this.plot;
    const { idx, left = 0, top = 0 } = u?.cursor ?? {};
    if (u && idx != null && left >= 0) this.hooks.pick({ index: idx, line: this.nearest(u, idx, top), left, top });
  }

  get canvas(): HTMLCanvasElement | null {
    return this.plot?.ctx.canvas ?? null;
  }

  private fit(): void {
    const size = `${this.width()} ${this.height()}`;
    if (size === this.size) return;
    this.size = size;
    this.plot?.setSize({ width: this.width(), height: this.height() });
  }

  /** A click that is neither the end of a drag nor the first of two chooses the place under it. */
  private clickable(over: HTMLElement): void {
    let from = 0;
    over.addEventListener("mousedown", (event) => (from = event.clientX));
    over.addEventListener("click", (event) => {
      if (Math.abs(event.clientX - from) > CLICK_PX) return;
      this.cancel();
      if (event.detail === 1) this.clicked = setTimeout(() => this.pick(), DOUBLE_MS);
    });
  }

  private cancel(): void {
    if (this.clicked !== null) clearTimeout(this.clicked);
    this.clicked = null;
  }

  private drop(): void {
    this.cancel();
    this.plot?.destroy();
    this.plot = null;
  }

  private width(): number {
    return Math.max(160, this.host.clientWidth);
  }

  private height(): number {
    return Math.max(120, this.host.clientHeight);
  }

  private columns(drawing: Drawing): uPlot.AlignedData {
    const all = drawing.lines.map((line) => line.y);
    const shown = this.look.y === "log" ? all.map((c) => c.map((y) => (y !== null && y > 0 ? y : null))) : all;
    return [drawing.x, ...shown] as uPlot.AlignedData;
  }

  private options(drawing: Drawing): uPlot.Options {
    const axis: uPlot.Axis = {
      stroke: () => css("--muted"),
      grid: { stroke: () => css("--grid"), width: 1 },
      ticks: { show: false },
      font: FONT,
    };
    const wall = this.look.x === "wall";
    return {
      width: this.width(),
      height: this.height(),
      ms: 1,
      padding: [8, 14, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: wall, range: (_u, min, max) => this.range(min, max) },
        y: { distr: this.look.y === "log" ? 3 : this.look.y === "asinh" ? 4 : 1 },
      },
      axes: [
        {
          ...axis,
          size: 26,
          ...(this.look.x === "time" ? { incrs: RELATIVE_STEPS } : {}),
          ...(wall ? {} : { values: (_u: uPlot, ticks: number[]) => axisTicks(ticks, this.look.x) }),
        },
        { ...axis, size: 58, values: (_u, ticks) => axisTicks(ticks, "y") },
      ],
      series: [{}, ...drawing.lines.map((line) => this.series(line))],
      bands: drawing.bands.map((band) => ({ series: [band.high + 1, band.low + 1], fill: () => tint(band.look) })),
      cursor: {
        sync: { key: SYNC.key, scales: ["x", null] },
        points: { size: 6, show: (u, i) => this.cursorPoint(u, i) },
        drag: { x: true, y: false, setScale: false },
        bind: {
          dblclick: () => () => {
            this.cancel();
            this.hooks.zoom(null);
            return null;
          },
        },
      },
      hooks: {
        setCursor: [(u) => this.point(u)],
        setSelect: [(u) => this.selected(u)],
        draw: [(u) => this.marks(u)],
      },
    };
  }

  private series(line: DrawnLine): uPlot.Series {
    const { role, look: n } = line;
    // Edges are drawn faintly, so that a spike inside one bucket is seen, however thin its band is.
    if (role === "low" || role === "high") {
      const stroke = n === null ? css("--edge") : alpha(look(n).color, "40");
      return { width: 1, stroke, spanGaps: true, points: { show: false } };
    }
    const color = n === null ? css("--ink") : look(n).color;
    return {
      stroke: role === "raw" ? alpha(color, n === null ? "38" : "48") : color,
      dash: n === null ? [] : look(n).dash,
      width: role === "raw" ? 1 : 1.5,
      spanGaps: true,
      points: { show: isFew(line) && role !== "raw", size: 6, fill: color },
    };
  }

  private range(min: number | null, max: number | null): uPlot.Range.MinMax {
    if (this.look.zoom) return [this.look.zoom[0], this.look.zoom[1]];
    if (min === null || max === null) return [0, 1];
    return min === max ? [min - 0.5, max + 0.5] : [min, max];
  }

  private selected(u: uPlot): void {
    const { left, width } = u.select;
    if (width <= CLICK_PX) return;
    const range: Range = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (range[0] < range[1]) this.hooks.zoom(range);
  }

  private cursorPoint(_u: uPlot, i: number): HTMLElement {
    const made = document.createElement("div");
    const line = this.drawing?.lines[i - 1];
    made.className = line?.role === "mean" || line?.role === "rank" ? "cursor-point" : "cursor-point none";
    return made;
  }

  private nearest(u: uPlot, index: number, top: number): DrawnLine | null {
    let best: DrawnLine | null = null;
    let least = Number.POSITIVE_INFINITY;
    for (const line of this.drawing?.lines ?? []) {
      const y = line.y[index];
      if (y == null || line.role === "raw") continue;
      const distance = Math.abs(u.valToPos(y, "y") - top);
      // A line of its own goes before an edge of the band at the same place.
      if (distance < least || (distance === least && (line.role === "rank" || line.role === "mean"))) [best, least] = [line, distance];
    }
    return best;
  }

  /** A small triangle at the top where something not finite was logged. */
  private marks(u: uPlot): void {
    const { ctx, bbox } = u;
    const size = 5 * uPlot.pxRatio;
    ctx.save();
    ctx.fillStyle = css("--bad");
    for (const x of this.drawing?.marks ?? []) {
      const at = u.valToPos(x, "x", true);
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(at - size, bbox.top);
      ctx.lineTo(at + size, bbox.top);
      ctx.lineTo(at, bbox.top + size * 1.6);
      ctx.fill();
    }
    ctx.restore();
  }

  /** Fills the tooltip: x, and every line's value there. */
  private point(u: uPlot): void {
    const { idx, left } = u.cursor;
    const drawing = this.drawing;
    // Linked charts move their cursor too; only the one under the pointer speaks, or under the keyboard.
    if (idx == null || !drawing || left == null || left < 0 || !this.host.matches(":hover, :focus")) {
      this.tip.hidden = true;
      return;
    }
    const rows: [string, string, number | null][] = [];
    for (const line of drawing.lines) {
      const y = line.y[idx];
      if ((line.role === "mean" || line.role === "rank") && y != null) rows.push([line.name, value(y), line.look]);
    }
    const band = drawing.bands.length === 1 ? drawing.bands[0] : undefined;
    const [low, high] = [band && drawing.lines[band.low]?.y[idx], band && drawing.lines[band.high]?.y[idx]];
    const more = rows.length - TOOLTIP_ROWS_MAX;
    if (more > 0) rows.splice(TOOLTIP_ROWS_MAX, more, [`${more} more`, "", null]);
    if (low != null && high != null && low !== high) rows.push(["range", `${value(low)} … ${value(high)}`, null]);
    this.tip.replaceChildren(element("b", xLabel(drawing.x[idx] as number, this.look.x)), ...rows.map(row));
    this.tip.hidden = false;
    const right = left + 14 + this.tip.offsetWidth > u.over.clientWidth;
    this.tip.style.left = right ? "auto" : `${left + 14}px`;
    this.tip.style.right = right ? `${u.over.clientWidth - left + 14}px` : "auto";
  }
}

/** A line of one or two points is seen only by its points. */
function isFew({ y }: DrawnLine): boolean {
  let n = 0;
  for (let i = 0; i < y.length && n < 3; i++) if (y[i] !== null) n += 1;
  return n < 3;
}

const alpha = (color: string, part: string): string => `${color}${part}`;
const tint = (n: number | null): string => (n === null ? css("--band") : alpha(look(n).color, "20"));

function element(tag: string, text: string): HTMLElement {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function row([name, text, n]: [string, string, number | null]): HTMLElement {
  const made = document.createElement("div");
  const label = element("span", name);
  if (n !== null) {
    const swatch = document.createElement("i");
    swatch.style.background = look(n).color;
    label.prepend(swatch);
  }
  made.append(label, element("span", text));
  return made;
}
