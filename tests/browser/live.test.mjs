// What a person sees on the page while a real process trains.
//
// Run with: node --test tests/browser/
// Needs the built page in the expman command, server/dashboard/node_modules, and Chromium.

import assert from "node:assert/strict";
import { mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { folder, hideable, logger, openBrowser, openPage, serve, until, visit } from "./harness.mjs";

const TIMEOUT_MS = 120_000;
/** From the call of `log_metrics` to the point on the page. */
const SEEN_MS = 2000;

const chart = (name) => `figure[data-metric=${JSON.stringify(name)}]`;
const latest = (page, name) => page.locator(chart(name)).first().getAttribute("data-latest", { timeout: 20_000 });
const badge = (page) => page.locator("h1 [data-kind]").getAttribute("data-kind");

/** Pixels of a chart that have about the colour of rank 0's line. */
function inked(page, name) {
  return page.locator(`${chart(name)} canvas`).first().evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const [r, g, b] = [0x3b, 0x6f, 0xd4];
    let n = 0;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 40) n += 1;
    return n;
  });
}

async function openRun(page, name) {
  await page.locator(`tr[data-run=${JSON.stringify(name)}] a.name`).click();
  await page.locator("h1", { hasText: name }).waitFor();
}

const tab = (page, name) => page.getByRole("navigation", { name: "Parts of the run" }).getByRole("link", { name }).click();

test("a point is on the page within two seconds of log_metrics", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "first");
  await run.tell({ metrics: { loss: 3 }, step: 0 });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "first");
  await until("the first point is drawn", 20_000, async () => (await latest(page, "loss")) === "3");
  assert.equal(await badge(page), "live");
  const delays = [];
  for (let step = 1; step <= 8; step++) {
    // At any phase of every timer on the way.
    await page.waitForTimeout(150 + step * 130);
    const value = 3 - step / 8;
    const { at } = await run.tell({ metrics: { loss: value }, step });
    await until(`step ${step} is drawn`, SEEN_MS, async () => (await latest(page, "loss")) === String(value));
    delays.push(Date.now() - at * 1000);
  }
  t.diagnostic(`from call to page: ${delays.map((ms) => `${Math.round(ms)} ms`).join(", ")}`);
  assert.ok(Math.max(...delays) < SEEN_MS, `${delays}`);
  assert.ok((await inked(page, "loss")) > 50, "the line of rank 0 is drawn");

  const { at } = await run.tell({ metrics: { accuracy: 0.5 }, step: 9 });
  await until("a metric that is new gets its chart", SEEN_MS, async () => (await page.locator(chart("accuracy")).count()) === 1);
  await page.locator(chart("accuracy")).scrollIntoViewIfNeeded();
  await until("and its point", SEEN_MS, async () => (await latest(page, "accuracy")) === "0.5");
  assert.ok(Date.now() - at * 1000 < SEEN_MS + 500);

  await run.tell({ close: true });
  await until("the end of the run is told", 10_000, async () => (await badge(page)) === "finished");
  assert.deepEqual(await complaints(), []);
});

test("the list of runs is told what happens to them: nothing is asked for twice", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const server = await serve(t, base);
  const context = await openBrowser(t);
  const asked = [];
  const streams = { opened: 0, ended: 0 };
  const isStream = (request) => /\/api\/stream\?/.test(request.url());
  context.on("request", (request) => {
    if (/\/api\/runs($|\?)/.test(request.url())) asked.push(request.url());
    if (isStream(request)) streams.opened += 1;
  });
  for (const end of ["requestfinished", "requestfailed"])
    context.on(end, (request) => {
      if (isStream(request)) streams.ended += 1;
    });
  await hideable(context);
  const { page, complaints } = await visit(context, server.url);
  await page.getByText("No runs yet").waitFor();
  const is = (name, what) =>
    until(`${name} is ${what}`, 30_000, async () => {
      const badge = page.locator(`tr[data-run="${name}"] [data-kind]`);
      return (await badge.count()) === 1 && (await badge.textContent()).trim() === what;
    });
  const state = (kind) => until(`the list is ${kind}`, 20_000, async () => (await page.locator("header [data-kind]").getAttribute("data-kind")) === kind);
  const run = await logger(t, base, "appears");
  await run.tell({ metrics: { loss: 1 }, step: 0 });
  await is("appears", "running");
  await run.kill();
  await is("appears", "crashed");
  await state("live");

  await page.evaluate(() => window.hide(true));
  await until("a hidden tab gives its stream up", 5000, () => streams.ended === 1);
  const meanwhile = await logger(t, base, "meanwhile");
  await page.evaluate(() => window.hide(false));
  await is("meanwhile", "running");
  await state("live");
  assert.deepEqual({ ...streams, asked }, { opened: 2, ended: 1, asked: [] });

  await server.stop();
  await state("reconnecting");
  await meanwhile.tell({ close: true });
  await serve(t, base, server.port);
  await is("meanwhile", "finished");
  await state("live");
  asked.length = 0;
  const late = await logger(t, base, "late");
  await is("late", "running");
  await late.tell({ close: true });
  await is("late", "finished");
  assert.deepEqual(asked, []);
  assert.deepEqual(await complaints(), []);
});

