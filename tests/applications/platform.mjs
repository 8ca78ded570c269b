// The simulated platform and devices of the built program.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import tls from "node:tls";

import { eventually } from "./processes.mjs";

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
    const device = new Device(this, serial);
    await device.reachable();
    return device;
  }
}

class Device {
  #platform;
  #serial;
  #tokenSince = Date.now();

  constructor(platform, serial) {
    this.#platform = platform;
    this.#serial = serial;
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
    const fault = { fault: "drop_tunnel", sn: this.#serial };
    const { cut } = await this.#platform.control("POST", "/faults", fault);
    if (cut !== 1) throw new Error(`${cut} tunnels were cut`);
    await eventually("a tunnel with a new token", async () => {
      const status = await this.status();
      return status.tunnel && status.tokens_issued > before;
    });
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
