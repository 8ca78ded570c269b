// Django under gunicorn, with its protections for HTTPS on: login, CSRF, redirects, sessions.

import path from "node:path";
import { fileURLToPath } from "node:url";

const PROJECT = path.join(path.dirname(fileURLToPath(import.meta.url)), "django-gunicorn");

export default {
  async start({ port, directory, processes, tools }) {
    const env = {
      DJANGO_SETTINGS_MODULE: "site_settings",
      DJANGO_SUPERUSER_PASSWORD: "secret",
      PYTHONPATH: PROJECT,
      DATABASE: path.join(directory, "db.sqlite3"),
    };
    const python = tools.python.django;
    const manage = (...args) =>
      processes.run("manage", python, ["-m", "django", ...args], { env });
    await manage("migrate");
    await manage("createsuperuser", "--noinput", "--username=admin", "--email=a@example.com");
    const gunicorn = ["-m", "gunicorn", "--bind", `127.0.0.1:${port}`, "--worker-class=gthread"];
    gunicorn.push("--threads=8", "site_settings");
    processes.start("gunicorn", python, gunicorn, { env });
  },

  async open(page, url) {
    await page.goto(url);
    await page.fill("#id_username", "admin");
    await page.fill("#id_password", "secret");
    await page.click("[type=submit]");
    await page.waitForSelector("#user-tools");
    const cookies = await page.context().cookies();
    if (!cookies.every((cookie) => cookie.secure)) throw new Error("a cookie is not Secure");
    const { origin } = new URL(page.url());
    if (origin !== url) throw new Error(`the redirect led to ${origin}`);
    return "login, Secure cookies, forms with CSRF tokens, redirects to the public address";
  },

  /** Sends a form of the administration, which answers with a redirect. */
  async live(page) {
    const name = `group ${Date.now()}`;
    await page.goto(new URL("/admin/auth/group/add/", page.url()).href);
    await page.fill("#id_name", name);
    await page.click("[name=_save]");
    await page.waitForSelector(`text=${name}`, { timeout: 10_000 });
  },
};