test("where no stream can be had the list is asked for", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const server = await serve(t, base);
  const context = await openBrowser(t);
  await context.route("**/api/stream?*", (route) => route.fulfill({ status: 503, json: { error: "too many" } }));
  const { page, complaints } = await visit(context, server.url);
  await page.getByText("No runs yet").waitFor();
  const run = await logger(t, base, "appears");
  const status = page.locator('tr[data-run="appears"] [data-kind]');
  await status.getByText("running").waitFor({ timeout: 20_000 });
  await run.tell({ close: true });
  await status.getByText("finished").waitFor({ timeout: 20_000 });
  assert.equal(await page.locator("header [data-kind]").getAttribute("data-kind"), "live");
  assert.deepEqual((await complaints()).filter((text) => !text.includes("503")), []);
});

test("how a run ended is told as it was", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const [failed, interrupted, preempted, live] = await Promise.all(
    ["failed", "interrupted", "preempted", "live"].map((name) => logger(t, base, name)),
  );
  await failed.tell({ metrics: { loss: 1 }, step: 0 });
  await failed.raise("<b>no such file</b>");
  await interrupted.end("SIGINT");
  await preempted.end("SIGTERM");
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  for (const [name, told] of [["failed", "failed"], ["interrupted", "interrupted"], ["preempted", "preempted"], ["live", "running"]]) {
    const status = () => page.locator(`tr[data-run="${name}"] [data-kind]`).textContent();
    await until(`${name} is ${told}`, 20_000, async () => (await status()).trim() === told);
  }
  await openRun(page, "failed");
  const failure = page.locator("details.problem");
  await failure.locator("> summary", { hasText: "rank 0: ValueError: <b>no such file</b>" }).click();
  await failure.locator("pre", { hasText: "Traceback (most recent call last)" }).waitFor();
  assert.equal(await page.locator("h1 [data-kind]").textContent().then((s) => s.trim()), "failed");
  await live.tell({ close: true });
  assert.deepEqual(await complaints(), []);
});

test("whatever a name or a line says is shown as text", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const evil = "<img src=x onerror=\"alert('metric')\">";
  const run = await logger(t, base, "<script>alert('run')<-script>");
  await run.tell({ metrics: { [evil]: 1, "</title><script>alert(2)</script>": 2 }, step: 0 });
  await run.tell({ info: "<script>alert('message')</script>" });
  await run.tell({ print: "<svg onload=alert('line')> \u001b]0;title\u0007\u001b[31mred" });
  const turned = "\u202etxt.exe";
  await run.tell({ metrics: { [turned]: 1 }, step: 0 });
  const file = join(await folder(t), "<img src=x onerror=alert('artifact')>.svg");
  await writeFile(file, "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>");
  await run.tell({ artifact: file });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await page.locator(".tag", { hasText: "<u>tag</u>" }).waitFor();
  await openRun(page, "<script>alert('run')<-script>");
  await page.locator("figcaption .name", { hasText: evil }).waitFor();
  // What turns text around does so in its own box only.
  const name = page.locator("figcaption .name", { hasText: turned });
  await name.waitFor();
  assert.equal(await name.evaluate((node) => getComputedStyle(node).unicodeBidi), "isolate");
  await page.getByRole("button", { name: "mean" }).click();
  await page.locator(`${chart(evil)} .u-over`).hover();
  await page.locator(`${chart(evil)} .chart-tip b`).waitFor();
  await page.getByLabel("Along x").selectOption(`metric:${evil}`);
  await tab(page, "logs");
  await page.locator(".line .text", { hasText: "<svg onload=alert('line')> red" }).waitFor();
  await page.getByRole("button", { name: "messages" }).click();
  await page.locator(".line .text", { hasText: "<script>alert('message')</script>" }).waitFor();
  await page.getByRole("searchbox").fill("<script>alert(9)</script>");
  await page.getByText("No line matches.").waitFor();
  await tab(page, "artifacts");
  const saved = page.locator("tr.artifact", { hasText: "<img src=x onerror=alert('artifact')>.svg" });
  const download = page.waitForEvent("download");
  await saved.getByRole("link").click();
  assert.ok((await (await download).path()).length > 0, "it is saved, not shown");
  await tab(page, "config");
  await page.locator("dt", { hasText: "<b>" }).waitFor();
  await page.locator("dd", { hasText: /^<i>$/ }).waitFor();
  await tab(page, "events");
  await page.locator("td", { hasText: /^artifact$/ }).waitFor();
  await tab(page, "system");
  await page.getByText("Where it came from").waitFor();
  assert.equal(await page.locator("img[src=x], svg[onload], main script").count(), 0);
  assert.deepEqual(await complaints(), []);
});

