//! What must not be seen, and the search for it.
//!
//! A secret is looked for as text, as hex, and as the lists of numbers that `{:?}` and `{:x?}` make
//! of bytes. White space is ignored, so that neither the line breaks of PEM nor those of `{:#?}`
//! hide anything.

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::capture::Line;

/// As much of a secret text as gives it away; logs shorten what is long.
const PREFIX: usize = 20;

/// As many bytes of a secret as give it away.
const PREFIX_BYTES: usize = 12;

/// A run of hex digits of this length is a key, an initialisation vector or a hash: 16 bytes.
const HEX_RUN: usize = 32;

/// Modules in which no long run of hex digits is right, whatever it is. The TLS stack logs what is
/// public in that form.
const OURS: [&str; 8] = [
    "cloud_config",
    "cloud_facade",
    "cloud_iot",
    "cloud_provision",
    "cloud_remote",
    "cloud_shadow",
    "snitun",
    "rumqttc",
];

/// The secrets of a run.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// What each is, and one of its forms without white space.
    forms: Vec<(&'static str, String)>,
    pub(crate) keys: usize,
    pub(crate) tokens: usize,
    pub(crate) aes: usize,
}

impl Secrets {
    /// A secret that is a text, such as the provisioning key.
    pub(crate) fn add_text(&mut self, what: &'static str, text: &str) {
        let prefix: String = text.chars().take(PREFIX).collect();
        self.add_bytes(what, prefix.as_bytes());
        self.add(what, prefix);
    }

    /// Every private key, tunnel token, AES key and vector in what went over a line.
    pub(crate) fn add_recorded(&mut self, recorded: &[u8]) {
        let text = String::from_utf8_lossy(recorded).replace("\\n", "\n");
        for after in text.split("-----BEGIN ").skip(1) {
            let Some((_, body)) = after.split_once("PRIVATE KEY-----") else {
                continue;
            };
            // A broken answer ends in the middle of a key.
            self.add_key(
                body.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=\n".contains(c)))
                    .next()
                    .unwrap(),
            );
        }
        for after in text.split("\"gAAAA").skip(1) {
            self.tokens += 1;
            self.add_text(
                "a tunnel token",
                &after[..after.find('"').unwrap_or(after.len())],
            );
        }
        for (what, name) in [
            ("an AES key", "\"aesKey\":\""),
            ("an AES vector", "\"aesIv\":\""),
        ] {
            for after in text.split(name).skip(1) {
                let hex = after.split('"').next().unwrap();
                self.aes += 1;
                self.add_text(what, hex);
                let bytes: Vec<u8> = (0..hex.len() / 2)
                    .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                    .collect();
                self.add_bytes(what, &bytes);
            }
        }
    }

    /// The lines between BEGIN and END of a private key's PEM.
    pub(crate) fn add_key(&mut self, body: &str) {
        self.keys += 1;
        let lines: Vec<&str> = body.trim().lines().collect();
        // The last line of a short key holds the public half again, which certificates show
        // rightly.
        let secret = if lines.len() == 3 {
            &lines[..2]
        } else {
            &lines[..]
        };
        for line in secret.iter().filter(|line| line.len() >= PREFIX) {
            self.add_text("a line of a private key", line);
        }
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            body.trim()
        );
        if let Ok(key) = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            && key.secret_der().len() == 138
        {
            // The secret number of a P-256 key, where PKCS#8 has it.
            self.add_bytes("a private key", &key.secret_der()[36..68]);
        }
    }

    /// Whether a private key is among them.
    pub(crate) fn knows_key(&self, pem: &str) -> bool {
        let mut other = Self::default();
        other.add_key(
            pem.trim()
                .trim_start_matches("-----BEGIN PRIVATE KEY-----")
                .split("-----")
                .next()
                .unwrap(),
        );
        !other.forms.is_empty() && other.forms.iter().all(|form| self.forms.contains(form))
    }

    fn add_bytes(&mut self, what: &'static str, bytes: &[u8]) {
        let prefix = &bytes[..bytes.len().min(PREFIX_BYTES)];
        let join = |form: fn(&u8) -> String, between| {
            prefix.iter().map(form).collect::<Vec<_>>().join(between)
        };
        self.add(what, join(|byte| format!("{byte:02x}"), ""));
        self.add(what, join(|byte| format!("{byte:02X}"), ""));
        self.add(what, join(|byte| format!("{byte:x}"), ","));
        self.add(what, join(|byte| format!("{byte:02x}"), ","));
        self.add(what, join(u8::to_string, ","));
    }

    fn add(&mut self, what: &'static str, form: String) {
        if !self.forms.iter().any(|(_, known)| *known == form) {
            self.forms.push((what, form));
        }
    }

    /// What a line gives away, if anything.
    pub(crate) fn found_in(&self, line: &Line) -> Option<String> {
        let text: String = line.text.split_whitespace().collect();
        if text.contains("PRIVATEKEY") {
            return Some("the text of a private key".to_owned());
        }
        if text.contains("gAAAA") {
            return Some("the beginning of a tunnel token".to_owned());
        }
        let module = line.target.split("::").next().unwrap();
        if OURS.contains(&module)
            && line
                .text
                .split(|c: char| !c.is_ascii_hexdigit())
                .any(|run| is_odd(module, run, line))
        {
            return Some("a long run of hex digits".to_owned());
        }
        let (what, _) = self.forms.iter().find(|(_, form)| text.contains(form))?;
        Some((*what).to_owned())
    }
}

