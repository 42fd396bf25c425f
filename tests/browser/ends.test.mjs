// How a run ends badly, or stands still, as the page tells it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { folder, logger, openPage, serve, until } from "./harness.mjs";

const TIMEOUT_MS = 120_000;

/** Ranks of one run, each a process of its own. */
const ranks = (t, base, name, world, env = {}) =>
  Promise.all(Array.from({ length: world }, (_, rank) => logger(t, base, name, {}, { rank, world_size: world }, env)));

async function openRun(page, name) {
  await page.locator(`tr[data-run=${JSON.stringify(name)}] a.name`).click();
  await page.locator("h1", { hasText: name }).waitFor();
}

test("two ranks raise the same, one is killed: the page tells who was first", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const all = await ranks(t, base, "crashes", 3);
  const evil = "<img src=x onerror=alert(1)> \u202e";
  for (const [rank, run] of all.entries()) {
    await run.tell({ metrics: { loss: rank }, step: 4 });
    await run.tell({ print: `<script>alert(${rank})</script> \u001b[31mlast words of ${rank}\u001b[0m` });
  }
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  let asked = 0;
  page.on("request", (request) => (asked += Number(request.url().includes("/crash"))));
  await openRun(page, "crashes");
  await page.locator("figure canvas").first().waitFor();
  assert.equal(await page.locator("details.crash").count(), 0);
  assert.equal(asked, 0, "nothing is asked of a run that goes well");

  await all[1].raise(`${evil} of rank 1`);
  const box = page.locator("details.crash");
  await box.locator("> summary", { hasText: `First to fail rank 1: ValueError: <img src=x onerror=alert(1)>` }).waitFor({ timeout: 20_000 });
  await all[2].raise(`${evil} of rank 2`);
  await box.locator("> summary", { hasText: "then rank 2" }).waitFor({ timeout: 20_000 });
  await all[0].kill();
  await box.locator("> summary", { hasText: "then ranks 0,2" }).waitFor({ timeout: 40_000 });

  await box.locator("> summary").click();
  const failed = (rank) => box.locator(`[data-failed="${rank}"]`);
  assert.deepEqual(await box.locator("[data-failed]").evaluateAll((nodes) => nodes.map((node) => node.dataset.failed)), ["1", "2", "0"]);
  assert.match(await failed(1).textContent(), /First to fail\s+rank 1, failed:.*at \d{4}-.*pid \d+.*last step 4.*traceback 1/s);
  assert.match(await failed(2).textContent(), /Then\s+rank 2, failed:.*later.*traceback 1/s);
  assert.match(await failed(0).textContent(), /Then\s+rank 0, lost:.*between/s);

  const traceback = box.locator(".traceback");
  assert.equal(await traceback.count(), 1, "the same of two ranks is told once");
  assert.equal(await traceback.getAttribute("data-ranks"), "1-2");
  await traceback.locator("pre", { hasText: "ValueError: <img src=x onerror=alert(1)> \\u202e of rank 1" }).waitFor();
  await traceback.locator("li", { hasText: "of rank 2" }).waitFor();

  const words = failed(0).locator(".line", { hasText: "<script>alert(0)</script> last words of 0" });
  assert.equal(await words.isVisible(), false, "its lines are folded");
  await failed(0).locator("summary").click();
  await words.waitFor();
  assert.equal(await words.locator(".ansi-1").textContent(), "last words of 0");
  assert.equal(await page.locator("img[src=x], main script").count(), 0);

  await failed(0).getByRole("link", { name: "log of rank 0 at that moment" }).click();
  const marked = page.locator(".line.marked .text");
  await until("its last line is marked", 5000, async () => (await marked.count()) === 1 && (await marked.textContent()).endsWith("last words of 0"));
  assert.match(page.url(), /\/logs\?rank=0&at=\d{16}$/);
  assert.equal(await page.getByRole("log").locator(".text", { hasText: "last words of 1" }).count(), 0, "only its lines");

  // Somebody who comes later sees the same, asked for once.
  await until("the run is over", 20_000, async () => (await page.locator("h1 [data-kind]").textContent()).trim() === "failed");
  asked = 0;
  await page.reload();
  await box.locator("> summary", { hasText: "then ranks 0,2" }).waitFor();
  assert.equal(asked, 1);
  assert.deepEqual(await complaints(), []);
});

test("a rank that falls silent while another goes on is named, until it speaks again", { timeout: TIMEOUT_MS }, async (t) => {
  const base = await folder(t);
  const [goes, stops] = await ranks(t, base, "waits", 2, { EXPMAN_SILENT_SECS: "1" });
  const server = await serve(t, base);
  const { page, complaints } = await openPage(t, server.url);
  let step = 0;
  const log = (run) => run.tell({ metrics: { loss: step }, step });
  // Who has said little is not silent: what a rank used to do counts.
  for (; step < 12; step++) {
    await Promise.all([goes, stops].map(log));
    await page.waitForTimeout(100);
  }
  await stops.tell({ print: "before it stopped" });
  await openRun(page, "waits");
  const flag = (rank) => page.locator(`.strip [data-rank="${rank}"] .flag`, { hasText: "silent" });
  assert.equal(await flag(1).count(), 0);
  await until("rank 1 is named", 20_000, async () => {
    await log(goes);
    step += 1;
    return (await flag(1).count()) === 1;
  });
  assert.match(await flag(1).textContent(), /^silent \d+ (m?s|min)/);
  assert.equal(await flag(0).count(), 0);
  const warning = page.locator("[data-warning=silent]");
  assert.match(await warning.textContent(), /Rank 1\s+has logged nothing for .* while others are at step \d+/s);
  await warning.getByRole("link", { name: "Last lines" }).click();
  await page.getByRole("log").locator(".text", { hasText: "before it stopped" }).waitFor();
  assert.match(page.url(), /\/logs\?rank=1$/);
  await until("it speaks again", 20_000, async () => {
    await Promise.all([goes, stops].map(log));
    step += 1;
    return (await flag(1).count()) === 0 && (await warning.count()) === 0;
  });
  assert.deepEqual(await complaints(), []);
});