test("a damaged run shows its record and says what is wrong", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "damaged");
  await run.tell({ metrics: { loss: 1 }, step: 0 });
  await run.tell({ close: true });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  const ended = page.locator('tr[data-run="damaged"] [data-kind="finished"]');
  await ended.waitFor({ timeout: 20_000 });
  await truncate(join(run.runDir, "metrics.parquet"), 30);
  await openRun(page, "damaged");
  await page.locator(".problem", { hasText: "metrics.parquet" }).waitFor();
  await tab(page, "config");
  await page.locator("dt", { hasText: "lr" }).waitFor();
  assert.equal(await badge(page), "finished");
  assert.deepEqual((await complaints()).filter((text) => !text.includes("500")), []);
});

test("what is logged while the page is open comes onto it", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  const run = await logger(t, base, "late", {});
  await openRun(page, "late");
  await tab(page, "artifacts");
  await page.getByText("No artifacts saved.").waitFor();
  await tab(page, "config");
  await page.getByText("No parameters logged.").waitFor();
  const value = (name) => page.locator(`dt:text-is(${JSON.stringify(name)}) + dd`).textContent({ timeout: 20_000 });
  await run.tell({ params: { optimizer: { lr: 0.25 } }, metrics: { phase: "warm-up" }, step: 0 });
  assert.equal(await value("optimizer.lr"), "0.25");
  await run.tell({ params: { batch: 8 }, metrics: { phase: "steady" }, step: 1 });
  assert.equal(await value("batch"), "8");
  await tab(page, "charts");
  const text = page.locator(`${chart("phase")} .text`);
  await until("the text is there", 20_000, async () => (await text.textContent()) === "steady");
  await run.tell({ metrics: { phase: "done" }, step: 2 });
  await until("the text is the latest", 20_000, async () => (await text.textContent()) === "done");
  await tab(page, "artifacts");
  const files = join(base, "files");
  await mkdir(files);
  for (const name of ["b.txt", "a.txt"]) {
    await writeFile(join(files, name), `this is ${name}`);
    await run.tell({ artifact: join(files, name) });
    await page.locator("tr.artifact", { hasText: name }).waitFor();
  }
  // The link that was there first still gives its own file.
  const download = page.waitForEvent("download");
  await page.locator("tr.artifact", { hasText: "b.txt" }).getByRole("link").click();
  assert.equal(await readFile(await (await download).path(), "utf8"), "this is b.txt");
  assert.equal(await badge(page), "live", "none of it waited for the end of the run");
  assert.deepEqual(await complaints(), []);
});

test("a server that goes away is told of, and its return continues the charts", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "outage");
  await run.tell({ metrics: { loss: 1 }, step: 0 });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await openRun(page, "outage");
  await until("the first point is drawn", 20_000, async () => (await latest(page, "loss")) === "1");
  await server.stop();
  await until("the outage is told", 5000, async () => (await badge(page)) === "reconnecting");
  assert.equal(await latest(page, "loss"), "1", "what was there stays");
  await run.tell({ metrics: { loss: 2 }, step: 1 });
  await serve(t, base, server.port);
  await until("the page has found the new server", 10_000, async () => (await badge(page)) === "restarted");
  await until("with what was missed", 5000, async () => (await latest(page, "loss")) === "2");
  await run.tell({ metrics: { loss: 3 }, step: 2 });
  await until("and with what comes", SEEN_MS, async () => (await latest(page, "loss")) === "3");
  await until("the page is live again", 10_000, async () => (await badge(page)) === "live");
  assert.deepEqual(await complaints(), []);
});
