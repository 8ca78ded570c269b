// Child processes with a log file each, and waiting for conditions.

import { spawn } from "node:child_process";
import { createWriteStream, readFileSync } from "node:fs";
import net from "node:net";
import path from "node:path";

/** How long a condition may take. It matters only when a check fails. */
const LIMIT_MS = 90_000;

/** Calls `look` until it returns something true, and returns that. */
export async function eventually(what, look, limit = LIMIT_MS) {
  const end = Date.now() + limit;
  let last = "";
  while (Date.now() < end) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = `: ${error.message}`;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`waited ${limit / 1000} s in vain for ${what}${last}`);
}

/** A loopback port that nothing listens on. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Waits until the port accepts connections. */
export async function listening(port, limit) {
  const accepts = async () => {
    const socket = net.connect(port, "127.0.0.1");
    try {
      await new Promise((done, failed) => socket.once("connect", done).once("error", failed));
      return true;
    } finally {
      socket.destroy();
    }
  };
  await eventually(`port ${port} to accept connections`, accepts, limit);
}

/** Everything that one check starts; ended in reverse order. */
export class Processes {
  #directory;
  #children = [];

  constructor(directory) {
    this.#directory = directory;
  }

  /** Starts a program. Its output goes to `NAME.log` in the directory. */
  start(name, program, args, { env = {}, cwd = this.#directory } = {}) {
    const log = path.join(this.#directory, `${name}.log`);
    const output = createWriteStream(log);
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    child.stdout.pipe(output, { end: false });
    child.stderr.pipe(output, { end: false });
    const running = { name, child, log, text: "" };
    child.stdout.on("data", (bytes) => (running.text += bytes));
    child.on("error", (error) => output.write(`${error}\n`));
    running.ended = new Promise((done) => child.on("close", (code) => done(code)));
    this.#children.push(running);
    return running;
  }

  /** Runs a program to its end, which must be a success. */
  async run(name, program, args, options) {
    const running = this.start(name, program, args, options);
    const code = await running.ended;
    this.#children.pop();
    if (code !== 0) throw new Error(`${name} failed: ${tail(running.log)}`);
    return running.text;
  }

  /** Runs a program to its end. Returns its output, whatever its exit code says. */
  async output(program, args, options) {
    const running = this.start("output", program, args, options);
    await running.ended;
    this.#children.pop();
    return running.text;
  }

  /** Ends one program. */
  async end(running) {
    this.#children = this.#children.filter((other) => other !== running);
    await end(running);
  }

  async stop() {
    for (const running of this.#children.reverse()) await end(running);
    this.#children = [];
  }
}

async function end({ child, ended }) {
  child.kill("SIGTERM");
  const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await ended;
  clearTimeout(late);
}

/** The last lines of a log. */
export function tail(file, lines = 15) {
  return readFileSync(file, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
}
