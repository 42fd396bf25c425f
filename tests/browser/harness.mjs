// Real processes for the tests: a logging Python, `expman serve`, and a browser.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
export const ROOT = resolve(HERE, "../..");
const { chromium } = createRequire(join(ROOT, "server/dashboard/package.json"))("playwright-core");

const PYTHON = process.env.EXPMAN_TEST_PYTHON ?? join(ROOT, ".venv/bin/python");
const EXPMAN = process.env.EXPMAN_TEST_EXPMAN ?? join(ROOT, ".venv/bin/expman");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const CHROMIUM_FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const START_MS = 30_000;

const undone = new WeakMap();

/** Undoes things after the test, the last one first: a folder goes when nobody writes into it any more. */
function after(t, undo) {
  if (!undone.has(t)) {
    const stack = [];
    undone.set(t, stack);
    t.after(async () => {
      while (stack.length > 0) await stack.pop()();
    });
  }
  undone.get(t).push(undo);
}

/** A folder that is gone after the test. */
export async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), "expman-browser-"));
  after(t, () => remove(path));
  return path;
}

/** The owner of a run whose ranks are gone may still be writing its last files. */
async function remove(path) {
  const gone = async () => {
    await rm(path, { recursive: true, force: true, maxRetries: 5 });
    await new Promise((done) => setTimeout(done, 100));
    return !existsSync(path);
  };
  await until(`${path} is gone`, START_MS, gone);
}

/** A Python process that logs what it is told to. */
export async function logger(t, baseDir, runName, params = { lr: 0.1, "<b>": "<i>" }, place = {}, env = {}) {
  const known = [baseDir, runName, JSON.stringify(params), JSON.stringify(place)];
  const child = spawn(PYTHON, [join(HERE, "logger.py"), ...known], {
    stdio: ["pipe", "ignore", "pipe", "pipe"],
    cwd: baseDir,
    env: { ...process.env, ...env },
  });
  const errors = collect(child.stderr);
  const answers = lines(child.stdio[3], "the logger", child, errors);
  after(t, () => stop(child));
  const { run_dir: runDir } = JSON.parse(await answers());
  const tell = async (command) => {
    child.stdin.write(`${JSON.stringify(command)}\n`);
    return JSON.parse(await answers());
  };
  /** Ends it with an exception that nobody catches. */
  const raise = async (message) => {
    child.stdin.write(`${JSON.stringify({ raise: message })}\n`);
    await ended(child);
  };
  const end = (signal) => stop(child, signal);
  return { runDir, tell, raise, end, kill: () => end("SIGKILL") };
}

/** `expman serve` on a port of its own, or on the one given. */
export async function serve(t, baseDir, port = 0) {
  const child = spawn(EXPMAN, ["serve", baseDir, "--host", "127.0.0.1", "--port", String(port)], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  after(t, () => stop(child));
  // Where the address is printed, standard output or error, is not this test's business.
  const output = collect(child.stdout);
  const errors = collect(child.stderr);
  const url = await until("expman serve tells its address", START_MS, () => {
    if (child.exitCode !== null) throw new Error(`expman serve ended: ${errors()}`);
    return /http:\/\/[^\s"']+/.exec(output() + errors())?.[0];
  });
  return { url: url.replace(/\/?$/, "/"), port: Number(new URL(url).port), stop: () => stop(child) };
}

/** A way to the server that can be cut: what goes over it ends, and new connections may go on. */
export async function wire(t, port) {
  const open = new Set();
  const between = createServer((client) => {
    const server = connect(port, "127.0.0.1");
    for (const [one, other] of [[client, server], [server, client]]) {
      open.add(one);
      one.pipe(other);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        open.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise((done) => between.listen(0, "127.0.0.1", done));
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  after(t, () => {
    cut();
    return new Promise((done) => between.close(done));
  });
  return { url: `http://127.0.0.1:${between.address().port}/`, cut };
}

/** A browser with a fresh profile. */
export async function openBrowser(t, options = {}) {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
  after(t, () => browser.close());
  return browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
}

/** A page in a fresh profile, with everything collected that must not happen on it. */
export async function openPage(t, url, options = {}) {
  return visit(await openBrowser(t, options), url);
}

/** A page more in a browser. */
export async function visit(context, url) {
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("console", (message) => {
    // A server that is away is told of by the browser too; the tests stop it on purpose.
    const expected = /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/;
    if (message.type() === "error" && !expected.test(message.text())) complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(url).origin)) complaints.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`),
    );
  });
  await page.goto(url);
  return { page, complaints: async () => [...complaints, ...(await page.evaluate(() => window.violations))] };
}

/** Gives the context's pages `hide(is)`: headless tabs are all on the screen, and this one goes, or comes back. */
export async function hideable(context) {
  await context.addInitScript(() => {
    let hidden = false;
    Object.defineProperty(document, "hidden", { get: () => hidden });
    window.hide = (is) => {
      hidden = is;
      document.dispatchEvent(new Event("visibilitychange"));
    };
  });
}

/** Asks again until there is an answer. */
export async function until(what, timeoutMs, ask) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

function collect(stream) {
  let text = "";
  stream.setEncoding("utf8");
  stream.on("data", (more) => {
    text += more;
  });
  return () => text;
}

function lines(stream, who, child, errors) {
  const ready = [];
  const waiting = [];
  createInterface({ input: stream }).on("line", (line) => {
    const next = waiting.shift();
    if (next) next.resolve(line);
    else ready.push(line);
  });
  child.on("exit", (code) => {
    for (const next of waiting.splice(0)) next.reject(new Error(`${who} ended with ${code}: ${errors()}`));
  });
  return () =>
    new Promise((resolve, reject) => {
      if (ready.length > 0) resolve(ready.shift());
      else if (child.exitCode !== null) reject(new Error(`${who} has ended: ${errors()}`));
      else waiting.push({ resolve, reject });
    });
}

async function stop(child, signal = "SIGTERM") {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill(signal);
  const late = setTimeout(() => child.kill("SIGKILL"), 8000);
  await ended(child);
  clearTimeout(late);
}

async function ended(child) {
  if (child.exitCode === null && child.signalCode === null) await new Promise((done) => child.once("exit", done));
}
