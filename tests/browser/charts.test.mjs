// Charts of a run: zoom, where a point leads, what a cut connection costs, and many of them at once.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { folder, hideable, logger, openBrowser, openPage, serve, until, visit, wire } from "./harness.mjs";

const TIMEOUT_MS = 120_000;
/** How long the memory of a page with 500 live charts is watched; ten minutes show a slow leak. */
const PLATEAU_SECS = Number(process.env.EXPMAN_TEST_PLATEAU_SECS ?? 25);
const POINTS_MS = 20_000;

const figure = (page, name) => page.locator(`figure[data-metric=${JSON.stringify(name)}]`);
const fact = (page, metric, name) => figure(page, metric).getAttribute(`data-${name}`);

async function openRun(page, name) {
  await page.locator(`tr[data-run=${JSON.stringify(name)}] a.name`).click();
  await page.locator("h1", { hasText: name }).waitFor();
}

async function points(page, metric, n) {
  await until(`${n} points of ${metric}`, POINTS_MS, async () => Number(await fact(page, metric, "points")) === n);
}

/** Draws a range with the mouse, in parts of the plot's width. */
async function drag(page, metric, from, to) {
  const over = figure(page, metric).locator(".u-over");
  await over.scrollIntoViewIfNeeded();
  const { x, y, width, height } = await over.boundingBox();
  await page.mouse.move(x + width * from, y + height / 2);
  await page.mouse.down();
  await page.mouse.move(x + width * to, y + height / 2, { steps: 4 });
  await page.mouse.up();
}

test("a zoom is finer, in the address, linked, and survives live points", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "zoomed");
  await run.tell({ bulk: "loss", from: 0, to: 20_000 });
  await run.tell({ bulk: "other", from: 0, to: 20_000 });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "zoomed");
  await points(page, "loss", 20_000);
  const wide = Number(await fact(page, "loss", "bucket"));
  assert.ok(wide > 1, `${wide} steps in a bucket`);
  await drag(page, "loss", 0.4, 0.42);
  for (const metric of ["loss", "other"])
    await until(`${metric} is drawn step by step`, 5000, async () => (await fact(page, metric, "bucket")) === "1");
  const zoomed = new URL(page.url()).hash;
  assert.match(zoomed, /zoom=\d+(\.\d+)?:\d+/);
  await run.tell({ bulk: "loss", from: 20_000, to: 20_050 });
  await points(page, "loss", 20_050);
  assert.equal(await fact(page, "loss", "bucket"), "1");
  assert.equal(new URL(page.url()).hash, zoomed);
  // What the plot shows, by its own table: only the range, not what came behind it.
  await page.reload();
  await until("the zoom is there again", 10_000, async () => (await fact(page, "loss", "bucket")) === "1");
  await figure(page, "loss").locator(".u-over").dblclick();
  await until("all of it again", 5000, async () => Number(await fact(page, "loss", "bucket")) >= wide);
  assert.ok(!page.url().includes("zoom="));
  assert.deepEqual(await complaints(), []);
});

test("a spike leads to the lines of its rank at that moment", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const ranks = await Promise.all([0, 1].map((rank) => logger(t, base, "spiky", {}, { rank, world_size: 2 })));
  for (let step = 0; step < 41; step++) {
    for (const [rank, run] of ranks.entries()) {
      const spike = rank === 1 && step === 20;
      await run.tell({ metrics: { loss: spike ? 900 : 1 }, step, print: `rank ${rank} step ${step}${spike ? " SPIKE" : ""}` });
    }
  }
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "spiky");
  await points(page, "loss", 82);
  const over = figure(page, "loss").locator(".u-over");
  const { width, height } = await over.boundingBox();
  await over.click({ position: { x: width / 2, y: height / 2 } });
  const menu = figure(page, "loss").locator(".menu a");
  assert.match(await menu.first().textContent(), /rank 1.*900/);
  await page.keyboard.press("Enter");
  const marked = page.locator(".line.marked .text");
  await until("its line is marked", 5000, async () => /rank 1 step (20 SPIKE|19|21)/.test(await marked.textContent()));
  assert.match(page.url(), /\/logs\?.*rank=1/);
  assert.equal(await page.locator(".line .text", { hasText: "rank 0" }).count(), 0, "only its lines");
  assert.ok((await page.locator(".line .text", { hasText: "SPIKE" }).count()) === 1);
  // And by keyboard alone.
  await page.goBack();
  const plot = figure(page, "loss").locator(".plot");
  await points(page, "loss", 82);
  await plot.focus();
  for (let i = 0; i < 21; i++) await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.match(await menu.first().textContent(), /rank 1.*900/);
  assert.deepEqual(await complaints(), []);
});

