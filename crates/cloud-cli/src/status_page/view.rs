//! The page as HTML, as text for other clients, and as JSON.

use serde::Serialize;

use super::facts::{Certificate, Facts, Link};
use super::verdict::Verdict;
use super::words::{bytes, count, date, date_and_time, duration, escape, since, time_of_day};
use super::{plot, qr_code};
use crate::time_fmt::rfc3339;

/// What does not change while the device runs.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) sn: String,
    pub(super) access_point: String,
    pub(super) name: Option<String>,
    pub(super) model: Option<String>,
    pub(super) version: &'static str,
}

impl Identity {
    fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.sn)
    }
}

/// The parts of the page that change: the element's id and its content as HTML. The content of
/// `verdict` is its style.
pub(super) type Parts = [(&'static str, String); 17];

pub(super) fn parts(facts: &Facts) -> Parts {
    let verdict = Verdict::new(facts);
    let traffic = &facts.history;
    let certificate = facts.certificate.as_ref();
    [
        ("verdict", verdict.level.name().to_owned()),
        ("verdict-text", escape(&verdict.sentence)),
        ("verdict-short", verdict.short.to_owned()),
        ("verdict-detail", verdict.detail.unwrap_or_default()),
        ("messaging", link(&facts.iot, facts)),
        ("remote", link(&facts.remote, facts)),
        ("outage", escape(&outage(facts))),
        ("served", escape(&served(facts))),
        ("as-of", time_of_day(facts.now)),
        ("scale", plot::scale(traffic)),
        ("plot", plot::svg(traffic)),
        ("summary", plot::summary(traffic)),
        ("visitors", facts.visitors.to_string()),
        ("connections", facts.connections.to_string()),
        (
            "transferred",
            format!("{} / {}", bytes(facts.sent), bytes(facts.received)),
        ),
        (
            "certificate",
            escape(&certificate.map_or_else(
                || "There is no usable certificate; the device asks for one.".to_owned(),
                |certificate| certificate_in_words(certificate, facts),
            )),
        ),
        (
            "certificate-details",
            certificate.map(details).unwrap_or_default(),
        ),
    ]
}

pub(super) fn html(identity: &Identity, facts: &Facts) -> String {
    let address = facts.url.trim_start_matches("https://");
    let fixed = [
        ("title", escape(identity.title())),
        (
            "subtitle",
            escape(identity.model.as_deref().unwrap_or("Connected device")),
        ),
        ("url", escape(&facts.url)),
        ("address", escape(address.trim_end_matches('/'))),
        ("code", qr_code::svg(&facts.url)),
        ("sn", escape(&identity.sn)),
        ("version", identity.version.to_owned()),
    ];
    fill(TEMPLATE, fixed.iter().chain(&parts(facts)))
}

/// The page, with `{id}` for each part.
const TEMPLATE: &str = include_str!("page.html");

/// Returns the template with its parts.
fn fill<'a>(
    template: &str,
    parts: impl Iterator<Item = &'a (&'static str, String)> + Clone,
) -> String {
    let mut filled = String::with_capacity(2 * template.len());
    for (index, piece) in template.split(['{', '}']).enumerate() {
        if index % 2 == 0 {
            filled.push_str(piece);
        } else if let Some((_, part)) = parts.clone().find(|(id, _)| *id == piece) {
            filled.push_str(part);
        }
    }
    filled
}

fn served(facts: &Facts) -> String {
    let applications = facts.applications.iter().map(|application| {
        let answers = match application.answers {
            Some(true) => "answers",
            Some(false) => "does not answer",
            None => "is not checked yet",
        };
        format!("{} {answers}", application.address)
    });
    let applications: Vec<_> = applications.collect();
    match applications.is_empty() {
        false => applications.join(", "),
        true if facts.is_replaced => "Another application".to_owned(),
        true => "This status page".to_owned(),
    }
}

fn state(link: &Link) -> &'static str {
    match link.connected {
        true => "connected",
        false => "not connected",
    }
}

fn link(link: &Link, facts: &Facts) -> String {
    match link.since {
        Some(from) => format!("{} for {}", state(link), since(from, facts.now)),
        None => state(link).to_owned(),
    }
}

fn outage(facts: &Facts) -> String {
    match facts.last_outage {
        None => format!("none since the start, {}", date_and_time(facts.started)),
        Some(outage) => format!(
            "{}, {}, for {}",
            outage.of,
            date_and_time(outage.from),
            since(outage.from, outage.until)
        ),
    }
}

fn certificate_in_words(certificate: &Certificate, facts: &Facts) -> String {
    let end = date(certificate.not_after);
    match certificate.not_after.duration_since(facts.now) {
        Ok(left) => match left.as_secs() / (24 * 60 * 60) {
            0 => format!("Valid until {end}, {} left, renews itself", duration(left)),
            days => format!(
                "Valid until {end}, in {}, renews itself",
                count(days, "day")
            ),
        },
        Err(_) => format!("Expired on {end}; the device waits for a new one"),
    }
}

