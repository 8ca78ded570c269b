//! Private keys that are no longer in use, searched for in the process's memory: a core dump, the
//! swap or a bug that reads memory would give them away.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::Context;
use crate::platform::reported;
use crate::report::Row;
use crate::scene::{CALL, SN, Scene, Settings};

const ROTATIONS: usize = 3;
/// Bytes that are read at once.
const PIECE: usize = 1024 * 1024;

/// One form of a key in memory.
struct Needle {
    form: &'static str,
    bytes: Vec<u8>,
}

/// Searches the memory of a device whose certificates were replaced several times for the keys of
/// before.
pub(crate) async fn retired_keys(context: &Context) -> Result<Vec<Row>> {
    let settings = Settings {
        page: true,
        ..Settings::default()
    };
    let scene = Scene::start(context, settings).await?;
    let mut rows = Vec::new();
    for (route, name, file) in [
        ("rotate", "remoteCertSn", "remote_key.pem"),
        ("rotate-iot", "iotCertSn", "iot_key.pem"),
    ] {
        let mut retired = Vec::new();
        for _ in 0..ROTATIONS {
            retired.extend(needles(&scene.world.read(file)?)?);
            let answer = scene
                .world
                .control("POST", &format!("/devices/{SN}/{route}"), "")
                .await?;
            let serial = answer["serial"].as_str().context("no serial number")?;
            reported(&scene.world, name, serial, CALL).await?;
        }
        // What is freed with a delay: connections under the old certificate, and the trial
        // connection.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..3 {
            scene.honest().get("/").await?;
        }
        let found = search(scene.device.pid()?, &retired)?;
        let count: usize = found.iter().sum();
        let mut forms: Vec<&str> = retired
            .iter()
            .zip(&found)
            .filter(|(_, count)| **count > 0)
            .map(|(needle, _)| needle.form)
            .collect();
        forms.sort_unstable();
        forms.dedup();
        rows.push(Row::new(
            format!("the process's memory after {ROTATIONS} new {name}"),
            "no copy of a retired key",
            match count {
                0 => "none".to_owned(),
                _ => format!("{count} ({})", forms.join(", ")),
            },
            count == 0,
        ));
    }
    Ok(rows)
}

/// The forms in which a key in PEM may lie in memory.
fn needles(pem: &str) -> Result<Vec<Needle>> {
    let body: Vec<&str> = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let der = key.secret_der();
    let mut needles = vec![
        Needle {
            form: "PEM",
            // In JSON the line's end is spelled out, so only what is within a line counts.
            bytes: body
                .get(1)
                .context("no second line of PEM")?
                .as_bytes()
                .to_vec(),
        },
        Needle {
            form: "DER",
            bytes: der[der.len() / 4..der.len() / 2].to_vec(),
        },
    ];
    // A scalar of P-256: an OCTET STRING of 32 bytes behind the version 1 (RFC 5915).
    if let Some(at) = der.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]) {
        let scalar = &der[at + 5..at + 37];
        needles.push(Needle {
            form: "the raw number",
            bytes: scalar.to_vec(),
        });
        // As libraries for big numbers keep it on most machines.
        needles.push(Needle {
            form: "the raw number",
            bytes: scalar.iter().rev().copied().collect(),
        });
    }
    Ok(needles)
}

/// How often each needle is in the process's writable memory.
fn search(pid: u32, needles: &[Needle]) -> Result<Vec<usize>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory =
        File::open(format!("/proc/{pid}/mem")).context("cannot read the memory of the device")?;
    let mut found = vec![0; needles.len()];
    let longest = needles
        .iter()
        .map(|needle| needle.bytes.len())
        .max()
        .unwrap_or(1);
    for line in maps.lines() {
        let Some((range, rest)) = line.split_once(' ') else {
            continue;
        };
        if !rest.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').context("no range")?;
        let (mut at, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        while at < end {
            let mut piece = vec![0; PIECE.min((end - at) as usize)];
            // A region may be gone by now.
            let Ok(read) = memory.read_at(&mut piece, at) else {
                break;
            };
            piece.truncate(read);
            for (needle, count) in needles.iter().zip(&mut found) {
                *count += occurrences(&piece, &needle.bytes);
            }
            // Pieces overlap by one byte less than a needle has, so that none is cut.
            at += match (read as u64).saturating_sub(longest as u64 - 1) {
                _ if read < PIECE => PIECE as u64,
                step => step,
            };
        }
    }
    Ok(found)
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    let Some((first, _)) = needle.split_first() else {
        return 0;
    };
    let mut count = 0;
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            count += 1;
        }
        rest = &rest[1..];
    }
    count
}
