// Chromium with a profile that trusts the simulator's roots, and no other relaxation: it verifies
// the certificate of each page.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

/** Starts Chromium. Without `rootsFile` it trusts what it always does. */
export async function startBrowser({ tools, directory, processes, rootsFile }) {
  const { chromium } = createRequire(tools.nodePackages)("playwright-core");
  const home = path.join(directory, rootsFile ? "home" : "home-without-roots");
  const database = path.join(home, ".pki", "nssdb");
  mkdirSync(database, { recursive: true });
  if (rootsFile) await importRoots(tools.certutil, database, rootsFile, processes, directory);
  return chromium.launch({
    executablePath: tools.chromium,
    env: { ...process.env, HOME: home },
    // Root has no sandbox. Names of the simulator lead to this machine, whatever the resolver says.
    args: ["--no-sandbox", "--host-resolver-rules=MAP * 127.0.0.1", "--disable-quic"],
  });
}

async function importRoots(certutil, database, rootsFile, processes, directory) {
  const at = `sql:${database}`;
  await processes.run("nssdb", certutil, ["-N", "-d", at, "--empty-password"]);
  const pem = readFileSync(rootsFile, "utf8");
  const roots = pem.match(/-----BEGIN CERTIFICATE-----[^]+?-----END CERTIFICATE-----/g);
  for (const [index, root] of roots.entries()) {
    const file = path.join(directory, `root-${index}.pem`);
    writeFileSync(file, `${root}\n`);
    const name = `simulator ${index}`;
    const args = ["-A", "-d", at, "-n", name, "-t", "C,,", "-i", file];
    await processes.run(`root-${index}`, certutil, args);
  }
}
