// Home Assistant behind its add-on: onboarding, login, states over its WebSocket, a camera, an upload, and the caller's
// address in its log. `doctor` finds that it does not trust the device before it does.

import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";

import { eventually, listening } from "./processes.mjs";

const USER = { name: "User", username: "user", password: "secret" };

/** At its first start it installs packages. */
const START_LIMIT = 300_000;

/** Another address of this machine than the one that the device connects from. */
const CALLER = "127.0.0.9";

/** Close to the most that Home Assistant accepts. */
const UPLOAD_SIZE = 9 << 20;

/** Frames of the camera that have to come: five seconds. */
const FRAMES = 50;

let port;
let config;
let start;
let running;

export default {
  startLimit: START_LIMIT,

  /** The options of the add-on. The empty ones are as its form sends them. */
  addOn: { forward: "", allow: [], access_log: "common" },

  async start(setting) {
    ({ port } = setting);
    this.addOn.forward = `127.0.0.1:${port}`;
    const { directory, processes, tools } = setting;
    config = path.join(directory, "config");
    mkdirSync(path.join(config, "media"), { recursive: true });
    const python = tools.python.homeAssistant;
    const args = ["-m", "homeassistant", "--config", config];
    // It installs what its integrations need into its environment.
    const bin = path.dirname(python);
    const env = { PATH: `${bin}:${process.env.PATH}`, VIRTUAL_ENV: path.dirname(bin) };
    start = async (name, trust) => {
      configure(trust);
      if (running) await processes.end(running);
      running = processes.start(name, python, args, { env });
    };
    await start("distrusting", "");
  },

  async open(page, url, device) {
    await namesItsDistrust(device);
    const trust = "use_x_forwarded_for: true\n  trusted_proxies: [127.0.0.1]";
    await start("home-assistant", trust);
    await listening(port, START_LIMIT);
    // The device notices within seconds that it answers again.
    await eventually("doctor to find nothing", async () => {
      const { page } = await device.doctor();
      if (page.status !== "ok") throw new Error(JSON.stringify(page));
      return true;
    });
    await ingress(device.statusPage);

    await onboard(url, page);
    await page.goto(url);
    await page.fill("input[name=username]", USER.username, { timeout: 60_000 });
    await page.fill("input[name=password]", USER.password);
    await page.keyboard.press("Enter");
    await page.waitForFunction(
      () => document.querySelector("home-assistant")?.hass?.states?.["camera.test"],
      undefined,
      { timeout: 60_000 },
    );
    return "doctor names trusted_proxies; onboarding, login, states over its WebSocket";
  },

  /** What needs to be shown only once. */
  async last(page, device) {
    await upload(page);
    const frames = await camera(page);
    await callerIsLogged(device);
    const size = `${UPLOAD_SIZE >> 20} MiB`;
    return `${frames} camera frames, upload of ${size}, caller's address in its log`;
  },

  /** Switches, and waits for the new state, which comes as an event. */
  async live(page) {
    const before = await page.evaluate(() => {
      const { hass } = document.querySelector("home-assistant");
      const light = "input_boolean.light";
      // The event below shows that it has been carried out; without a connection it fails.
      hass.callService("input_boolean", "toggle", { entity_id: light }).catch(() => {});
      return hass.states[light].state;
    });
    await page.waitForFunction(
      (before) => {
        const { hass } = document.querySelector("home-assistant");
        return hass.states["input_boolean.light"].state !== before;
      },
      before,
      { timeout: 5000 },
    );
  },
};

/** Writes the configuration, with these lines about the proxies that it trusts. */
function configure(trust) {
  writeFileSync(
    path.join(config, "configuration.yaml"),
    `homeassistant:
  media_dirs:
    local: ${config}/media
http:
  server_host: 127.0.0.1
  server_port: ${port}
  ${trust}
frontend:
media_source:
ffmpeg:
input_boolean:
  light:
camera:
  - platform: ffmpeg
    name: Test
    input: -re -f lavfi -i testsrc2=s=320x180:r=10
`,
  );
}

