/** One uPlot chart and the little that stands around it, outside of framework state. */

import uPlot from "uplot";
import { type Grid, type Lines, lines } from "./grid";
import { value } from "./format";
import { look } from "./palette";
import { css } from "./theme";

/** Every rank as a line, or their mean; the band over all ranks is there in both. */
export type Mode = "ranks" | "mean";

export interface ChartLook {
  mode: Mode;
  /** Ranks with a line of their own; null: all. */
  only: ReadonlySet<number> | null;
  log: boolean;
}

/** Short facts for the chart's head, as of the last drawing. */
export interface Facts {
  latest: string;
  bucket: number;
  nonFinite: string;
  empty: boolean;
}

const HEIGHT_PX = 220;
const TOOLTIP_ROWS_MAX = 12;
/** Cursor and zoom are linked over the charts of a run. */
const SYNC = uPlot.sync("charts");

export class ChartView {
  private plot: uPlot | null = null;
  private shape = "";
  private data: Lines | null = null;
  private zoomed = false;
  private readonly tip = document.createElement("div");
  private readonly resize: ResizeObserver;

  constructor(
    private readonly host: HTMLElement,
    private readonly grid: () => Grid | undefined,
    private readonly tell: (facts: Facts) => void,
    public look: ChartLook,
  ) {
    this.tip.className = "chart-tip";
    this.tip.hidden = true;
    this.resize = new ResizeObserver(() => {
      this.plot?.setSize({ width: this.width(), height: HEIGHT_PX });
    });
    this.resize.observe(host);
  }

  draw(): void {
    const grid = this.grid();
    if (!grid) return;
    const data = lines(grid, this.look.only);
    this.data = data;
    const columns = this.columns(data);
    const shape = `${this.look.mode} ${this.look.log} ${data.ranks.map((r) => r.rank).join()}`;
    if (this.plot && shape === this.shape) {
      const { min, max } = this.plot.scales.x ?? {};
      this.plot.setData(columns, !this.zoomed);
      // Setting x again lets y follow the new points, and leaves the zoom where the reader put it.
      if (this.zoomed && min != null && max != null) this.plot.setScale("x", { min, max });
    } else {
      this.drop();
      this.shape = shape;
      this.plot = new uPlot(this.options(data), columns, this.host);
      this.plot.over.append(this.tip);
    }
    this.tell(facts(grid, this.look.only));
  }

  /** Takes the colours of a new theme. */
  restyle(): void {
    this.shape = "";
    this.draw();
  }

  destroy(): void {
    this.resize.disconnect();
    this.drop();
  }

  private drop(): void {
    this.plot?.destroy();
    this.plot = null;
    this.zoomed = false;
  }

  private width(): number {
    return Math.max(160, this.host.clientWidth);
  }

  private columns(data: Lines): uPlot.AlignedData {
    const own = this.look.mode === "mean" ? [data.mean] : [];
    const ranks = this.look.mode === "ranks" || this.look.only ? data.ranks.map((r) => r.y) : [];
    const all = [data.high, data.low, ...own, ...ranks];
    const shown = this.look.log ? all.map((c) => c.map((y) => (y !== null && y > 0 ? y : null))) : all;
    return [data.x, ...shown] as uPlot.AlignedData;
  }