fn details(certificate: &Certificate) -> String {
    let rows = [
        ("Serial number", &certificate.serial),
        ("In hexadecimal", &certificate.serial_hex),
        ("SHA-256", &certificate.sha256),
        ("Issuer", &certificate.issuer),
        ("Valid from", &date_and_time(certificate.not_before)),
        ("Valid until", &date_and_time(certificate.not_after)),
    ];
    rows.iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value)))
        .collect()
}

/// Returns the page for clients without HTML, such as curl.
pub(super) fn text(identity: &Identity, facts: &Facts) -> String {
    let certificate = facts.certificate.as_ref();
    let (serial, end) = certificate.map_or_else(Default::default, |certificate| {
        (certificate.serial.clone(), rfc3339(certificate.not_after))
    });
    let served = served(facts);
    let rows = [
        ("Serial number", identity.sn.as_str()),
        ("Messaging", state(&facts.iot)),
        ("Remote access", state(&facts.remote)),
        ("Address", &identity.access_point),
        ("Served", &served),
        ("Certificate", &serial),
        ("Valid until", &end),
    ];
    let rows = rows.map(|(name, value)| format!("{name:<15}{value}\n"));
    format!("{}\n\n{}", Verdict::new(facts).sentence, rows.concat())
}

/// The page for programs. Fields are not removed or renamed.
#[derive(Debug, Serialize)]
pub(super) struct Json {
    sn: String,
    access_point: String,
    url: String,
    state: &'static str,
    sentence: String,
    iot_connected: bool,
    remote_connected: bool,
    certificate_serial: String,
    /// RFC 3339.
    certificate_not_after: String,
    certificate_sha256: String,
    visitors: usize,
    connections: u64,
    sent_bytes: u64,
    received_bytes: u64,
    version: &'static str,
}

pub(super) fn json(identity: &Identity, facts: &Facts) -> Json {
    let verdict = Verdict::new(facts);
    let certificate = facts.certificate.clone();
    let not_after = certificate
        .as_ref()
        .map(|certificate| certificate.not_after);
    let (serial, sha256) = certificate
        .map(|certificate| (certificate.serial, certificate.sha256))
        .unwrap_or_default();
    Json {
        sn: identity.sn.clone(),
        access_point: identity.access_point.clone(),
        url: facts.url.clone(),
        state: verdict.level.name(),
        sentence: verdict.sentence,
        iot_connected: facts.iot.connected,
        remote_connected: facts.remote.connected,
        certificate_serial: serial,
        certificate_not_after: not_after.map(rfc3339).unwrap_or_default(),
        certificate_sha256: sha256,
        visitors: facts.visitors,
        connections: facts.connections,
        sent_bytes: facts.sent,
        received_bytes: facts.received,
        version: identity.version,
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Outage;
    use super::super::facts::tests::{facts, later};
    use super::*;

    fn identity() -> Identity {
        Identity {
            sn: "SN<1>".to_owned(),
            access_point: "sn1.example.com".to_owned(),
            name: Some("Kitchen & hall".to_owned()),
            model: None,
            version: "0.0.0",
        }
    }

    #[test]
    fn html_is_escaped_and_names_everything() {
        let mut facts = facts();
        facts.last_outage = Some(Outage {
            of: "remote access",
            from: later(10),
            until: later(14),
        });
        let page = html(&identity(), &facts);
        for part in [
            "<h1>Kitchen &amp; hall</h1>",
            "SN&lt;1&gt;",
            "CN=&lt;Authority&gt;",
            "Online. Everything works.",
            "connected for 3 min",
            "remote access, 15 Jan 2027, 08:00 UTC, for 4 s",
            "Valid until 15 Apr 2027, in 90 days, renews itself",
            "499602d2",
            &"ab".repeat(32),
            r#"<a href="https://sn1.example.com/">sn1.example.com</a>"#,
            "1.5 MB / 42.0 kB",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("SN<1>") && !page.contains('{'), "{page}");
    }

    #[test]
    fn template_names_known_parts_only() {
        let unknown = TEMPLATE.split(['{', '}']).skip(1).step_by(2);
        let known: Vec<_> = parts(&facts()).into_iter().map(|(id, _)| id).collect();
        let fixed = [
            "title", "subtitle", "url", "address", "code", "sn", "version",
        ];
        for id in unknown {
            assert!(known.contains(&id) || fixed.contains(&id), "{id}");
        }
    }

    #[test]
    fn each_part_that_changes_is_an_element_of_the_page() {
        let facts = facts();
        let page = html(&identity(), &facts);
        for (id, _) in parts(&facts) {
            assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
        }
    }

    #[test]
    fn text_begins_with_the_sentence_and_json_has_the_state() {
        let text = text(&identity(), &facts());
        assert!(
            text.starts_with("Online. Everything works.\n\nSerial number  SN<1>\n"),
            "{text}"
        );
        let json = serde_json::to_value(json(&identity(), &facts())).unwrap();
        assert_eq!(json["state"], "good");
        assert_eq!(json["iot_connected"], true);
        assert_eq!(json["certificate_not_after"], "2027-04-15T08:03:00Z");
    }
}