test("a connection that is cut again and again costs no point and doubles none", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "cut");
  await run.tell({ bulk: "loss", from: 0, to: 10 });
  const server = await serve(t, base);
  const line = await wire(t, server.port);
  const { page, complaints } = await openPage(t, line.url);
  await openRun(page, "cut");
  await points(page, "loss", 10);
  let step = 10;
  for (let n = 0; n < 5; n++) {
    for (let i = 0; i < 15; i++) await run.tell({ bulk: "loss", from: step, to: ++step });
    line.cut();
    for (let i = 0; i < 15; i++) await run.tell({ bulk: "loss", from: step, to: ++step });
    await page.waitForTimeout(150 * n);
  }
  await points(page, "loss", step);
  await figure(page, "loss").hover();
  await page.getByRole("button", { name: "loss as a table" }).click();
  const cells = await figure(page, "loss").locator("tbody tr td:first-child").allTextContents();
  assert.deepEqual(cells.map(Number), Array.from({ length: step }, (_, i) => step - 1 - i));
  assert.deepEqual((await complaints()).filter((text) => !/ERR_/.test(text)), []);
});

test("seven tabs follow a run, though a browser opens six connections", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "tabs");
  await run.tell({ bulk: "loss", from: 0, to: 3 });
  const server = await serve(t, base);
  const context = await openBrowser(t);
  // Headless tabs are all on the screen; here one is, as in a window.
  await hideable(context);
  const tabs = [];
  for (let n = 0; n < 7; n++) {
    const { page } = await visit(context, server.url);
    await openRun(page, "tabs");
    await points(page, "loss", 3);
    tabs.push(page);
    await page.evaluate(() => window.hide(true));
  }
  await run.tell({ bulk: "loss", from: 3, to: 9 });
  for (const page of tabs) {
    assert.equal(await fact(page, "loss", "points"), "3", "a hidden tab rests");
    await page.evaluate(() => window.hide(false));
    await points(page, "loss", 9);
    await page.evaluate(() => window.hide(true));
  }
});

test("20 ranks are drawn merged, and a picked one on top of them", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const world = 20;
  const all = await Promise.all(Array.from({ length: world }, (_, rank) => logger(t, base, "wide", {}, { rank, world_size: world })));
  const log = (step) => Promise.all(all.map((run, rank) => run.tell({ metrics: { loss: rank * 10 + step }, step })));
  for (let step = 0; step < 3; step++) await log(step);
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  const asked = [];
  page.on("request", (request) => request.url().includes("/series") && asked.push(new URL(request.url()).searchParams));
  await openRun(page, "wide");
  await points(page, "loss", 3 * world);
  assert.ok(asked.length > 0 && asked.every((q) => q.get("merge") === "ranks"), "the server merges so many");
  assert.equal(await page.locator(".strip [data-rank]").count(), world);
  await figure(page, "loss").hover();
  await page.getByRole("button", { name: "loss as a table" }).click();
  const cells = async (place) => (await figure(page, "loss").locator(place).allTextContents()).map((text) => text.trim());
  const newest = () => cells("tbody tr:first-child td");
  assert.deepEqual(await cells("thead th"), ["step", "max", "min", "mean"]);
  assert.deepEqual(await newest(), ["2", "192", "2", "97"]);

  await page.locator('.strip [data-rank="7"]').click();
  await until("rank 7 is on top", POINTS_MS, async () => (await cells("thead th")).join() === "step,max,min,mean,rank 7");
  await until("with its own values", POINTS_MS, async () => (await newest()).join() === "2,192,2,97,72");
  assert.match(page.url(), /rank=7/);
  assert.equal(await page.locator('.strip [data-rank="7"]').getAttribute("aria-pressed"), "true");
  await log(3);
  await points(page, "loss", 4 * world);
  await until("both are followed", POINTS_MS, async () => (await newest()).join() === "3,193,3,98,73");
  assert.deepEqual(await complaints(), []);
});

