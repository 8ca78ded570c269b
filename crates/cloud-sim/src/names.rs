//! Names that follow from a device's serial number: its thing name and the label of its access
//! point.
//!
//! A serial number is 1–128 characters of `A-Z a-z 0-9 _ - . :` (docs/protocol.md, "Provisioning").
//! That is wider than what a DNS label takes (63 characters of `a-z 0-9 -`) and a little wider than
//! what the broker takes as a client id, so both are derived here, and nowhere else.

use sha2::{Digest, Sha256};

/// Longest serial number: AWS IoT takes client ids and thing names of up to 128 bytes.
const MAX_SERIAL: usize = 128;

/// Longest DNS label (RFC 1035).
const MAX_LABEL: usize = 63;

/// Hex digits of the hash that sets two similar serial numbers apart: 40 bits, far beyond the size
/// of the device table.
const HASH_DIGITS: usize = 10;

/// The domain of all access points. Browsers and curl resolve everything below `localhost` to this
/// machine by themselves (RFC 6761); for others there is `--resolve` or an entry in the hosts file.
const ACCESS_DOMAIN: &str = "ui.localhost";

/// Whether this is a serial number at all.
pub(crate) fn is_serial(sn: &str) -> bool {
    !sn.is_empty()
        && sn.len() <= MAX_SERIAL
        && sn
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
}

/// Whether this can be the `<action>` of a request or answer topic.
pub(crate) fn is_action(action: &str) -> bool {
    !action.is_empty()
        && action.len() <= MAX_SERIAL
        && action
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// The thing name of a serial number: the same text, except for the few that the broker refuses as
/// a client id.
pub(crate) fn thing_name(sn: &str) -> String {
    if sn == "." || sn == ".." || sn.starts_with("cert:") {
        format!("thing-{}", hash(sn))
    } else {
        sn.to_owned()
    }
}

/// The host name under which the public reaches a device. `taken` tells which names other devices
/// already have.
pub(crate) fn access_point(sn: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = sn.to_ascii_lowercase();
    if is_plain_label(&plain) {
        let name = format!("{plain}.{ACCESS_DOMAIN}");
        if !taken(&name) {
            return name;
        }
    }
    let mut label: String = plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(MAX_LABEL - HASH_DIGITS - "d--".len())
        .collect();
    label = format!("d-{}-{}", label.trim_matches('-'), hash(sn));
    format!("{label}.{ACCESS_DOMAIN}")
}

/// Whether a lower-case text is a DNS label as it is, and no label of an internationalised or
/// derived name.
fn is_plain_label(label: &str) -> bool {
    label.len() <= MAX_LABEL
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.get(2..4) != Some("--")
        && !label.starts_with("d-")
}

fn hash(sn: &str) -> String {
    let digest = Sha256::digest(sn.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(HASH_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_checked() {
        assert!(is_serial("SN0001"));
        assert!(is_serial("a:b.c_d-E"));
        assert!(is_serial(&"x".repeat(128)));
        for bad in [
            "",
            "a/b",
            "a+b",
            "a#b",
            "$aws",
            "a b",
            "é",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(!is_serial(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_ordinary_serial_number_shows_in_the_host_name() {
        assert_eq!(access_point("SN0001", |_| false), "sn0001.ui.localhost");
        assert_eq!(thing_name("SN0001"), "SN0001");
    }

    #[test]
    fn every_serial_number_gets_a_valid_and_distinct_label() {
        let serials = [
            "a:b",
            "a.b",
            "A:B",
            "-",
            ".",
            "::",
            "xn--a",
            "d-a-b",
            &"X".repeat(128),
            &"-".repeat(128),
            "_",
        ];
        let mut names = std::collections::HashSet::new();
        for sn in serials {
            let name = access_point(sn, |_| false);
            let label = name.split('.').next().unwrap();
            assert!((1..=MAX_LABEL).contains(&label.len()), "{sn}: {name}");
            assert!(
                !label.starts_with('-') && !label.ends_with('-'),
                "{sn}: {name}"
            );
            assert!(
                label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
            assert!(names.insert(name), "{sn} is not distinct");
        }
    }

    #[test]
    fn serials_that_differ_in_case_get_distinct_names() {
        let first = access_point("SN1", |_| false);
        let second = access_point("sn1", |name| name == first);
        assert_ne!(first, second);
    }

    #[test]
    fn the_broker_takes_every_thing_name() {
        for sn in [".", "..", "cert:1", "a:b", &"x".repeat(128)] {
            assert!(mqtt5::is_path_safe_client_id(&thing_name(sn)), "{sn}");
            assert!(!thing_name(sn).starts_with("cert:"));
        }
    }
}
