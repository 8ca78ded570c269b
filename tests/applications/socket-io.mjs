// Socket.IO: long polling first, then a WebSocket, and its own reconnection.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import http from "node:http";

const PAGE = `<!doctype html><title>Socket.IO</title><script src=/socket.io/socket.io.js></script>
<script>
  const socket = io();
  let connects = 0;
  socket.on("connect", () => connects += 1);
  const ask = (text) => socket.timeout(5000).emitWithAck("upper", text);
</script>`;

export default {
  start({ port, processes, tools }) {
    const self = fileURLToPath(import.meta.url);
    processes.start("socket-io", process.execPath, [self, `${port}`, tools.nodePackages]);
  },

  async open(page, url) {
    const sockets = [];
    page.on("websocket", (socket) => sockets.push(socket.url()));
    await page.goto(url);
    await page.waitForFunction(() => socket.connected);
    await page.waitForFunction(() => socket.io.engine.transport.name === "websocket");
    if (!sockets.some((socket) => socket.startsWith("wss://"))) throw new Error(`${sockets}`);
    return "long polling upgraded to a WebSocket, messages with answers";
  },

  /** How often the page has connected. */
  connections(page) {
    return page.evaluate(() => connects);
  },

  async live(page) {
    const text = `a${Date.now()}`;
    const answer = await page.evaluate((text) => ask(text), text);
    if (answer !== text.toUpperCase()) throw new Error(`the answer was ${answer}`);
  },
};

function serve(port, packages) {
  const { Server } = createRequire(packages)("socket.io");
  const server = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end(PAGE);
  });
  new Server(server).on("connection", (socket) => {
    socket.on("upper", (text, answer) => answer(text.toUpperCase()));
  });
  server.listen(port, "127.0.0.1");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) serve(...process.argv.slice(2));
