// A video from nginx: the browser seeks with Range requests.

import { symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";

const SECONDS = 120;
const PAGE = `<!doctype html><title>Video</title>
<video src=/video.mp4 muted preload=metadata></video>
<script>
  const video = document.querySelector("video");
  const playsFrom = async (time) => {
    if (video.error) {
      // As a person would: load it again.
      video.load();
    }
    video.currentTime = time;
    await video.play();
    const at = video.currentTime;
    await new Promise((done, failed) => {
      setTimeout(() => failed(new Error("it stands at " + video.currentTime)), 10000);
      video.ontimeupdate = () => video.currentTime > at + 0.3 && done();
    });
    video.pause();
    return video.currentTime;
  };
</script>`;

let seeks = 0;

export default {
  async start({ port, directory, processes, tools }) {
    symlinkSync(tools.video, path.join(directory, "video.mp4"));
    writeFileSync(path.join(directory, "index.html"), PAGE);
    const configuration = path.join(directory, "nginx.conf");
    writeFileSync(
      configuration,
      `daemon off; user root root; pid ${directory}/pid; error_log ${directory}/error.log;
       events { worker_connections 64; }
       http {
         access_log off; types { text/html html; video/mp4 mp4; }
         client_body_temp_path ${directory}; proxy_temp_path ${directory};
         fastcgi_temp_path ${directory}; uwsgi_temp_path ${directory}; scgi_temp_path ${directory};
         server { listen 127.0.0.1:${port}; root ${directory}; }
       }`,
    );
    processes.start("nginx", tools.nginx, ["-p", directory, "-c", configuration]);
  },

  async open(page, url) {
    const parts = [];
    page.on("response", (response) => response.status() === 206 && parts.push(response));
    await page.goto(url);
    const length = await page.waitForFunction(() => video.duration);
    if (Math.round(await length.jsonValue()) !== SECONDS) throw new Error("another length");
    await this.live(page);
    if (parts.length < 2) throw new Error(`${parts.length} answers with status 206`);
    return `${SECONDS} s of video, ${parts.length} Range requests for two places in it`;
  },

  /** Plays from a place that has not been loaded yet. */
  async live(page) {
    seeks += 1;
    const time = (SECONDS * 0.9) / (1 + (seeks % 5));
    await page.evaluate((time) => playsFrom(time), time);
  },
};
