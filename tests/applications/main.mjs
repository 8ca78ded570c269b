// Runs web applications behind the built program, and uses each in Chromium through the simulator's
// relay, past a token refresh and a rotation of the certificate. `cargo xtask apps` starts it.
//
// main.mjs NAME… runs these, with the tools that the variables name, and prints one line each.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { startBrowser } from "./browser.mjs";
import { Platform } from "./platform.mjs";
import { Processes, eventually, freePort, listening, tail } from "./processes.mjs";

/** Validity of tokens. A tunnel that breaks later comes back only with a new token. */
const SHORT_S = 15;
/** A device asks for a new token 15 min before this. */
const LONG_S = 1_200;

const { env } = process;
const tools = {
  program: env.APPS_PROGRAM,
  chromium: env.APPS_CHROMIUM,
  certutil: env.APPS_CERTUTIL,
  nginx: env.APPS_NGINX,
  /** A file beside whose `node_modules` are packages. */
  nodePackages: env.APPS_NODE_PACKAGES,
  nodeRed: env.APPS_NODE_RED,
  video: env.APPS_VIDEO,
  python: {
    django: env.APPS_PY_DJANGO,
    jupyterlab: env.APPS_PY_JUPYTERLAB,
    homeAssistant: env.APPS_PY_HOME_ASSISTANT,
  },
};

async function main(names) {
  const root = mkdtempSync(path.join(tmpdir(), "apps-"));
  const processes = new Processes(root);
  let failures = 0;
  try {
    const valid = env.APPS_LONG ? LONG_S : SHORT_S;
    const platform = await Platform.start(tools.program, processes, valid);
    const setting = { tools, directory: root, processes };
    const browser = await startBrowser({ ...setting, rootsFile: platform.rootsFile });
    const distrusting = await startBrowser(setting);
    try {
      // At once: most of the time is waiting for tokens to expire.
      const passed = await Promise.all(
        names.map((name) => check(name, platform, { browser, distrusting }, root)),
      );
      failures = passed.filter((passed) => !passed).length;
    } finally {
      await browser.close();
      await distrusting.close();
    }
  } finally {
    await processes.stop();
  }
  if (failures === 0 && !env.APPS_KEEP) rmSync(root, { recursive: true });
  else console.log(`logs are in ${root}`);
  console.log(`${names.length - failures} passed, ${failures} failed`);
  return failures === 0;
}

/** Shows that Chromium verifies certificates: without the roots it refuses the connection. */
async function refuses(browser, url) {
  const page = await browser.newPage();
  const loaded = page.goto(url).then(() => "no error");
  const outcome = await loaded.catch((error) => error.message.split("\n")[0]);
  await page.close();
  if (!outcome.includes("ERR_CERT_AUTHORITY_INVALID")) {
    throw new Error(`a browser without the roots: ${outcome}`);
  }
}

async function check(name, platform, { browser, distrusting }, root) {
  const begin = Date.now();
  const directory = path.join(root, name);
  mkdirSync(directory);
  const processes = new Processes(directory);
  let context;
  try {
    const { default: application } = await import(`./${name}.mjs`);
    const options = await start(application, directory, processes);
    const device = application.addOn
      ? await platform.addOn(name, application.addOn, processes, directory)
      : await platform.device(name, options, processes, directory);
    await refuses(distrusting, device.url);
    // Home Assistant's fails its first load of a page in Chromium, without a device between, too.
    context = await browser.newContext({ serviceWorkers: "block" });
    const page = await context.newPage();
    const seen = await use(application, device, context, page);
    const seconds = Math.round((Date.now() - begin) / 1000);
    console.log(`ok      ${name}: ${seen} (${seconds} s)`);
    return true;
  } catch (error) {
    // What a browser's driver tells after the first line is its log.
    console.log(`FAILED  ${name}: ${error.message.split("\n")[0]}`);
    for (const page of context?.pages() ?? []) {
      await page.screenshot({ path: path.join(directory, "page.png") }).catch(() => {});
    }
    try {
      console.log(tail(path.join(directory, "run.log")));
    } catch {
      // The device did not start.
    }
    return false;
  } finally {
    await context?.close();
    await processes.stop();
  }
}

/** Starts the application. Returns the options of `run` that serve it. */
async function start(application, directory, processes) {
  if (!application.start) return application.options;
  const port = await freePort();
  await application.start({ port, directory, processes, tools });
  await listening(port, application.startLimit);
  return ["--forward", `127.0.0.1:${port}`];
}

/** Opens the application, and goes on after each change below it. Returns what it saw. */
async function use(application, device, context, page) {
  const seen = [await application.open(page, device.url, device)];
  await eventually("the page to work", () => lives(application, page));

  await (env.APPS_LONG ? device.tokenRefreshed() : device.renewTunnel());
  const refreshed = Date.now();
  await eventually("the page to go on after the token refresh", () => lives(application, page));
  seen.push(`new token: page goes on after ${seconds(refreshed)} s`);
  await load(context, device.url);

  const before = await application.connections?.(page);
  const serial = await device.rotate();
  const rotated = Date.now();
  await eventually("the page to go on after the rotation", () => lives(application, page));
  const after = await application.connections?.(page);
  if (after !== before) throw new Error(`the rotation broke a connection: ${before}, ${after}`);
  await load(context, device.url);
  seen.push(`certificate ${serial.slice(0, 8)}…: goes on after ${seconds(rotated)} s`);

  await device.dropTunnel();
  const dropped = Date.now();
  await eventually("the page to go on after the tunnel broke", () => lives(application, page));
  seen.push(`tunnel cut: goes on after ${seconds(dropped)} s`);
  if (application.last) seen.push(await application.last(page, device));
  return seen.join("; ");
}

async function lives(application, page) {
  await application.live(page);
  return true;
}

/** A new page of the same user loads. */
async function load(context, url) {
  const page = await context.newPage();
  try {
    const response = await page.goto(url);
    if (response.status() !== 200) throw new Error(`a new load: status ${response.status()}`);
  } finally {
    await page.close();
  }
}

const seconds = (since) => ((Date.now() - since) / 1000).toFixed(1);

process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
