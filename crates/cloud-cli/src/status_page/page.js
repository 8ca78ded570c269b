// Keeps the page up to date: the device sends the parts that change, already as HTML.
"use strict";

const RETRY_MS = 2000;
const lost = document.getElementById("lost");
let lostSince = null;

function connected() {
  lostSince = null;
  lost.hidden = true;
}

function disconnected() {
  if (lostSince) return;
  lostSince = new Date();
  lost.textContent = "No connection to the device since " + lostSince.toLocaleTimeString() +
    ". What is below may be old; trying again.";
  lost.hidden = false;
}

function show(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const element = document.getElementById(id);
    if (!element) continue;
    if (id === "verdict") {
      element.className = "verdict " + html;
    } else {
      element.innerHTML = html;
    }
  }
}

function follow() {
  const source = new EventSource("events");
  source.onopen = connected;
  source.onmessage = (message) => show(JSON.parse(message.data));
  source.onerror = () => {
    disconnected();
    // A browser tries again by itself, unless it got an error page instead of the stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, RETRY_MS);
  };
}

follow();
