// Every page for everyone: axe finds nothing in either theme, and a phone needs no sideways scrolling.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";

import { folder, logger, openPage, ROOT, serve, until } from "./harness.mjs";

const TIMEOUT_MS = 180_000;
const AXE = await readFile(createRequire(join(ROOT, "server/dashboard/package.json")).resolve("axe-core/axe.min.js"), "utf8");

/** A run with something on each of its pages, and one that failed. */
async function runs(t, base) {
  const ranks = await Promise.all([0, 1].map((rank) => logger(t, base, "whole", { lr: 0.1, deep: { er: "x".repeat(300) } }, { rank, world_size: 2 })));
  const file = join(base, "table.csv");
  await writeFile(file, "a,b\n1,2\n");
  for (const run of ranks) {
    for (let step = 0; step < 5; step++)
      await run.tell({ metrics: { "train/loss": 1 / (step + 1), "train/step_time_ms": 100, "sys/load": step, phase: "warm" }, step, print: `step ${step} ${"long ".repeat(60)}\u001b[31mred\u001b[0m` });
    await run.tell({ info: "a message" });
  }
  await ranks[0].tell({ artifact: file });
  const failed = await logger(t, base, "failed");
  await failed.tell({ metrics: { loss: 1 }, step: 0 });
  await failed.raise("why");
}

const PAGES = [
  ["runs", "#/", "tr[data-run=whole]"],
  ["columns", "#/?group=experiment", "tr[data-run=whole]"],
  ["charts", "#/run/KEY?s=0.5&y=asinh&rank=1", "figure canvas"],
  ["a full chart", "#/run/KEY?full=train/loss", "figure.full canvas"],
  ["ranks", "#/run/KEY/ranks", "tbody tr"],
  ["logs", "#/run/KEY/logs?wrap=1", ".line"],
  ["messages", "#/run/KEY/logs?file=run", ".line"],
  ["config", "#/run/KEY/config", "dt"],
  ["events", "#/run/KEY/events", "tbody tr"],
  ["artifacts", "#/run/KEY/artifacts", "tr.artifact"],
  ["system", "#/run/KEY/system", "figure canvas"],
  ["failure", "#/run/FAILED", "details.crash"],
  ["compare", "#/compare?runs=KEY,FAILED", "figure canvas"],
  ["differences", "#/compare?runs=KEY,FAILED&tab=config", "tbody th"],
  ["best", "#/compare?runs=KEY,FAILED&tab=best", "tbody th"],
  ["no such run", "#/run/0000000000000000", "h1"],
  ["nothing to compare", "#/compare", "h1"],
];

test("every page is clean for axe in both themes, and fits a phone", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  await runs(t, base);
  const server = await serve(t, base);
  const list = await until("both runs", 20_000, async () => {
    const all = await (await fetch(`${server.url}api/runs`)).json();
    return all.length === 2 && all.some((run) => run.status === "failed") && all;
  });
  const key = (name) => list.find((run) => run.name === name).key;
  const { page, complaints } = await openPage(t, server.url, { reducedMotion: "reduce" });
  await page.evaluate(AXE);
  const found = [];
  for (const [name, hash, ready] of PAGES) {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.evaluate((to) => (location.hash = to), hash.replaceAll("KEY", key("whole")).replaceAll("FAILED", key("failed")));
    await page.locator(ready).first().waitFor();
    if (name === "columns") await page.getByRole("button", { name: "Columns" }).click();
    if (name === "failure") {
      await page.locator("details.crash [data-failed]").first().waitFor({ state: "attached" });
      for (const summary of await page.locator("details.crash summary").all()) await summary.evaluate((node) => (node.parentElement.open = true));
    }
    if (name === "artifacts") {
      await page.getByRole("button", { name: "table.csv" }).click();
      await page.getByRole("region", { name: "Rows of table.csv" }).waitFor();
    }
    for (const theme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: theme });
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const told = violations.flatMap((v) => v.nodes.map((n) => `${name}, ${theme}: ${v.id} ${n.target} ${n.failureSummary}`));
      found.push(...told);
    }
    await page.setViewportSize({ width: 390, height: 844 });
    // Two frames on, everything has found its width.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    if (wide > 390) found.push(`${name} is ${wide} pixels wide on a phone`);
  }
  assert.deepEqual(found, []);
  assert.deepEqual((await complaints()).filter((text) => !text.includes("404")), []);
});

test("keys lead everywhere, and help tells of them", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  await runs(t, base);
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  await page.locator("tr[data-run=whole]").waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  await until("the second is selected", 2000, async () => page.url().includes("sel="));
  await page.keyboard.press("Enter");
  await page.locator("figure canvas").first().waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("f");
  await page.locator("figure.full").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("figure.full").waitFor({ state: "detached" });
  await page.keyboard.press("l");
  await page.getByRole("log").waitFor();
  await page.keyboard.press("f");
  await page.getByRole("button", { name: "follow", exact: true }).waitFor();
  await page.keyboard.press("c");
  await page.locator("figure canvas").first().waitFor();
  assert.deepEqual(await complaints(), []);
});
