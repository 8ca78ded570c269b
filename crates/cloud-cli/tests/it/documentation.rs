//! Blocks of code in the repository's documents: each is run, compiled or parsed by a test, or says
//! why not. docs/contribute.md, "Documents", has the rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{finish, program, run};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Documents beside those in `docs/` and the README.md of each crate.
const TOP: &[&str] = &["README.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Blocks for a shell with one of these are not run.
const NOT_RUN: &[&str] = &["builds", "installs", "needs-platform", "needs-root"];

/// The tests that run a document's blocks for a shell or for Python.
const RUN_BY: &[(&str, &str)] = &[
    (
        "docs/control-socket.md",
        "control_examples_of_documentation_run",
    ),
    ("docs/migrating.md", "steps_of_migrating_page_run"),
    ("docs/relay.md", "pages_run_as_written"),
    ("docs/start.md", "pages_run_as_written"),
];

/// Where those tests are.
const TEST_DIRECTORIES: &[&str] = &["crates/cloud-cli/tests/it", "tests/tests"];

/// Rust examples are documentation tests here.
const DOCUMENTATION_TESTS: &str = "tests/src/documentation.rs";

/// Pages whose blocks are run in order, and for each block `sh,terminal`, the conditions that tell
/// that what it started is ready.
const PAGES: &[(&str, &[&str])] = &[
    (
        "docs/start.md",
        &[
            "grep '\"ready\"' cloud.json",
            "clesyde-cloud status --json | grep '\"remote_connected\":true'",
        ],
    ),
    (
        "docs/relay.md",
        &[
            "test -s token.json",
            "openssl s_client -connect 127.0.0.1:8444 </dev/null",
            "curl -sS --cacert cert.pem --connect-to device.example.com:443:127.0.0.1:8443 https://device.example.com/",
        ],
    ),
];

/// Ports in those pages, which may be taken on this machine.
const PORTS: &[&str] = &["8480", "8443", "8444"];

/// A fenced block of code.
struct Block {
    document: String,
    line: usize,
    /// What follows the opening fence, such as `sh` and `terminal`.
    info: Vec<String>,
    text: String,
}

impl Block {
    fn has(&self, word: &str) -> bool {
        self.info.iter().any(|found| found == word)
    }

    fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }
}

fn documents() -> Vec<String> {
    let mut found: Vec<String> = TOP.iter().map(|name| (*name).to_owned()).collect();
    markdown_below(&Path::new(ROOT).join("docs"), &mut found);
    for entry in fs::read_dir(Path::new(ROOT).join("crates")).unwrap() {
        let readme = entry.unwrap().path().join("README.md");
        if readme.exists() {
            found.push(relative(&readme));
        }
    }
    found.sort();
    found
}

fn markdown_below(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(relative(&path));
        }
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(ROOT).unwrap();
    path.to_str().unwrap().to_owned()
}

fn read(document: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(document)).unwrap()
}

fn blocks(document: &str) -> Vec<Block> {
    let text = read(document);
    let mut blocks = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((opening, line)) = lines.next() {
        let Some(info) = opening.trim_start().strip_prefix("```") else {
            continue;
        };
        let content = lines.by_ref().map(|(line, _)| line);
        let content = content.take_while(|line| !line.trim_start().starts_with("```"));
        blocks.push(Block {
            document: document.to_owned(),
            line,
            info: info.split(',').map(str::to_owned).collect(),
            text: content.map(|line| format!("{line}\n")).collect(),
        });
    }
    blocks
}

fn all_blocks() -> Vec<Block> {
    let blocks: Vec<Block> = documents().iter().flat_map(|name| blocks(name)).collect();
    assert!(blocks.len() > 30, "only {} blocks", blocks.len());
    blocks
}

