//! Files that import each other in a circle cannot be read one after the other. A module and those
//! below it may: they are one unit.
//!
//! The check reads `use` declarations, not paths in the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace;

type Module = Vec<String>;

pub(crate) fn run() -> Result<()> {
    let mut crates: BTreeMap<String, BTreeMap<Module, String>> = BTreeMap::new();
    for file in workspace::tracked_files()? {
        let name = file.to_string_lossy().into_owned();
        let Some((root, inside)) = name.strip_suffix(".rs").and_then(split) else {
            continue;
        };
        let path = workspace::root().join(&file);
        if !path.exists() {
            continue; // deleted, not yet committed
        }
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {name}"))?;
        let mut module: Module = inside.split('/').map(str::to_owned).collect();
        module.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
        crates.entry(root.into()).or_default().insert(module, text);
    }
    let mut faults = Vec::new();
    for (root, modules) in &crates {
        faults.extend(
            circles(modules)
                .into_iter()
                .map(|(from, to)| format!("{root}: {} imports {}", from.join("::"), to.join("::"))),
        );
    }
    if faults.is_empty() {
        println!(
            "no circle of imports in {} libraries and programs",
            crates.len()
        );
        return Ok(());
    }
    bail!("circles of imports:\n  {}", faults.join("\n  "))
}

/// Splits a file's name into the folder of its program or library, and its place in it. A program
/// of one file imports nothing of its own.
fn split(name: &str) -> Option<(&str, &str)> {
    if let Some(parts) = name.split_once("/src/") {
        return Some(parts);
    }
    ["/tests/", "/benches/", "/examples/"]
        .iter()
        .find_map(|folder| {
            let inside = name.find(folder)? + folder.len();
            let program = inside + name[inside..].find('/')?;
            Some((&name[..program], &name[program + 1..]))
        })
}

/// Returns the imports that are part of a circle.
fn circles(modules: &BTreeMap<Module, String>) -> BTreeSet<(Module, Module)> {
    let mut edges = BTreeSet::new();
    for (module, text) in modules {
        for declaration in declarations(text) {
            let mut imported = Vec::new();
            expand(&declaration, "", &mut imported);
            for path in &imported {
                let target = resolve(module, path, modules);
                if !module.starts_with(&target) && !target.starts_with(module) {
                    edges.insert((module.clone(), target));
                }
            }
        }
    }
    // What is left has imports and is imported, over and over.
    loop {
        let before = edges.len();
        let (from, to): (BTreeSet<_>, BTreeSet<_>) = edges.iter().cloned().unzip();
        edges.retain(|(one, other)| to.contains(one) && from.contains(other));
        if edges.len() == before {
            return edges;
        }
    }
}

/// Returns the trees of the `use` declarations, each of which begins a line.
fn declarations(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let visible = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest.trim_start();
            rest.split_once(") ").map_or(rest, |(_, rest)| rest)
        });
        let Some(first) = visible.strip_prefix("use ") else {
            continue;
        };
        let mut tree = first.to_owned();
        while !tree.ends_with(';') {
            let Some(next) = lines.next() else { break };
            tree.push_str(next);
        }
        found.push(tree.trim_end_matches(';').to_owned());
    }
    found
}

/// Adds the paths of a `use` tree to `found`.
fn expand(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        found.push(format!("{prefix}{path}"));
        return;
    };
    let prefix = format!("{prefix}{head}");
    let (mut depth, mut begin) = (0, 0);
    for (place, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                expand(group[begin..place].trim(), &prefix, found);
                begin = place + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Returns the module of the same crate that a path is in; the root for another crate's.
fn resolve(module: &Module, path: &str, modules: &BTreeMap<Module, String>) -> Module {
    let mut target = match path.split("::").next() {
        Some("crate") => Module::new(),
        Some("self" | "super") => module.clone(),
        _ => return Module::new(),
    };
    for part in path.split("::") {
        match part {
            "crate" | "self" => {}
            "super" => drop(target.pop()),
            name => target.push(name.to_owned()),
        }
    }
    while !modules.contains_key(&target) && !target.is_empty() {
        target.pop();
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> usize {
        let modules = files.iter().map(|(module, text)| {
            let module: Module = module.split("::").map(str::to_owned).collect();
            (module, (*text).to_owned())
        });
        circles(&modules.collect()).len()
    }

    #[test]
    fn programs_of_several_files_are_split_at_their_folder() {
        for (name, parts) in [
            ("crates/a/src/b/c", Some(("crates/a", "b/c"))),
            ("crates/a/src/b/tests/c", Some(("crates/a", "b/tests/c"))),
            ("tests/tests/it/b/c", Some(("tests/tests/it", "b/c"))),
            (
                "crates/a/benches/b/main",
                Some(("crates/a/benches/b", "main")),
            ),
            ("crates/a/tests/corpus", None),
        ] {
            assert_eq!(split(name), parts, "{name}");
        }
    }

    #[test]
    fn circle_of_siblings_is_found_and_children_are_not() {
        let leaf = ("c", "use crate::d::D;");
        let circle = [
            ("a", "use crate::{d, b::{B, Other}};"),
            ("b", "pub(crate) use super::a::A;"),
            leaf,
        ];
        assert_eq!(circles_of(&circle), 2);
        assert_eq!(circles_of(&circle[1..]), 0);
        let family = [
            ("a", "mod inner;\nuse self::inner::Part;"),
            ("a::inner", "use super::Whole;\nuse crate::a::Whole;"),
            leaf,
        ];
        assert_eq!(circles_of(&family), 0);
    }
}
