// Takes the pictures of docs/images. Usage: node scripts/screenshots.mjs [FOLDER]

import { spawn } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const ROOT = resolve(import.meta.dirname, "..");
const OUT = resolve(process.argv[2] ?? join(ROOT, "docs/images"));
const PYTHON = process.env.EXPMAN_TEST_PYTHON ?? join(ROOT, ".venv/bin/python");
const EXPMAN = process.env.EXPMAN_TEST_EXPMAN ?? join(ROOT, ".venv/bin/expman");
const { chromium } = createRequire(join(ROOT, "server/dashboard/package.json"))("playwright-core");
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
const BYTES_MAX = 200_000;

/** Name, ranks, steps, seconds a step, learning rate, tags. */
const RUNS = [
  ["baseline", 4, 400, 0.02, 0.0006, "nightly"],
  ["wide", 4, 400, 0.024, 0.001, "sweep"],
  ["low-lr", 4, 400, 0.018, 0.0002, "sweep"],
  ["exploding", 4, 400, 0.02, 0.003, "fails", "sweep"],
];
const LIVE = ["long-run", 8, 1200, 0.1, 0.0006, "nightly"];
/** How long the live run has been going when it is looked at. */
const LIVE_MS = 24_000;

const started = [];

function ranks(base, [name, ...rest]) {
  const child = spawn(PYTHON, ["train.py", base, name, ...rest.map(String)], {
    // What the ranks print is captured by their runs.
    stdio: ["ignore", "ignore", "ignore"],
    detached: true,
    cwd: join(base, ".."),
  });
  started.push(child);
  return new Promise((done) => child.once("exit", done));
}

async function serve(base) {
  const child = spawn(EXPMAN, ["serve", base, "--port", "0"], { stdio: ["ignore", "pipe", "pipe"] });
  started.push(child);
  return new Promise((found) => {
    let text = "";
    const read = (more) => {
      text += more;
      const url = /http:\/\/[^\s"']+/.exec(text)?.[0];
      if (url) found(url.replace(/\/?$/, "/"));
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
  });
}

async function take(browser, url, name, { theme, width, act }) {
  const height = width < 500 ? 844 : 900;
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: theme, reducedMotion: "reduce" });
  await page.goto(url);
  await page.waitForLoadState("load");
  await act(page);
  // The first drawing, and one more tick of what is live.
  await page.waitForTimeout(1500);
  const path = join(OUT, `${name}-${theme}${width < 500 ? "-phone" : ""}.png`);
  await page.screenshot({ path });
  await page.close();
  const { size } = await stat(path);
  if (size > BYTES_MAX) throw new Error(`${path} has ${size} bytes, more than ${BYTES_MAX}`);
  console.log(`${path} ${Math.round(size / 1000)} kB`);
}

async function main() {
  const base = join(await mkdtemp(join(tmpdir(), "expman-pictures-")), "experiments");
  await mkdir(base, { recursive: true });
  await mkdir(OUT, { recursive: true });
  let browser;
  try {
    // A traceback on a picture names this file, and not where somebody keeps their sources.
    await copyFile(join(ROOT, "scripts/screenshots_ranks.py"), join(base, "../train.py"));
    await Promise.all(RUNS.map((run) => ranks(base, run)));
    const live = Date.now();
    void ranks(base, LIVE);
    const url = await serve(base);
    await new Promise((done) => setTimeout(done, Math.max(0, live + LIVE_MS - Date.now())));
    const list = await (await fetch(`${url}api/runs`)).json();
    const key = (name) => list.find((run) => run.name === name).key;
    const drawn = (page) => page.locator("figure canvas").nth(2).waitFor();
    const pages = [
      ["runs", "#/", (page) => page.locator("tr[data-run=baseline]").waitFor()],
      ["run", `#/run/${key("long-run")}?rank=5&s=0.6`, drawn],
      ["crashed", `#/run/${key("exploding")}`, async (page) => {
        await drawn(page);
        await page.locator("details.problem > summary").click();
      }],
      ["compare", `#/compare?runs=${["baseline", "wide", "low-lr"].map(key).join(",")}&s=0.8&q=/loss|accuracy|lr/`, drawn],
      ["logs", `#/run/${key("long-run")}/logs`, (page) => page.locator(".line").nth(12).waitFor()],
    ];
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
    for (const [name, hash, act] of pages)
      for (const theme of ["light", "dark"])
        for (const width of name === "runs" || name === "run" ? [1440, 390] : [1440])
          await take(browser, url + hash, name, { theme, width, act });
  } finally {
    await browser?.close();
    for (const child of started) if (child.exitCode === null) await stop(child);
    await rm(join(base, ".."), { recursive: true, force: true, maxRetries: 20, retryDelay: 250 });
  }
}

/** Ranks are their own process group, and end together. */
async function stop(child) {
  const gone = new Promise((done) => child.once("exit", done));
  try {
    process.kill(child.spawnargs.includes("train.py") ? -child.pid : child.pid, "SIGTERM");
  } catch {
    return;
  }
  await gone;
}

await main();
