// Node-RED: a flow is deployed in the editor, and its debug messages come over a WebSocket.

import { createRequire } from "node:module";
import path from "node:path";

const FLOW = [
  { id: "tab", type: "tab", label: "Flow" },
  {
    id: "inject",
    type: "inject",
    z: "tab",
    x: 100,
    y: 100,
    props: [{ p: "payload" }],
    payload: "",
    payloadType: "date",
    wires: [["debug"]],
  },
  {
    id: "debug",
    type: "debug",
    z: "tab",
    x: 300,
    y: 100,
    tosidebar: true,
    complete: "payload",
    wires: [],
  },
];

export default {
  start({ port, directory, processes, tools }) {
    const script = createRequire(tools.nodeRed).resolve("node-red/red.js");
    const args = [script, "--userDir", path.join(directory, "user"), "--port", `${port}`];
    args.push("-D", "uiHost=127.0.0.1", "-D", "telemetry.enabled=false");
    processes.start("node-red", process.execPath, args);
  },

  async open(page, url) {
    await page.goto(url);
    await page.waitForSelector("#red-ui-workspace-tabs li", { timeout: 60_000 });
    const status = await page.evaluate(async (flow) => {
      const headers = { "content-type": "application/json", "node-red-deployment-type": "full" };
      const body = JSON.stringify(flow);
      const deployed = await fetch("flows", { method: "POST", headers, body });
      return deployed.status;
    }, FLOW);
    if (status !== 204) throw new Error(`deploying: status ${status}`);
    await page.reload();
    await page.waitForSelector("#inject", { timeout: 60_000, state: "attached" });
    return "the editor, a deployed flow, debug messages over its WebSocket";
  },

  /** Presses the flow's button, and waits for the debug message of now. */
  async live(page) {
    const before = await page.locator(".red-ui-debug-msg").count();
    const status = await page.evaluate(async () => {
      const answer = await fetch("inject/inject", { method: "POST" });
      return answer.status;
    });
    if (status !== 200) throw new Error(`the button: status ${status}`);
    await page.waitForFunction(
      (before) => document.querySelectorAll(".red-ui-debug-msg").length > before,
      before,
      { timeout: 5000 },
    );
  },
};
