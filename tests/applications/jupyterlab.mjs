// JupyterLab: its page, a kernel and a terminal over WebSockets.

export default {
  start({ port, directory, processes, tools }) {
    const args = ["-m", "jupyterlab", "--no-browser", "--allow-root", `--port=${port}`];
    args.push("--ip=127.0.0.1", `--notebook-dir=${directory}`, "--IdentityProvider.token=secret");
    // Without it Jupyter on a loopback address refuses requests for another host.
    args.push("--ServerApp.allow_remote_access=True");
    const home = { HOME: directory, JUPYTER_CONFIG_DIR: directory, IPYTHONDIR: directory };
    processes.start("jupyterlab", tools.python.jupyterlab, args, { env: home });
  },

  async open(page, url) {
    await page.goto(`${url}/lab?token=secret`);
    await page.click(".jp-LauncherCard[data-category=Notebook]", { timeout: 60_000 });
    await page.waitForSelector(".jp-Notebook .jp-CodeCell .cm-content", { timeout: 60_000 });
    await page.waitForSelector(".jp-NotebookPanel-toolbar [data-status=idle]", { timeout: 60_000 });
    return "login by token, a notebook whose cells run";
  },

  /** Runs a new cell in the notebook. */
  async live(page) {
    // It tells in a dialog that the connection has broken; a person closes it.
    const dialog = page.locator(".jp-Dialog .jp-Dialog-button").last();
    if (await dialog.isVisible()) await dialog.click();
    const number = Date.now() % 100_000;
    const cells = page.locator(".jp-Notebook .jp-CodeCell .cm-content");
    await cells.last().click({ timeout: 5000 });
    await page.keyboard.press("Control+A");
    await page.keyboard.type(`"${"<"}%d>" % (${number} * 2)`);
    await page.keyboard.press("Shift+Enter");
    const answer = page.locator(".jp-OutputArea-output", { hasText: `<${number * 2}>` });
    await answer.last().waitFor({ timeout: 10_000 });
  },
};
