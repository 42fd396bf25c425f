// The list of runs and what is done with it: many of them, broken ones, editing, comparing.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { folder, logger, openPage, serve, until } from "./harness.mjs";

const TIMEOUT_MS = 120_000;
const MANY = 10_000;

const row = (page, name) => page.locator(`tr[data-run=${JSON.stringify(name)}]`);

test("10,000 runs are listed, scrolled, sorted and searched without 10,000 rows", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  for (let n = 0; n < MANY; n++) {
    const name = `run-${String(n).padStart(5, "0")}`;
    const dir = join(base, `exp-${n % 7}`, name);
    await mkdir(dir, { recursive: true });
    const started = new Date(1.7e12 + n * 60_000).toISOString();
    const fields = ["format: 1", `name: ${name}`, `experiment: exp-${n % 7}`, "status: finished", `started_at: ${started}`, `finished_at: ${started}`, `rows: ${(n * 7919) % MANY}`];
    await writeFile(join(dir, "run.yaml"), `${fields.join("\n")}\n`);
  }
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await row(page, "run-09999").waitFor({ timeout: 30_000 });
  const drawn = () => page.locator("tbody tr[data-run]").count();
  assert.ok((await drawn()) < 60, `${await drawn()} rows`);
  assert.equal(await page.getByRole("table").getAttribute("aria-rowcount"), String(MANY + 1));
  const box = page.getByRole("region", { name: "Runs" });
  await box.evaluate((node) => node.scrollTo(0, node.scrollHeight));
  await row(page, "run-00000").waitFor({ timeout: 2000 });
  assert.ok((await drawn()) < 60);
  const began = Date.now();
  await page.getByRole("button", { name: "Points" }).click();
  await box.evaluate((node) => node.scrollTo(0, 0));
  const first = () => page.locator("tbody tr[data-run]").first().getAttribute("data-run");
  // The run whose number of rows is the greatest: 9999 = n * 7919 mod 10000.
  const top = Array.from({ length: MANY }, (_, n) => n).find((n) => (n * 7919) % MANY === MANY - 1);
  await until("sorted by points", 2000, async () => (await first()) === `run-${String(top).padStart(5, "0")}`);
  t.diagnostic(`sorted after ${Date.now() - began} ms`);
  assert.equal(await page.locator("th[aria-sort=descending]").textContent().then((s) => s.trim()), "Points↓");
  await page.keyboard.press("/");
  await page.keyboard.type("run-0123");
  await until("ten are found", 2000, async () => (await drawn()) === 10);
  assert.match(page.url(), /q=run-0123/);
  assert.deepEqual(await complaints(), []);
});

test("a run is renamed in place, and runs are chosen and compared by keys", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const [a, b] = await Promise.all([logger(t, base, "a", { lr: 0.1, same: 1 }), logger(t, base, "b", { lr: 0.2, same: 1 })]);
  for (const [run, loss] of [[a, 3], [b, 2]]) await run.tell({ metrics: { loss, "<i>acc": loss / 10 }, step: 0 });
  for (const [run, loss] of [[a, 2], [b, 1]]) await run.tell({ metrics: { loss, "<i>acc": loss / 10 }, step: 1 });
  await mkdir(join(base, "browser", "broken"));
  await writeFile(join(base, "browser", "broken", "run.yaml"), "name: [broken\n");
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await row(page, "broken").getByText("run.yaml").waitFor();
  assert.equal(await row(page, "broken").locator("[data-kind]").textContent().then((s) => s.trim()), "unreadable");

  await row(page, "a").hover();
  await page.getByRole("button", { name: "Edit a" }).click();
  await page.getByRole("textbox", { name: "Name" }).fill("<b>the first</b>");
  await page.getByRole("textbox", { name: "Tags" }).fill("blue, <u>green</u>");
  await page.getByRole("button", { name: "Save" }).click();
  await row(page, "a").getByText("<b>the first</b>").waitFor();
  await page.reload();
  await row(page, "a").getByText("<b>the first</b>").waitFor();
  await row(page, "a").locator(".tag", { hasText: "<u>green</u>" }).waitFor();

  for (const name of ["a", "b"]) await row(page, name).getByRole("checkbox").check();
  await page.getByRole("heading", { name: "Runs" }).click();
  await page.keyboard.press("c");
  await page.getByRole("heading", { name: "Compare 2 runs" }).waitFor();
  const chart = page.locator('figure[data-metric="loss"]');
  await until("both are in one chart", 10_000, async () => (await chart.getAttribute("data-points")) === "4");
  await b.tell({ metrics: { loss: 0.5 }, step: 2 });
  await until("and both are followed", 3000, async () => (await chart.getAttribute("data-points")) === "5");
  await page.getByRole("link", { name: "config" }).click();
  await page.getByText("1 of 2 parameters differ").waitFor();
  assert.deepEqual(await page.locator("tbody th").allTextContents(), ["lr"]);
  await page.getByRole("link", { name: "best" }).click();
  const loss = page.locator("tr", { has: page.getByRole("rowheader", { name: "loss" }) });
  await until("the least loss is the best", 5000, async () => (await loss.locator(".best").textContent()).startsWith("1") || (await loss.locator(".best").textContent()).startsWith("0.5"));
  await page.getByRole("button", { name: /^loss: min is best/ }).click();
  await until("turned round the greatest is", 2000, async () => (await loss.locator(".best").textContent()).startsWith("3"));
  assert.deepEqual(await complaints(), []);
});