/// Whether there may be a secret in a run of hex digits. Serial numbers of certificates are as
/// long, but decimal: of random keys, not one in a million is. SniTun's channels have names of 16
/// random bytes, which are no secret.
fn is_odd(module: &str, run: &str, line: &Line) -> bool {
    let is_long = run.len() >= HEX_RUN && run.chars().any(|c| !c.is_ascii_digit());
    let names_a_channel = module == "snitun"
        && run.len() == HEX_RUN
        && [" id=", " channel="]
            .iter()
            .any(|field| line.text.contains(&format!("{field}{run}")));
    is_long && !names_a_channel
}

#[test]
fn secret_is_found_in_any_logged_form() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let (aes, iv) = ("00ff".repeat(16), "a1b2".repeat(8));
    let token = "gAAAAABkZXZpY2UtdG9rZW4";
    let recorded = format!(
        r#"..{{"aesKey":"{aes}","aesIv":"{iv}"}}..{{"pkey":"{}","x":1}}..{{"token":"{token}"}}"#,
        key.replace('\n', "\\n")
    );
    let mut secrets = Secrets::default();
    secrets.add_recorded(recorded.as_bytes());
    secrets.add_text("the provisioning key", "prov-key-0123456789");
    assert_eq!((secrets.keys, secrets.aes, secrets.tokens), (1, 2, 1));
    assert!(secrets.knows_key(&key));

    let found = |text: String| {
        let line = Line {
            target: "rustls::conn".to_owned(),
            text: text.clone(),
        };
        assert!(secrets.found_in(&line).is_some(), "{text}");
    };
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    found(key.clone());
    found(format!("{:?}", key.lines().nth(2).unwrap()));
    found(format!("{:?}", key.as_bytes()));
    found(format!("{:?}", der.secret_der()));
    found(format!("{:#?}", der.secret_der()));
    found(format!("{:x?}", der.secret_der()));
    found(format!("{:02X?}", &aes.as_bytes()).to_lowercase());
    found(format!("key {aes}"));
    found(format!("{:?}", [0x00u8, 0xff].repeat(16)));
    found(format!("{:?}", bytes::Bytes::from(recorded.clone())));
    found(format!("token={token}"));
    found("refused prov-key-0123456789!".to_owned());

    let ours = |text: &str| Line {
        target: "snitun::client".to_owned(),
        text: text.to_owned(),
    };
    assert!(secrets.found_in(&ours(&"0a".repeat(16))).is_some());
    assert!(
        secrets
            .found_in(&ours(&format!("id={}0a", "0a".repeat(16))))
            .is_some()
    );
    assert_eq!(
        secrets.found_in(&ours(&format!(
            "received frame=ping id={}",
            "0a".repeat(16)
        ))),
        None
    );
    for harmless in [
        "serial=12345678901234567890123456789012345678 error=the platform",
        &"12345678".repeat(5),
        "asking for a token; the private key stays",
        "c/d/SN-0001/remotetoken/res",
    ] {
        assert_eq!(secrets.found_in(&ours(harmless)), None, "{harmless}");
    }
}
