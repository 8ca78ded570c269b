//! The add-on for Home Assistant: the files of `xtask/packaging/home-assistant` with a static
//! program for each architecture. The Supervisor builds its container from them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{archive, workspace};

/// Below the root of the workspace.
const SOURCE: &str = "xtask/packaging/home-assistant";

/// The version in `config.yaml`.
const VERSION: &str = "version: \"0.0.0\"";

/// Packs the add-on of this version. `programs` are by Home Assistant's names of architectures.
pub(crate) fn add_on<'a>(
    version: &str,
    programs: impl Iterator<Item = (&'a str, &'a Path)>,
    dist: &Path,
) -> Result<PathBuf> {
    let name = format!("{}-{version}-home-assistant", archive::PROGRAM);
    let stage = archive::empty_directory(&dist.join(&name))?;
    copy_directory(&workspace::root().join(SOURCE), &stage)?;
    let changelog = workspace::root().join("CHANGELOG.md");
    archive::copy(&changelog, &stage.join("CHANGELOG.md"))?;
    let config = stage.join("config.yaml");
    let text = fs::read_to_string(&config)?;
    ensure!(text.contains(VERSION), "config.yaml has no `{VERSION}`");
    fs::write(
        config,
        text.replace(VERSION, &format!("version: \"{version}\"")),
    )?;
    for (architecture, program) in programs {
        let directory = stage.join("bin").join(architecture);
        fs::create_dir_all(&directory)?;
        archive::copy(program, &directory.join(archive::PROGRAM))?;
    }
    archive::pack(dist, &name)
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let entries =
        fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            archive::copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use saphyr::{LoadableYamlNode, Yaml};

    use super::*;

    /// What the Supervisor requires of an add-on.
    const REQUIRED: &[&str] = &["name", "version", "slug", "description", "arch"];

    /// The other keys that the Supervisor knows and this add-on uses.
    const OPTIONAL: &[&str] = &[
        "backup_exclude",
        "ingress",
        "ingress_entry",
        "ingress_port",
        "map",
        "options",
        "panel_icon",
        "schema",
        "startup",
        "timeout",
        "url",
        "watchdog",
    ];

    /// The architectures of Home Assistant that are supported.
    const ARCHITECTURES: &[&str] = &["aarch64", "amd64"];

    /// An option that is no setting of the program.
    const PROVISIONING_KEY: &str = "provisioning_key";

    fn source() -> PathBuf {
        workspace::root().join(SOURCE)
    }

    fn with_yaml<T>(file: &str, check: impl FnOnce(&Yaml<'_>) -> T) -> T {
        let text = fs::read_to_string(source().join(file)).unwrap();
        let documents = Yaml::load_from_str(&text).unwrap();
        check(&documents[0])
    }

    fn keys<'a>(mapping: &'a Yaml<'_>) -> Vec<&'a str> {
        let mapping = mapping.as_mapping().unwrap();
        mapping.keys().map(|key| key.as_str().unwrap()).collect()
    }

    /// Whether the Supervisor knows the type of an option.
    fn is_type(text: &str) -> bool {
        let text = text.strip_suffix('?').unwrap_or(text);
        let Some((name, limits)) = text.split_once('(') else {
            return matches!(
                text,
                "bool" | "email" | "float" | "int" | "password" | "port" | "str" | "url"
            );
        };
        let Some(limits) = limits.strip_suffix(')') else {
            return false;
        };
        match name {
            "match" | "list" => !limits.is_empty(),
            "int" | "str" | "password" => limits.split_once(',').is_some_and(|(from, to)| {
                [from, to]
                    .iter()
                    .all(|limit| limit.is_empty() || limit.parse::<i64>().is_ok())
            }),
            _ => false,
        }
    }

    #[test]
    fn supervisor_accepts_configuration() {
        with_yaml("config.yaml", |config| {
            for key in REQUIRED {
                assert!(config.contains_mapping_key(key), "{key}");
            }
            for key in keys(config) {
                assert!(REQUIRED.contains(&key) || OPTIONAL.contains(&key), "{key}");
            }
            for architecture in config["arch"].as_sequence().unwrap() {
                assert!(ARCHITECTURES.contains(&architecture.as_str().unwrap()));
            }
            let port = config["ingress_port"].as_integer().unwrap();
            let watchdog = format!("http://[HOST]:{port}/healthz");
            assert_eq!(config["watchdog"].as_str(), Some(watchdog.as_str()));
            assert_eq!(config["ingress_entry"].as_str(), Some("status/"));
            assert_eq!(config["startup"].as_str(), Some("services"));
            for volume in config["map"].as_sequence().unwrap() {
                assert_eq!(volume["type"].as_str(), Some("addon_config"));
            }
            let schema = config["schema"].as_mapping().unwrap();
            for (key, value) in schema {
                let element = value.as_sequence().map_or(value, |list| &list[0]);
                assert!(is_type(element.as_str().unwrap()), "{key:?}: {element:?}");
            }
            for option in keys(&config["options"]) {
                assert!(config["schema"].contains_mapping_key(option), "{option}");
            }
        });
    }

    #[test]
    fn each_option_is_a_setting_of_the_program() {
        let table = workspace::root().join("docs/configuration.md");
        let table = fs::read_to_string(table).unwrap();
        with_yaml("config.yaml", |config| {
            for option in keys(&config["schema"]) {
                let variable = format!("| `CLESYDE_{}` |", option.to_ascii_uppercase());
                let is_setting = table.contains(&variable);
                assert_eq!(is_setting, option != PROVISIONING_KEY, "{option}");
            }
        });
    }

    #[test]
    fn each_option_is_translated() {
        with_yaml("config.yaml", |config| {
            let options = keys(&config["schema"]);
            for language in ["en", "de"] {
                let file = format!("translations/{language}.yaml");
                with_yaml(&file, |texts| {
                    let texts = &texts["configuration"];
                    assert_eq!(keys(texts), options, "{language}");
                    for option in &options {
                        for text in ["name", "description"] {
                            let text = texts[*option][text].as_str().unwrap();
                            assert!(!text.is_empty(), "{language}: {option}");
                        }
                    }
                });
            }
        });
    }

    /// The dimensions are at fixed places of the first chunk.
    #[test]
    fn pictures_have_the_dimensions_that_home_assistant_shows() {
        for (file, dimensions) in [("icon.png", [128, 128]), ("logo.png", [250, 100])] {
            let bytes = fs::read(source().join(file)).unwrap();
            assert!(bytes.starts_with(b"\x89PNG"), "{file}");
            let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!([number(16), number(20)], dimensions, "{file}");
        }
    }

    #[test]
    fn add_on_has_version_and_programs() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "program").unwrap();
        let programs = ARCHITECTURES.iter().map(|name| (*name, program.as_path()));
        add_on("1.2.3", programs, directory.path()).unwrap();
        let stage = directory.path().join("clesyde-cloud-1.2.3-home-assistant");
        let config = fs::read_to_string(stage.join("config.yaml")).unwrap();
        assert!(config.contains("\nversion: \"1.2.3\"\n"), "{config}");
        let dockerfile = fs::read_to_string(stage.join("Dockerfile")).unwrap();
        assert!(dockerfile.contains("COPY bin/${BUILD_ARCH}/clesyde-cloud "));
        for path in ["amd64", "aarch64"].map(|name| format!("bin/{name}/clesyde-cloud")) {
            assert_eq!(fs::read(stage.join(&path)).unwrap(), b"program", "{path}");
        }
        for file in ["run.sh", "DOCS.md", "README.md", "CHANGELOG.md", "icon.png"] {
            assert!(stage.join(file).exists(), "{file}");
        }
    }
}