/** It answers 400 to requests with X-Forwarded-For, and `doctor` says what to configure. */
async function namesItsDistrust(device) {
  const finding = await eventually("Home Assistant's manifest", async () => {
    const { page } = await device.doctor();
    return page.cause?.includes("Home Assistant") && page;
  });
  const lines = 'http: {use_x_forwarded_for: true, trusted_proxies: ["127.0.0.1"]}';
  if (finding.status !== "failure" || !finding.advice.includes(lines)) {
    throw new Error(`doctor: ${JSON.stringify(finding)}`);
  }
}

/** The Supervisor gets the status page for its ingress, which is a frame, and asks the watchdog. */
async function ingress(url) {
  const page = await fetch(url, { headers: { accept: "text/html" } });
  const policy = page.headers.get("content-security-policy");
  if (!policy.includes("frame-ancestors 'self'")) throw new Error(`status page: ${policy}`);
  const health = await fetch(`${url}healthz`);
  if (!health.ok) throw new Error(`watchdog: status ${health.status}`);
}

/** Uploads a file to the local media as the media browser does. */
async function upload(page) {
  const bytes = randomBytes(UPLOAD_SIZE);
  const status = await page.evaluate(async (base64) => {
    const { hass } = document.querySelector("home-assistant");
    const file = await (await fetch(`data:image/png;base64,${base64}`)).blob();
    const body = new FormData();
    body.append("media_content_id", "media-source://media_source/local/.");
    body.append("file", file, "picture.png");
    const route = "/api/media_source/local_source/upload";
    return (await hass.fetchWithAuth(route, { method: "POST", body })).status;
  }, bytes.toString("base64"));
  if (status !== 200) throw new Error(`upload: status ${status}`);
  const stored = readFileSync(path.join(config, "media", "picture.png"));
  const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
  if (digest(stored) !== digest(bytes)) throw new Error("the upload has other bytes");
}

/** Reads the camera's stream, which is a response without end. Returns the number of frames. */
async function camera(page) {
  return page.evaluate(async (wanted) => {
    const { hass } = document.querySelector("home-assistant");
    const route = "/api/camera_proxy_stream/camera.test";
    const response = await hass.fetchWithAuth(route);
    const type = response.headers.get("content-type");
    if (!type.startsWith("multipart/x-mixed-replace")) throw new Error(`camera: ${type}`);
    const reader = response.body.getReader();
    const timer = setTimeout(() => reader.cancel(), 60_000);
    let frames = 0;
    let last = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error(`camera: ${frames} frames only`);
      for (const byte of value) {
        // The first two bytes of a JPEG picture; within one they do not occur.
        if (last === 0xff && byte === 0xd8) frames += 1;
        last = byte;
      }
      if (frames >= wanted) break;
    }
    clearTimeout(timer);
    await reader.cancel();
    return frames;
  }, FRAMES);
}

/** A wrong token leaves the caller's address in Home Assistant's log. */
async function callerIsLogged(device) {
  const headers = { authorization: "Bearer wrong" };
  const status = await device.fetchFrom(CALLER, "/api/", { headers });
  if (status !== 401) throw new Error(`a wrong token: status ${status}`);
  await eventually("the caller's address in the log", () =>
    readFileSync(path.join(config, "home-assistant.log"), "utf8").includes(`from ${CALLER} `),
  );
}

/** Makes the first user as the onboarding page does, and skips its other steps. */
async function onboard(url, page) {
  await page.goto(`${url}/onboarding.html`);
  const post = async (route, body, headers) => {
    const [status, text] = await page.evaluate(
      async ([route, body, headers]) => {
        // Home Assistant takes a form only for tokens.
        const data = route === "/auth/token" ? new URLSearchParams(body) : JSON.stringify(body);
        const answer = await fetch(route, { method: "POST", headers, body: data });
        return [answer.status, await answer.text()];
      },
      [route, body, headers],
    );
    if (status !== 200) throw new Error(`${route}: status ${status} ${text}`);
    return JSON.parse(text);
  };
  const client_id = `${url}/`;
  const user = await post("/api/onboarding/users", { ...USER, client_id, language: "en" });
  const grant = { client_id, code: user.auth_code, grant_type: "authorization_code" };
  const { access_token } = await post("/auth/token", grant);
  const authorization = { authorization: `Bearer ${access_token}` };
  await post("/api/onboarding/core_config", {}, authorization);
  await post("/api/onboarding/analytics", {}, authorization);
  const last = { client_id, redirect_uri: client_id };
  await post("/api/onboarding/integration", last, authorization);
}
