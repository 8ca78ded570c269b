// The page that `run` serves without an application of its own: what it says, that it stays up to
// date by itself, and that it can be used without a mouse or a screen.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const { env } = process;
const WIDTHS = { phone: 390, desktop: 1280 };

export default {
  options: ["--device-name", "Living room", "--device-model", "Gateway 2 (example)"],

  async open(page, url) {
    const foreign = [];
    page.on("request", (request) => {
      if (!request.url().startsWith(url)) foreign.push(request.url());
    });
    const problems = [];
    page.on("console", (line) => line.type() === "error" && problems.push(line.text()));
    await page.goto(url);
    await page.waitForFunction(
      () => document.querySelector(".sentence").textContent === "Online. Everything works.",
    );
    for (const colorScheme of ["light", "dark"]) {
      for (const [name, width] of Object.entries(WIDTHS)) {
        await page.setViewportSize({ width, height: 844 });
        await page.emulateMedia({ colorScheme });
        await accessible(page, `${name}, ${colorScheme}`);
        await fits(page, width);
        await screenshot(page, `status-page-${name}-${colorScheme}.png`);
      }
    }
    await keyboard(page);
    if (foreign.length > 0) throw new Error(`the page loads ${foreign}`);
    if (problems.length > 0) throw new Error(problems.join("; "));
    return "one sentence, axe-core, two widths, dark and light";
  },

  /** The page says so when it has lost the device. */
  async live(page) {
    const before = await page.textContent("#as-of");
    await page.waitForFunction(
      (before) =>
        document.getElementById("as-of").textContent !== before &&
        document.getElementById("lost").hidden,
      before,
      { timeout: 5000 },
    );
  },
};

async function accessible(page, where) {
  const axe = createRequire(env.APPS_NODE_PACKAGES).resolve("axe-core");
  // The page's policy allows no script of others; this one comes from the driver.
  const source = await import("node:fs").then((fs) => fs.readFileSync(axe, "utf8"));
  await page.evaluate(source);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  if (violations.length > 0) {
    const what = violations.map(({ id, nodes }) => `${id} (${nodes[0].html})`);
    throw new Error(`${where}: axe-core finds ${what.join(", ")}`);
  }
}

async function fits(page, width) {
  const needed = await page.evaluate(() => document.documentElement.scrollWidth);
  if (needed > width) throw new Error(`the page needs ${needed} pixels, ${width} are there`);
}

/** The link and the details can be reached and used without a mouse. */
async function keyboard(page) {
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.tagName);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  const open = await page.evaluate(() => document.querySelector("details").open);
  if (first !== "A" || !open) throw new Error(`by keyboard: first ${first}, details ${open}`);
}

async function screenshot(page, name) {
  if (!env.APPS_SCREENSHOTS) return;
  mkdirSync(env.APPS_SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: path.join(env.APPS_SCREENSHOTS, name), fullPage: true });
}
