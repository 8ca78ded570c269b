// Home Assistant: onboarding, login, and states over its WebSocket.

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";

const USER = { name: "User", username: "user", password: "secret" };

export default {
  // At its first start it installs packages.
  startLimit: 300_000,

  async start({ port, directory, processes, tools }) {
    const config = path.join(directory, "config");
    mkdirSync(config);
    // Home Assistant answers 400 to requests with X-Forwarded-For, unless the proxy is named.
    writeFileSync(
      path.join(config, "configuration.yaml"),
      `http:
  server_host: 127.0.0.1
  server_port: ${port}
  use_x_forwarded_for: true
  trusted_proxies: [127.0.0.1]
frontend:
input_boolean:
  light:
`,
    );
    const python = tools.python.homeAssistant;
    const args = ["-m", "homeassistant", "--config", config];
    // It installs what its integrations need into its environment.
    const bin = path.dirname(python);
    const env = { PATH: `${bin}:${process.env.PATH}`, VIRTUAL_ENV: path.dirname(bin) };
    processes.start("home-assistant", python, args, { env });
  },

  async open(page, url) {
    await onboard(url, page);
    await page.goto(url);
    await page.fill("input[name=username]", USER.username, { timeout: 60_000 });
    await page.fill("input[name=password]", USER.password);
    await page.keyboard.press("Enter");
    await page.waitForFunction(
      () => document.querySelector("home-assistant")?.hass?.states?.["input_boolean.light"],
      undefined,
      { timeout: 60_000 },
    );
    return "onboarding, login, states over its WebSocket";
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