/// All text of the Rust files below a directory.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn each_block_is_tested_or_says_why_not() {
    let tests: String = TEST_DIRECTORIES
        .iter()
        .map(|directory| sources(&Path::new(ROOT).join(directory)))
        .collect();
    let documentation_tests = read(DOCUMENTATION_TESTS);
    let mut faults = Vec::new();
    for block in all_blocks() {
        let document = block.document.as_str();
        let fault = match block.info[0].as_str() {
            "sh" | "python"
                if block
                    .info
                    .iter()
                    .any(|word| NOT_RUN.contains(&word.as_str())) =>
            {
                None
            }
            "sh" | "python" => {
                let named = RUN_BY.iter().find(|(name, _)| *name == document);
                match named {
                    None => Some(format!("no test runs it; name one, or say {NOT_RUN:?}")),
                    Some((_, test)) if !tests.contains(&format!("fn {test}(")) => {
                        Some(format!("the test {test} is not there"))
                    }
                    Some(_) => None,
                }
            }
            "rust" if block.has("ignore") => Some("`ignore` is not compiled".to_owned()),
            "rust" => (!documentation_tests
                .contains(&format!("include_str!(\"../../{document}\")")))
            .then(|| format!("its document is not in {DOCUMENTATION_TESTS}")),
            // Those of `console` and `toml` are tested below.
            "console" | "toml" | "json" | "mermaid" | "text" | "yaml" => None,
            other => Some(format!("no rule for `{other}`")),
        };
        faults.extend(fault.map(|fault| format!("{}: {fault}", block.place())));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn documented_configuration_is_accepted() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("clesyde-cloud.toml");
    let mut checked = 0;
    for block in all_blocks() {
        if !block.has("toml") {
            continue;
        }
        let place = block.place();
        if block.has("manifest") {
            let parsed = toml::de::DeTable::parse(&block.text);
            assert!(parsed.is_ok(), "{place}: {:?}", parsed.err());
        } else {
            fs::write(&file, &block.text).unwrap();
            let checked = run(&home, &["config", "check", file.to_str().unwrap()]);
            assert_eq!(checked.code, 0, "{place}: {}", checked.stderr);
        }
        checked += 1;
    }
    assert!(checked > 1);
}

/// Lines such as `$ clesyde-cloud run --forward 127.0.0.1:8080`, with example values.
#[test]
fn documented_command_lines_are_accepted() {
    let home = TempDir::new().unwrap();
    let mut checked = 0;
    for block in all_blocks() {
        if !block.has("console") {
            continue;
        }
        for line in block.text.lines() {
            let Some(arguments) = line.strip_prefix("$ clesyde-cloud ") else {
                continue;
            };
            // Arguments before `--help` are parsed, and nothing is done.
            let script = format!("clesyde-cloud {arguments} --help");
            let ended = finish(shell(&home).args(["-euc", &script]));
            assert_eq!(ended.code, 0, "{}: {line}\n{}", block.place(), ended.stderr);
            checked += 1;
        }
    }
    assert!(checked > 2, "{checked}");
}

/// The blocks of [`PAGES`], as a reader pastes them, in a directory of their own.
#[test]
#[ignore = "needs curl, openssl and the examples: `cargo xtask snippets`"]
fn pages_run_as_written() {
    for (document, conditions) in PAGES {
        let home = TempDir::new().unwrap();
        let mut script = session(document, conditions);
        for port in PORTS {
            script = script.replace(port, &testkit::port::free_port().to_string());
        }
        let ended = finish(shell(&home).args(["-c", &script]));
        println!("{document}: {}\n{}", ended.stdout, ended.stderr);
        ended.expect(0);
    }
}

/// The script of a page: its blocks in order, those for another terminal in the background.
fn session(document: &str, conditions: &[&str]) -> String {
    let mut script = "set -euxo pipefail -m\n\
        trap 'for job in $(jobs -p); do kill -- \"-$job\" || :; done; wait' EXIT\n"
        .to_owned();
    let mut conditions = conditions.iter();
    let blocks = blocks(document).into_iter().filter(|block| {
        block.has("sh")
            && !block
                .info
                .iter()
                .any(|word| NOT_RUN.contains(&word.as_str()))
    });
    for block in blocks {
        let text = &block.text;
        if block.has("terminal") {
            let condition = conditions.next().expect("a condition for each terminal");
            script += &format!(
                "{{\n{text}}} &\n\
                 for attempt in $(seq 600); do (set +x; {condition}) >/dev/null 2>&1 && break; sleep 0.1; done\n\
                 {condition}\n"
            );
        } else {
            script += text;
        }
    }
    assert_eq!(conditions.next(), None, "{document}: too many conditions");
    script
}

/// A shell that finds the built program and the examples.
fn shell(home: &TempDir) -> Command {
    let program_file = PathBuf::from(env!("CARGO_BIN_EXE_clesyde-cloud"));
    let directory = program_file.parent().unwrap();
    let examples = directory.join("examples");
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}", directory.display(), examples.display());
    let mut command = Command::new("bash");
    for (name, value) in program(home).get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("PATH", path).current_dir(home.path());
    command
}
