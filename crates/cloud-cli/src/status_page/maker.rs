//! What the maker of the device puts on the page: name, model and logo.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::{CliError, Result};

/// Maximum size of the logo: the page is for visitors with slow connections, too.
const MAX_LOGO_SIZE: u64 = 64 * 1024;

const DEFAULT_LOGO: &[u8] = include_bytes!("logo.svg");

/// Options of the status page.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Status page")]
pub(crate) struct MakerOptions {
    /// Name of the device on the status page [default: the serial number]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["forward", "forward_tcp", "passthrough", "static_dir"]
    )]
    device_name: Option<String>,

    /// Model of the device on the status page
    #[arg(
        long,
        value_name = "MODEL",
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["forward", "forward_tcp", "passthrough", "static_dir"]
    )]
    device_model: Option<String>,

    /// Logo on the status page: an SVG, PNG, JPEG or WebP file of at most 64 KiB
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["forward", "forward_tcp", "passthrough", "static_dir"]
    )]
    device_logo: Option<PathBuf>,
}

impl MakerOptions {
    /// Reads the logo.
    pub(crate) fn maker(&self) -> Result<Maker> {
        Ok(Maker {
            name: self.device_name.clone(),
            model: self.device_model.clone(),
            logo: match &self.device_logo {
                Some(path) => Logo::read(path)?,
                None => Logo::default(),
            },
        })
    }
}

/// Checks whether a file can be the logo.
///
/// # Errors
/// It cannot, or not be read.
pub(crate) fn check_logo(path: &Path) -> Result {
    Logo::read(path).map(drop)
}

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub(crate) struct Maker {
    pub(super) name: Option<String>,
    pub(super) model: Option<String>,
    pub(super) logo: Logo,
}

#[derive(Debug, Clone)]
pub(super) struct Logo {
    pub(super) content_type: &'static str,
    pub(super) image: Vec<u8>,
}

impl Default for Logo {
    fn default() -> Self {
        Self {
            content_type: "image/svg+xml",
            image: DEFAULT_LOGO.to_vec(),
        }
    }
}

impl Logo {
    fn read(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let content_type = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("jpg" | "jpeg") => "image/jpeg",
            Some("webp") => "image/webp",
            _ => {
                return Err(CliError::Usage(format!(
                    "the logo {} must be an .svg, .png, .jpg or .webp file",
                    path.display()
                )));
            }
        };
        let failed = |error: &std::io::Error| {
            CliError::with_cause(
                format_args!("cannot read the logo {}", path.display()),
                error,
            )
        };
        let size = std::fs::metadata(path)
            .map_err(|error| failed(&error))?
            .len();
        if size > MAX_LOGO_SIZE {
            return Err(CliError::Usage(format!(
                "the logo {} has {size} bytes; use one of at most {MAX_LOGO_SIZE}",
                path.display()
            )));
        }
        let image = std::fs::read(path).map_err(|error| failed(&error))?;
        Ok(Self {
            content_type,
            image,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logo_has_known_type_and_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, size: usize| {
            let path = directory.path().join(name);
            std::fs::write(&path, vec![0; size]).unwrap();
            path
        };
        let logo = Logo::read(&write("a.PNG", 65_536)).unwrap();
        assert_eq!((logo.content_type, logo.image.len()), ("image/png", 65_536));
        for bad in [
            write("a.svg", 65_537),
            write("a.html", 1),
            directory.path().join("missing.png"),
        ] {
            assert!(Logo::read(&bad).is_err(), "{}", bad.display());
        }
    }
}