  private options(data: Lines): uPlot.Options {
    const axis: uPlot.Axis = {
      stroke: () => css("--muted"),
      grid: { stroke: () => css("--grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    // Edges are drawn faintly, so that a spike inside one bucket is seen, however thin its band is.
    const edge: uPlot.Series = { width: 1, stroke: () => css("--edge"), spanGaps: true, points: { show: false } };
    const line = (color: string, dash: number[], width: number): uPlot.Series => ({
      stroke: color,
      dash,
      width,
      spanGaps: true,
      points: { show: data.x.length < 3, size: 5, fill: color },
    });
    const series: uPlot.Series[] = [{}, edge, edge];
    if (this.look.mode === "mean") series.push(line(css("--ink"), [], 2));
    if (this.look.mode === "ranks" || this.look.only)
      for (const { rank } of data.ranks) series.push(line(look(rank).color, look(rank).dash, 1.5));
    return {
      width: this.width(),
      height: HEIGHT_PX,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      scales: { x: { time: false }, y: { distr: this.look.log ? 3 : 1 } },
      axes: [
        { ...axis, size: 28, values: (_, ticks) => ticks.map((t) => value(t)) },
        { ...axis, size: 62, values: (_, ticks) => ticks.map((t) => (t == null ? "" : value(t))) },
      ],
      series,
      bands: [{ series: [1, 2], fill: () => css("--band") }],
      cursor: {
        sync: { key: SYNC.key, scales: ["x", null] },
        points: { size: 6 },
        drag: { x: true, y: false, uni: 20 },
      },
      hooks: {
        setCursor: [(u) => this.point(u)],
        setScale: [(u, scale) => this.scaled(u, scale)],
      },
    };
  }

  private scaled(u: uPlot, scale: string): void {
    if (scale !== "x") return;
    const x = u.data[0];
    const { min, max } = u.scales.x ?? {};
    if (x.length < 2 || min == null || max == null) this.zoomed = false;
    else this.zoomed = min > (x[0] as number) || max < (x.at(-1) as number);
  }

  /** Fills the tooltip: the step, and every line's value there. */
  private point(u: uPlot): void {
    const { idx, left } = u.cursor;
    const data = this.data;
    // Linked charts move their cursor too; only the one under the pointer speaks.
    if (idx == null || !data || left == null || left < 0 || !this.host.matches(":hover")) {
      this.tip.hidden = true;
      return;
    }
    const rows: [string, string, string | null][] = [];
    if (this.look.mode === "mean") rows.push(["mean", value(data.mean[idx]), null]);
    if (this.look.mode === "ranks" || this.look.only)
      for (const { rank, y } of data.ranks)
        if (y[idx] != null) rows.push([`rank ${rank}`, value(y[idx]), look(rank).color]);
    const more = rows.length - TOOLTIP_ROWS_MAX;
    if (data.low[idx] !== data.high[idx])
      rows.splice(TOOLTIP_ROWS_MAX, more, ["range", `${value(data.low[idx])} … ${value(data.high[idx])}`, null]);
    else if (more > 0) rows.splice(TOOLTIP_ROWS_MAX, more, [`${more} more`, "", null]);
    this.tip.replaceChildren(element("b", `step ${value(data.x[idx])}`), ...rows.map(row));
    this.tip.hidden = false;
    const right = left + 14 + this.tip.offsetWidth > u.over.clientWidth;
    this.tip.style.left = right ? "auto" : `${left + 14}px`;
    this.tip.style.right = right ? `${u.over.clientWidth - left + 14}px` : "auto";
  }
}

function element(tag: string, text: string): HTMLElement {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function row([name, text, color]: [string, string, string | null]): HTMLElement {
  const made = document.createElement("div");
  const label = element("span", name);
  if (color) {
    const swatch = document.createElement("i");
    swatch.style.background = color;
    label.prepend(swatch);
  }
  made.append(label, element("span", text));
  return made;
}

function facts(grid: Grid, only: ReadonlySet<number> | null): Facts {
  const bad: string[] = [];
  let latest: { step: number; value: number } | null = null;
  for (const rank of grid.ranks()) {
    if (only && !only.has(rank)) continue;
    const c = grid.column(rank);
    if (c.lastStep !== null && c.lastValue !== null && (!latest || c.lastStep >= latest.step))
      latest = { step: c.lastStep, value: c.lastValue };
    if (c.nonFinite > 0) {
      const where = c.lastNonFinite ? `, ${c.lastNonFinite.value} at step ${c.lastNonFinite.step}` : "";
      bad.push(`rank ${rank}, ${c.nonFinite} ${c.nonFinite === 1 ? "value" : "values"}${where}`);
    }
  }
  return {
    latest: latest ? value(latest.value) : "–",
    bucket: grid.width,
    nonFinite: bad.join(" · "),
    empty: grid.length === 0,
  };
}
