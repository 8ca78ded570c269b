//! The manifest of a change: for each file, a digest of the replaced content and of the new
//! content.
//!
//! It is part of the journal, synced before the commit, and lets a later process detect whether
//! another program has written a file since. One line per file: name, digest before (`-` if there
//! was no file), digest after.
//!
//! A digest of a private key does not reveal the key, and the file is as private as the key itself.

use sha2::{Digest as _, Sha256};

use crate::credentials::MAX_PEM;
use crate::dir::Dir;
use crate::error::AccessError;
use crate::file_names::FILES;

/// The manifest's name in the journal.
pub(crate) const MANIFEST: &str = "manifest";

/// Maximum length of a manifest in bytes. Seven lines have about 1 KiB.
const MAX_MANIFEST: usize = 4096;

const ABSENT: &str = "-";

/// One file of a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// `None` if there was no file.
    pub(crate) before: Option<String>,
    pub(crate) after: String,
}

/// Renders the manifest of an upcoming change in `dir`.
pub(crate) fn render(dir: &Dir, files: &[(&'static str, &[u8])]) -> Result<String, AccessError> {
    let mut text = String::new();
    for (name, content) in files {
        let before = digest_of_file(dir, name)?;
        let before = before.as_deref().unwrap_or(ABSENT);
        let after = digest(content, content.len() as u64);
        text.push_str(&format!("{name} {before} {after}\n"));
    }
    Ok(text)
}

/// Reads the manifest in a journal; `None` if it is missing or malformed.
pub(crate) fn read(journal: &Dir) -> Result<Option<Vec<Entry>>, AccessError> {
    let Some(content) = journal.read(MANIFEST, MAX_MANIFEST)? else {
        return Ok(None);
    };
    Ok(std::str::from_utf8(&content.bytes).ok().and_then(parse))
}

fn parse(text: &str) -> Option<Vec<Entry>> {
    let is_digest =
        |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.lines()
        .map(|line| {
            let [name, before, after] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let name = FILES.into_iter().find(|known| *known == name)?;
            let is_valid = (before == ABSENT || is_digest(before)) && is_digest(after);
            is_valid.then(|| Entry {
                name,
                before: (before != ABSENT).then(|| before.to_owned()),
                after: after.to_owned(),
            })
        })
        .collect()
}

/// Returns the digest of the file with this name in `dir`, if it exists.
pub(crate) fn digest_of_file(dir: &Dir, name: &str) -> Result<Option<String>, AccessError> {
    let content = dir.read(name, MAX_PEM)?;
    Ok(content.map(|content| digest(&content.bytes, content.length)))
}

/// Hashes the content up to [`MAX_PEM`] and the full length: this crate writes no longer file.
fn digest(content: &[u8], length: u64) -> String {
    let hash = Sha256::new()
        .chain_update(content)
        .chain_update(length.to_be_bytes())
        .finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_rejects_malformed_lines() {
        let digest = digest(b"x", 1);
        let line = format!("iot_ca.pem - {digest}\nremote_key.pem {digest} {digest}\n");
        let entries = parse(&line).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (&entries[0].before, &entries[1].before),
            (&None, &Some(digest.clone()))
        );
        for bad in [
            format!("other.pem - {digest}"),
            format!("iot_ca.pem {digest}"),
            format!("iot_ca.pem - {}", &digest[1..]),
            format!("iot_ca.pem - - {digest}"),
            "\u{0}".to_owned(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