test("saved files are previewed by their kind, and never run", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "files");
  await run.tell({ metrics: { loss: 1 }, step: 0 });
  await run.tell({ flush: true });
  const files = await folder(t);
  // One red pixel.
  const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg==";
  const contents = {
    "plot.png": Buffer.from(png, "base64"),
    "table.csv": "a,b\n1,<script>alert(1)</script>\n",
    "tree.json": '{"a":[1,{"b":null}]}',
    "notes.txt": "first line\n<img src=x onerror=alert(1)>",
    "page.html": "<script>alert(document.domain)</script>",
  };
  for (const [name, content] of Object.entries(contents)) {
    await writeFile(join(files, name), content);
    await run.tell({ artifact: join(files, name) });
  }
  await run.tell({ close: true });
  const published = join(run.runDir, "metrics.parquet");
  await until("the rows are published", 20_000, () => existsSync(published));
  await cp(published, join(run.runDir, "artifacts", "rows.parquet"));
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await row(page, "files").locator("a.name").click();
  await page.getByRole("link", { name: "artifacts" }).click();
  const open = async (name) => {
    await page.getByRole("button", { name, exact: true }).click();
    return page.getByRole("region", { name: `Preview of ${name}` });
  };
  const image = (await open("plot.png")).getByRole("img");
  await until("the picture is there", 5000, () => image.evaluate((node) => node.complete && node.naturalWidth === 1));
  await (await open("table.csv")).getByRole("cell", { name: "<script>alert(1)</script>" }).waitFor();
  await (await open("rows.parquet")).getByRole("columnheader", { name: /timestamp/ }).waitFor();
  await (await open("tree.json")).getByText('"b": null').waitFor();
  await (await open("notes.txt")).getByText("<img src=x onerror=alert(1)>").waitFor();
  const html = await open("page.html");
  await html.locator("pre, a").first().waitFor();
  assert.equal(await page.locator("iframe, main script, img[src=x]").count(), 0);
  assert.deepEqual(await complaints(), []);
});

test("the log is searched on the server, filtered, and followed meanwhile", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const run = await logger(t, base, "talks");
  for (let n = 0; n < 60; n++) await run.tell({ print: n % 10 === 0 ? `checkpoint ${n} saved` : `plain ${n}` });
  await run.tell({ print: "loading  10%\rloading  50%\rloading 100%" });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await row(page, "talks").locator("a.name").click();
  await page.getByRole("link", { name: "logs" }).waitFor();
  await page.keyboard.press("l");
  const line = (text) => page.locator(".line .text", { hasText: text });
  await line("loading 100%").waitFor();
  assert.equal(await line("50%").count(), 0, "a bar that was redrawn is one line");
  await page.keyboard.press("/");
  await page.keyboard.type("checkpoint \\d+ saved$");
  await until("only what matches", 5000, async () => (await page.locator(".line").count()) === 6);
  await run.tell({ print: "plain again" });
  await run.tell({ print: "checkpoint 99 saved" });
  await line("checkpoint 99 saved").waitFor({ timeout: 5000 });
  assert.equal(await page.locator(".line").count(), 7);
  await page.getByRole("searchbox").fill("(");
  await page.getByRole("status").filter({ hasText: /regular expression|regex|parse/i }).waitFor();
  await page.getByRole("searchbox").fill("");
  await line("plain again").waitFor();
  await page.getByRole("button", { name: "err", exact: true }).click();
  await page.getByText("No output captured yet.").waitFor();
  assert.match(page.url(), /stream=err/);
  assert.deepEqual((await complaints()).filter((text) => !text.includes("400")), []);
});

test("names that come late are offered as columns, and the trend finds its metric", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await page.getByText("No runs yet").waitFor();
  const run = await logger(t, base, "late", {});
  await run.tell({ metrics: { acc: 0.5 }, step: 0 });
  await run.tell({ metrics: { acc: 0.75 }, step: 1 });
  await row(page, "late").waitFor();
  const trend = page.getByRole("columnheader", { name: "acc" });
  await trend.waitFor({ timeout: 10_000 });
  await page.getByRole("button", { name: "Columns" }).click();
  const offered = (name) => page.getByRole("region", { name: "Columns" }).getByRole("button", { name, exact: true });
  await offered("acc").waitFor();
  assert.equal(await offered("max loss").count(), 0);
  await run.tell({ metrics: { loss: 2, "<b>late": 1 }, params: { width: 64 }, step: 2 });
  await offered("max loss").waitFor({ timeout: 10_000 });
  await offered("max <b>late").waitFor();
  await offered("width").waitFor({ timeout: 10_000 });
  await offered("max loss").click();
  await until("its value is in the table", 5000, async () => (await row(page, "late").getByRole("cell", { name: "2", exact: true }).count()) > 0);
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("columnheader", { name: "loss", exact: true }).waitFor();
  // While the dialog is shut, and when it is opened.
  await run.tell({ metrics: { later: 1 }, step: 3 });
  await page.getByRole("button", { name: "Columns" }).click();
  await offered("max later").waitFor({ timeout: 10_000 });
  assert.deepEqual(await complaints(), []);
});
