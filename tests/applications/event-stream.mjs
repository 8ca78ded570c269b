// Server-sent events: the browser's EventSource connects again by itself, unless it is answered
// with an error status.

import { fileURLToPath } from "node:url";
import http from "node:http";

const PAGE = `<!doctype html><title>Events</title><script>
  let last = 0, opened = 0;
  const source = new EventSource("/events");
  source.onopen = () => opened += 1;
  source.onmessage = (event) => last = Number(event.data);
</script>`;

export default {
  start({ port, processes }) {
    processes.start("event-stream", process.execPath, [fileURLToPath(import.meta.url), `${port}`]);
  },

  async open(page, url) {
    await page.goto(url);
    await page.waitForFunction(() => opened === 1);
    return "EventSource";
  },

  /** How often the page has connected. */
  connections(page) {
    return page.evaluate(() => opened);
  },

  async live(page) {
    const before = await page.evaluate(() => [last, source.readyState]);
    if (before[1] === 2) throw new Error("the EventSource has given up");
    await page.waitForFunction((before) => last > before, before[0], { timeout: 5000 });
  },
};

function serve(port) {
  let number = 0;
  const listeners = new Set();
  setInterval(() => {
    number += 1;
    for (const listener of listeners) listener.write(`data: ${number}\n\n`);
  }, 100);
  const server = http.createServer((request, response) => {
    if (request.url !== "/events") {
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(PAGE);
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write("retry: 500\n\n");
    listeners.add(response);
    response.on("close", () => listeners.delete(response));
  });
  server.listen(port, "127.0.0.1");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) serve(process.argv[2]);
