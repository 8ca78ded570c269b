// The simulated platform and devices of the built program.

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import https from "node:https";
import path from "node:path";
import tls from "node:tls";
import { fileURLToPath } from "node:url";

import { eventually, freePort } from "./processes.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const RUN_SCRIPT = path.join(HERE, "../../xtask/packaging/home-assistant/run.sh");

export class Platform {
  #program;
  #ready;

  /** `tokenValid` is in seconds. */
  static async start(program, processes, tokenValid) {
    const platform = new Platform();
    platform.#program = program;
    platform.tokenValid = tokenValid;
    const simulator = processes.start("sim", program, ["sim", "--token-valid", `${tokenValid}`]);
    platform.#ready = await eventually("the simulator", () =>
      JSON.parse(simulator.text.split("\n")[0]),
    );
    return platform;
  }

  get rootsFile() {
    return this.#ready.ca_file;
  }

  get relayPort() {
    return Number(this.#ready.relay.split(":").pop());
  }

  async control(method, route, body) {
    const answer = await fetch(`${this.#ready.control_url}${route}`, {
      method,
      headers: { "content-type": "application/json" },
      body: body && JSON.stringify(body),
    });
    const value = await answer.json();
    if (!answer.ok) throw new Error(`${route}: ${JSON.stringify(value)}`);
    return value;
  }

  /** A device that runs with these options and is reachable. */
  async device(serial, options, processes, directory) {
    const key = path.join(directory, "key");
    writeFileSync(key, this.#ready.provisioning_key, { mode: 0o600 });
    const common = ["--base-path", path.join(directory, "device"), "--sn", serial];
    common.push("--api-url", this.#ready.api_url);
    await processes.run("provision", this.#program, [...common, "provision", "--token-file", key]);
    processes.start("run", this.#program, [...common, "run", ...options]);
    return this.#reachable(serial, common, processes);
  }

  /** A device that the start script of the add-on for Home Assistant runs with these options. */
  async addOn(serial, options, processes, directory) {
    const bin = path.join(directory, "bin");
    mkdirSync(bin);
    symlinkSync(this.#program, path.join(bin, "clesyde-cloud"));
    const file = path.join(directory, "options.json");
    const { provisioning_key, api_url } = this.#ready;
    const all = { sn: serial, api_url, provisioning_key, ...options };
    writeFileSync(file, JSON.stringify(all), { mode: 0o600 });
    const base = path.join(directory, "device");
    const health = `127.0.0.1:${await freePort()}`;
    const env = { PATH: `${bin}:${process.env.PATH}`, OPTIONS: file, CLESYDE_BASE_PATH: base };
    env.CLESYDE_HEALTH = health;
    processes.start("run", "sh", [RUN_SCRIPT], { env });
    const common = ["--base-path", base, "--sn", serial, "--api-url", api_url];
    const device = await this.#reachable(serial, common, processes);
    device.statusPage = `http://${health}/`;
    return device;
  }

  async #reachable(serial, common, processes) {
    const tool = (args) => processes.output(this.#program, [...common, ...args]);
    const device = new Device(this, serial, tool);
    await device.reachable();
    return device;
  }
}

class Device {
  #platform;
  #serial;
  #tool;
  #tokenSince = Date.now();

  constructor(platform, serial, tool) {
    this.#platform = platform;
    this.#serial = serial;
    this.#tool = tool;
  }

  /** What `doctor` finds, by step. */
  async doctor() {
    const args = ["--json", "doctor", "--ca-file", this.#platform.rootsFile];
    const lines = (await this.#tool(args)).trim().split("\n");
    return Object.fromEntries(lines.map(JSON.parse).map((check) => [check.step, check]));
  }

  /** Fetches a path as a caller with this loopback address. Returns the status. */
  async fetchFrom(localAddress, path, { body, ...options } = {}) {
    const request = https.request({
      host: "127.0.0.1",
      port: this.#platform.relayPort,
      servername: this.host,
      ca: readFileSync(this.#platform.rootsFile),
      localAddress,
      path,
      ...options,
      headers: { host: `${this.host}:${this.#platform.relayPort}`, ...options.headers },
    });
    request.end(body);
    return new Promise((done, failed) => {
      request.once("error", failed);
      request.once("response", (response) => {
        response.resume();
        done(response.statusCode);
      });
    });
  }

  status() {
    return this.#platform.control("GET", `/devices/${this.#serial}`);
  }

  async reachable() {
    const { access_point: host } = await eventually("the device to be reachable", async () => {
      const status = await this.status();
      return status.tunnel && status.online && status;
    });
    this.host = host;
    this.url = `https://${host}:${this.#platform.relayPort}`;
  }

  /** Waits for the token that the device asks for by itself. */
  async tokenRefreshed() {
    const refreshed = async () => (await this.status()).tokens_issued > 1;
    await eventually("a new token", refreshed, 400_000);
  }

  /** Breaks the tunnel once its token has expired, and waits for one with a new token. */
  async renewTunnel() {
    const before = (await this.status()).tokens_issued;
    const left = this.#tokenSince + (this.#platform.tokenValid + 1) * 1000 - Date.now();
    await new Promise((done) => setTimeout(done, Math.max(left, 0)));
    await this.#cutTunnel();
    await eventually("a tunnel with a new token", async () => {
      const status = await this.status();
      return status.tunnel && status.tokens_issued > before;
    });
  }

  /** The relay cuts the tunnel. Waits for the next one. */
  async dropTunnel() {
    await this.#cutTunnel();
    await eventually("another tunnel", async () => (await this.status()).tunnel);
  }

  async #cutTunnel() {
    const fault = { fault: "drop_tunnel", sn: this.#serial };
    const { cut } = await this.#platform.control("POST", "/faults", fault);
    if (cut !== 1) throw new Error(`${cut} tunnels were cut`);
  }

  /** Rotates the certificate, and waits until callers get the new one. Returns its serial. */
  async rotate() {
    const before = await this.servedSerial();
    const { serial } = await this.#platform.control("POST", `/devices/${this.#serial}/rotate`);
    return eventually("the new certificate", async () => {
      const served = await this.servedSerial();
      return served !== before && served === BigInt(serial).toString(16) && served;
    });
  }

  /** The serial number, in hex, of the certificate of a verified connection. */
  async servedSerial() {
    const socket = tls.connect({
      host: "127.0.0.1",
      port: this.#platform.relayPort,
      servername: this.host,
      ca: readFileSync(this.#platform.rootsFile),
    });
    try {
      await new Promise((done, failed) =>
        socket.once("secureConnect", done).once("error", failed),
      );
      return BigInt(`0x${socket.getPeerCertificate().serialNumber}`).toString(16);
    } finally {
      socket.destroy();
    }
  }
}