test("a chart's CSV is what was logged, and its PNG is a picture of it", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const values = [
    [0.1, 1 / 3, 1e-7, -2.5, 123_456_789.123],
    [5e-324, 2, 1e300, 0.30000000000000004, -0.75],
  ];
  const name = 'loss, "of" <b>';
  const ranks = await Promise.all(values.map((_, rank) => logger(t, base, "saved", {}, { rank, world_size: 2 })));
  for (const [rank, run] of ranks.entries())
    for (const [step, value] of values[rank].entries()) await run.tell({ metrics: { [name]: value, plain: rank * 3 + (step % 2) }, step: step * 10 });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "saved");
  await page.getByRole("button", { name: "ranks", exact: true }).click();
  const save = async (metric, kind) => {
    await points(page, metric, 10);
    await figure(page, metric).hover();
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name: `Save ${metric} as ${kind}`, exact: true }).click();
    const saved = await download;
    return { name: saved.suggestedFilename(), bytes: await readFile(await saved.path()) };
  };
  const table = await save(name, "CSV");
  assert.match(table.name, /^[\w.-]+\.csv$/);
  const [head, ...rows] = table.bytes.toString().trimEnd().split("\r\n");
  assert.deepEqual(head.split(","), ["step", "max", "min", "rank 0", "rank 1"]);
  const told = rows.map((row) => row.split(",").map(Number));
  assert.deepEqual(told, values[0].map((value, i) => [i * 10, Math.max(value, values[1][i]), Math.min(value, values[1][i]), value, values[1][i]]));

  const picture = await save("plain", "PNG");
  assert.equal(picture.name, "plain.png");
  const seen = await page.evaluate(async (list) => {
    const image = await createImageBitmap(new Blob([new Uint8Array(list)], { type: "image/png" }));
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const [r, g, b] = [0x3b, 0x6f, 0xd4];
    let inked = 0;
    for (let i = 0; i < data.length; i += 4)
      if (Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 40) inked += 1;
    return { width: image.width, height: image.height, inked, corner: data[3] };
  }, [...picture.bytes]);
  assert.ok(seen.width > 250 && seen.height > 150, `${seen.width} x ${seen.height}`);
  assert.ok(seen.inked > 50, `${seen.inked} pixels of the line of rank 0`);
  assert.equal(seen.corner, 255, "on a ground of its own");
  assert.deepEqual(await complaints(), []);
});

test("500 live charts keep few canvases and their memory on a plateau", { timeout: TIMEOUT_MS + PLATEAU_SECS * 1000 }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "many");
  await run.tell({ ticking: 0.25, names: 500 });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "many");
  await until("500 charts", POINTS_MS, async () => (await page.locator("figure").count()) === 500);
  await until("the first is drawn", POINTS_MS, async () => (await page.locator("canvas").count()) > 0);
  const canvases = () => page.locator("canvas").count();
  const most = 36;
  const session = await page.context().newCDPSession(page);
  const heap = async () => {
    await session.send("HeapProfiler.collectGarbage");
    return (await session.send("Runtime.getHeapUsage")).usedSize / 2 ** 20;
  };
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  const sizes = [];
  const ends = Date.now() + PLATEAU_SECS * 1000;
  for (let n = 0; Date.now() < ends; n++) {
    await page.evaluate((to) => scrollTo(0, to), (height * ((n * 7) % 20)) / 20);
    await until("charts on the screen are drawn", 5000, async () => (await canvases()) >= 6);
    assert.ok((await canvases()) <= most, `${await canvases()} canvases`);
    if (n % 4 === 3) sizes.push(await heap());
    await page.waitForTimeout(200);
  }
  t.diagnostic(`heap: ${sizes.map((mb) => mb.toFixed(1)).join(", ")} MiB`);
  const third = Math.floor(sizes.length / 3);
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  // The first third warms up: what was seen is kept up to a bound.
  const [middle, last] = [mean(sizes.slice(third, 2 * third)), mean(sizes.slice(-third))];
  assert.ok(last < middle * 1.2 + 2, `${middle.toFixed(1)} MiB, then ${last.toFixed(1)} MiB`);
  assert.deepEqual(await complaints(), []);
});
