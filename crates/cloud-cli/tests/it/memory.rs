//! Searches the memory of the running program for private keys that it has replaced.
//!
//! This process reads the keys from the directory, so that only the program itself can have them in
//! the searched memory. Linux only: it reads `/proc/<pid>/mem`.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use x509_parser::der_parser::parse_der;
use x509_parser::num_bigint::BigUint;

use crate::common::background_program::BackgroundProgram;
use crate::common::test_cloud::{SN, TestCloud};

/// A pair with an RSA key of 2,048 bits.
const RSA_CERT: &str = include_str!("../../../cloud-config/tests/data/pkcs1.cert.pem");
const RSA_KEY: &str = include_str!("../../../cloud-config/tests/data/pkcs1.key.pem");

/// The replaced certificate.
#[derive(Clone, Copy)]
enum Which {
    Remote,
    Iot,
}

/// Replacing the client certificate replaces the connection of the response; replacing the remote
/// one does not. The device delays each further request of the same kind, 14 s in all for four.
const ROTATIONS: [Which; 6] = [
    Which::Remote,
    Which::Iot,
    Which::Remote,
    Which::Iot,
    Which::Remote,
    Which::Remote,
];

/// Offset and length of a P-256 scalar in a PKCS#8 document (RFC 5208 around RFC 5915).
const SCALAR: std::ops::Range<usize> = 36..68;

/// The order of P-256 (FIPS 186-4, D.1.2.3).
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

/// Size of one read.
const CHUNK: usize = 1 << 20;

/// A representation of a private key in memory, or of half of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Needle {
    /// The key and the representation.
    name: String,
    bytes: Vec<u8>,
}

/// Returns the representations of the key in this file: base64 as in PEM and JSON, the number as in
/// DER, and ring's internal form.
fn needles(world: &TestCloud, file: &str, label: &str) -> Vec<Needle> {
    let pem = fs::read_to_string(world.config().join(file)).unwrap();
    if pem == RSA_KEY {
        return rsa_needles();
    }
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let number = &der.secret_pkcs8_der()[SCALAR];
    let value = BigUint::from_bytes_be(number);
    let order = BigUint::parse_bytes(ORDER.as_bytes(), 16).unwrap();
    // ring computes in Montgomery form.
    let montgomery = (value << 256u32) % order;
    let mut montgomery = montgomery.to_bytes_le();
    montgomery.resize(32, 0);
    let mut reversed = number.to_vec();
    reversed.reverse();
    let lines: Vec<_> = pem.lines().collect();
    // The first 48 characters are the same for all keys of this kind; the number continues on the
    // second line.
    let mut needles = vec![
        ("PEM", lines[1].as_bytes()[48..].to_vec()),
        ("PEM", lines[2].as_bytes()[..24].to_vec()),
    ];
    for (form, bytes) in [
        ("DER", number),
        ("limbs", &reversed),
        ("Montgomery", &montgomery),
    ] {
        let (first, last) = bytes.split_at(16);
        needles.extend([(form, first.to_vec()), (form, last.to_vec())]);
    }
    needles
        .into_iter()
        .map(|(form, bytes)| Needle {
            name: format!("{label}, {form}"),
            bytes,
        })
        .collect()
}

/// Returns the representations of an RSA key (PKCS#1): its lines as in PEM, and its primes as in
/// DER and in ring's internal form.
fn rsa_needles() -> Vec<Needle> {
    let der = PrivatePkcs1KeyDer::from_pem_slice(RSA_KEY.as_bytes()).unwrap();
    let (_, key) = parse_der(der.secret_pkcs1_der()).unwrap();
    let key = key.as_sequence().unwrap().to_vec();
    // The public half comes first.
    let lines: Vec<_> = RSA_KEY
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let lines = lines[lines.len() / 2..].iter();
    let mut needles: Vec<_> = lines
        .filter(|line| line.len() == 64)
        .map(|line| ("PEM", line.as_bytes().to_vec()))
        .collect();
    // version, n, e, d, p, q (RFC 8017, A.1.2)
    for prime in &key[4..6] {
        let prime = prime.as_biguint().unwrap();
        for (form, bytes) in [("DER", prime.to_bytes_be()), ("limbs", prime.to_bytes_le())] {
            needles.extend(bytes.chunks(32).map(|part| (form, part.to_vec())));
        }
    }
    let named = |(form, bytes)| Needle {
        name: format!("RSA, {form}"),
        bytes,
    };
    needles.into_iter().map(named).collect()
}

/// Searches the writable memory of a process; returns the needles found, with their mapping.
fn found(pid: u32, needles: &[Needle]) -> BTreeSet<String> {
    let mut may_begin = vec![false; 1 << 16];
    let begin = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    for needle in needles {
        may_begin[begin(&needle.bytes)] = true;
    }
    let longest = needles
        .iter()
        .map(|needle| needle.bytes.len())
        .max()
        .unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = BTreeSet::new();
    let mut buffer = vec![0; CHUNK];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let place = rest.split_whitespace().nth(4).unwrap_or("anonymous");
        let mut at = start;
        while at < end {
            let room = usize::try_from(end - at).unwrap().min(CHUNK);
            // A mapping may have been removed.
            let Ok(read) = memory.read_at(&mut buffer[..room], at) else {
                break;
            };
            let chunk = &buffer[..read];
            for (index, pair) in chunk.windows(2).enumerate() {
                if !may_begin[begin(pair)] {
                    continue;
                }
                for needle in needles {
                    if chunk[index..].starts_with(&needle.bytes) {
                        found.insert(format!("{} ({place})", needle.name));
                    }
                }
            }
            if at + read as u64 >= end || read <= longest {
                break;
            }
            at += (read - longest) as u64;
        }
    }
    found
}

/// Waits until the device has reported this certificate; the previous one is unused from then on.
fn wait_until_reported(world: &TestCloud, key: &str, serial: &str) {
    let end = Instant::now() + Duration::from_secs(90);
    while world.device_status()["reported"][key] != serial {
        assert!(Instant::now() < end, "{}", world.device_status());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn replaced_private_keys_are_not_in_memory() {
    let world = TestCloud::provisioned();
    // As if another platform had provisioned the device: this pair is the first to be replaced.
    fs::write(world.config().join("remote_cert.pem"), RSA_CERT).unwrap();
    fs::write(world.config().join("remote_key.pem"), RSA_KEY).unwrap();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("remote.connected");

    let first = found(run.pid(), &rsa_needles());
    assert!(!first.is_empty(), "the RSA key in use is not found");
    let mut retired = Vec::new();
    for (turn, which) in ROTATIONS.into_iter().enumerate() {
        let (file, path, key) = match which {
            Which::Remote => ("remote_key.pem", "rotate", "remoteCertSn"),
            Which::Iot => ("iot_key.pem", "rotate-iot", "iotCertSn"),
        };
        retired.extend(needles(&world, file, &format!("{file} {turn}")));
        let wanted = world.control(Method::POST, &format!("/devices/{SN}/{path}"), None);
        wait_until_reported(&world, key, wanted["serial"].as_str().unwrap());
    }
    let current = [
        needles(&world, "remote_key.pem", "remote"),
        needles(&world, "iot_key.pem", "iot"),
    ];
    for current in current {
        let found = found(run.pid(), &current);
        assert!(
            !found.is_empty(),
            "a key in use is not found: the search does not work"
        );
        println!("in use: {found:?}");
    }
    // Tasks that a rotation cancelled may still be running.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let left = found(run.pid(), &retired);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "still in memory: {left:#?}");
        thread::sleep(Duration::from_millis(500));
    }
    run.terminate();
}
