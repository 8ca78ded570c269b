//! The fuzz targets, one function each, for the fuzzer and for `tests/corpus.rs`.
//!
//! Any bytes are a valid input. A function panics when the code under test violates a guarantee.

#![allow(dead_code, reason = "each user takes some of it")]

use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use snitun::server::{FernetKeys, TokenContent};
use snitun::{
    CHALLENGE_LEN, ChannelId, Cipher, ClientHandshake, ConnectionKey, Decoder, FrameType,
    HEADER_LEN, Header, Incoming, Limits, Mux, MuxConfig, Opener, ProtocolVersion, Role, Sealer,
    ServerHandshake, SessionKey, Timeouts, proxy, sni,
};

use super::choices::Choices;
use super::model;
use super::pair::{Pair, entropy, limits_for};

type Target = fn(&[u8]);

/// The targets by name.
pub(crate) const TARGETS: [(&str, Target); 7] = [
    ("decoder", decoder),
    ("handshake", handshake),
    ("hello", hello),
    ("proxy", proxy_header),
    ("token", token),
    ("mux", mux),
    ("hostile", hostile),
];

fn key(cipher: Cipher) -> ConnectionKey {
    SessionKey::new([3; 32], [4; 16]).with_cipher(cipher)
}

/// A matching writer and reader.
fn session(cipher: Cipher) -> (Sealer, Opener) {
    let (mut challenge, mut answer) = (Vec::new(), Vec::new());
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let server = ServerHandshake::new(key(cipher), &mut random, &mut challenge).unwrap();
    let client = ClientHandshake::new(key(cipher))
        .answer(&mut challenge, &mut random, &mut answer)
        .unwrap();
    (server.verify(&mut answer).unwrap().sealer, client.opener)
}

/// Any input decodes to the same frames for any segmentation, and never to more data than the
/// input.
///
/// The first byte selects the cipher and the version, and whether the rest is a plain stream that
/// is sealed here (the only way to pass an authenticated cipher) or the bytes on the wire.
pub(crate) fn decoder(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let cipher = Cipher::ALL[usize::from(first) % 3];
    let version = ProtocolVersion::ALL[usize::from(first >> 2) % 3];
    let cut = usize::from(first >> 5) + 1;
    let (mut sealer, opener) = session(cipher);
    let wire = if first & 0x10 == 0 {
        seal_stream(rest, &mut sealer)
    } else {
        rest.to_vec()
    };
    let whole = decode(Decoder::new(opener, version), &wire, usize::MAX);
    let pieces = decode(Decoder::new(session(cipher).1, version), &wire, cut);
    assert_eq!(whole, pieces);
    let carried: usize = whole.0.iter().map(|(_, data)| data.len()).sum();
    assert!(carried <= wire.len());
}

/// Seals headers and addresses in a stream of plain frames.
fn seal_stream(mut plain: &[u8], sealer: &mut Sealer) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut random = |dest: &mut [u8]| dest.fill(2);
    while let Some((header, rest)) = plain.split_first_chunk::<HEADER_LEN>() {
        sealer.seal(header, &mut random, &mut wire).unwrap();
        let header = Header::from_bytes(header);
        let size = usize::try_from(header.size).unwrap().min(rest.len());
        let (body, rest) = rest.split_at(size);
        if header.kind == FrameType::New as u8 {
            let unit = &body[..size / 16 * 16];
            sealer.seal(unit, &mut random, &mut wire).unwrap();
        } else {
            wire.extend_from_slice(body);
        }
        plain = rest;
    }
    wire
}

/// Returns the frames, with consecutive data of a channel joined, and whether decoding failed.
fn decode(mut decoder: Decoder, wire: &[u8], cut: usize) -> (Vec<(Incoming, Vec<u8>)>, bool) {
    let mut input = BytesMut::new();
    let mut frames: Vec<(Incoming, Vec<u8>)> = Vec::new();
    for piece in wire.chunks(cut) {
        input.extend_from_slice(piece);
        loop {
            let incoming = match decoder.decode(&mut input) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => break,
                Err(_) => return (frames, true),
            };
            let Incoming::Data { id, data } = incoming else {
                frames.push((incoming, Vec::new()));
                continue;
            };
            assert!(!data.is_empty());
            match frames.last_mut() {
                Some((Incoming::Data { id: last, .. }, joined)) if *last == id => {
                    joined.extend_from_slice(&data);
                }
                _ => {
                    let label = Incoming::Data {
                        id,
                        data: BytesMut::new(),
                    };
                    frames.push((label, data.to_vec()));
                }
            }
        }
        // At most a header or an address unit is buffered.
        assert!(input.len() <= 64 + 28);
    }
    (frames, false)
}

/// A client handles any challenge; a server accepts only the right answer.
pub(crate) fn handshake(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let cipher = Cipher::ALL[usize::from(first) % 3];
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let (mut challenge, mut right) = (Vec::new(), Vec::new());
    let server = ServerHandshake::new(key(cipher), &mut random, &mut challenge).unwrap();
    let client = || ClientHandshake::new(key(cipher));
    client()
        .answer(&mut challenge, &mut random, &mut right)
        .unwrap();
    // Missing bytes of an answer are right, so that the right answer is reachable.
    let mut answer = right.clone();
    for (byte, change) in answer.iter_mut().zip(rest) {
        *byte ^= change;
    }
    if first & 0x80 != 0 {
        answer.truncate(rest.len());
    }
    let same = answer == right;
    assert_eq!(server.verify(&mut answer).is_ok(), same);

    let mut challenge = rest.to_vec();
    let mut out = Vec::new();
    if client()
        .answer(&mut challenge, &mut random, &mut out)
        .is_ok()
    {
        assert_eq!(out.len(), CHALLENGE_LEN + cipher.overhead());
    }
}

/// The host name of a ClientHello does not depend on how much of the following data has arrived.
pub(crate) fn hello(data: &[u8]) {
    prefix(data, sni::server_name, |_| 0);
    if let Ok(Some(name)) = sni::server_name(data) {
        assert!((1..=255).contains(&name.len()) || name.is_empty());
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(name, name.to_ascii_lowercase());
    }
}

/// The same for a PROXY header, which is never longer than the input.
pub(crate) fn proxy_header(data: &[u8]) {
    prefix(data, proxy::header, |found| found.len);
    if let Ok(Some(found)) = proxy::header(data) {
        assert!((1..=proxy::MAX_PROXY_HEADER).contains(&found.len));
        assert_eq!(proxy::header(&data[..found.len]), Ok(Some(found)));
    }
}

/// Parses growing prefixes: "more is needed", then one final result.
fn prefix<T, E>(
    data: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, E>,
    len: impl Fn(&T) -> usize,
) where
    T: PartialEq + std::fmt::Debug,
    E: PartialEq + std::fmt::Debug,
{
    let steps = [1, 2, 3, 5, 6, 9, 16, 40, 76, data.len() / 2, data.len()];
    let mut decided: Option<Result<Option<T>, E>> = None;
    let mut last = 0;
    for step in steps {
        let step = step.min(data.len());
        if step < last {
            continue;
        }
        last = step;
        let now = read(&data[..step]);
        match &decided {
            Some(before) => assert_eq!(&now, before),
            None => {
                if let Ok(Some(found)) = &now {
                    assert!(len(found) <= step);
                }
                if !matches!(now, Ok(None)) {
                    decided = Some(now);
                }
            }
        }
    }
}

/// Any token text and any JSON are handled, and parsed content serializes to the same JSON.
pub(crate) fn token(data: &[u8]) {
    let keys = FernetKeys::from_keys(&["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]).unwrap();
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = keys.open(text, UNIX_EPOCH);
        let _ = FernetKeys::from_keys(&[text]);
    }
    let Ok(content) = TokenContent::from_json(data) else {
        return;
    };
    let again = TokenContent::from_json(&content.to_json()).unwrap();
    assert_eq!(content.to_json(), again.to_json());
    if let Ok(text) = keys.issue(&content) {
        let opened = keys.open(
            &text,
            UNIX_EPOCH + Duration::from_secs(content.valid.min(1 << 40)),
        );
        assert!(opened.is_ok_and(|opened| opened.to_json() == content.to_json()));
    }
}

/// Maximum bytes per step of [`mux`]. The order of operations matters to a fuzzer, not their size:
/// enough for frames of either kind (copied and chained), and hundreds of schedules a second rather
/// than one.
const MUX_LARGEST: usize = 12_000;

/// Two multiplexers match the model for any order of operations.
pub(crate) fn mux(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.byte();
    let cipher = Cipher::ALL[usize::from(first) % 3];
    let version = ProtocolVersion::ALL[usize::from(first >> 2) % 3];
    let pair = Pair::new(version, cipher, limits_for(MUX_LARGEST), first.into());
    // Missing choices are zeros, which open channels: a schedule ends with its input.
    let steps = (data.len() / 12).min(2000);
    model::run_schedule(pair, &mut choices, steps, MUX_LARGEST);
}

/// A peer that sends arbitrary frames stays within the limits, and so does the output queued for
/// it.
pub(crate) fn hostile(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.byte();
    let version = ProtocolVersion::ALL[usize::from(first) % 3];
    let role = if first & 4 == 0 {
        Role::Client
    } else {
        Role::Server
    };
    let limits = Limits {
        max_channels: 6,
        max_unaccepted: 3,
        receive_per_channel: 40_000,
        receive_total: 90_000,
        pause_above: 20_000,
        resume_below: 5_000,
        send_per_channel: 60_000,
        send_total: 80_000,
    };
    let mut now = snitun::Timestamp::START;
    let config = MuxConfig {
        role,
        version,
        throttling: None,
        limits: limits.clone(),
        timeouts: Timeouts::default(),
    };
    let mut mux = Mux::new(config, now);
    let mut encoder = snitun::Encoder::new(session(Cipher::AesCbc).0, version, entropy(1));
    let mut batch = snitun::WriteBatch::new();
    let mut keys = Vec::new();
    while !choices.is_empty() {
        let action = choices.byte();
        let id = ChannelId([action >> 5; 16]);
        let amount = usize::from(choices.byte()) * 160 + 1;
        let handled = match action & 0x1f {
            0..3 => mux.handle(Incoming::New { id, caller: None }, now),
            3..7 => mux.handle(
                Incoming::Data {
                    id,
                    data: BytesMut::zeroed(amount),
                },
                now,
            ),
            7 => mux.handle(Incoming::Close { id }, now),
            8 => mux.handle(Incoming::Pause { id }, now),
            9 => mux.handle(Incoming::Resume { id }, now),
            10 => mux.handle(Incoming::Ping { id }, now),
            11 => mux.handle(
                Incoming::Pong {
                    id,
                    has_backpressure: false,
                },
                now,
            ),
            12 => mux.handle(Incoming::MalformedNew { id }, now),
            13..16 => {
                keys.extend(mux.accept());
                Ok(())
            }
            16 if role == Role::Server => {
                keys.extend(mux.open(id, None));
                Ok(())
            }
            kind => {
                let key = keys
                    .get(usize::from(action >> 5) % keys.len().max(1))
                    .copied();
                match (kind, key) {
                    (17..20, Some(key)) => drop(mux.read(key)),
                    (20..23, Some(key)) => {
                        mux.write(key, &vec![0; amount]);
                    }
                    (23, Some(key)) => mux.close(key, now),
                    (24, Some(key)) => {
                        mux.release(key, now);
                        keys.retain(|held| *held != key);
                    }
                    (25, _) => {
                        let count = amount.min(batch.len());
                        batch.advance(count);
                    }
                    (26, _) => {
                        now += Duration::from_millis(amount as u64);
                        if mux.handle_timeout(now).is_err() {
                            return;
                        }
                    }
                    (27, _) if amount > 40_000 => mux.drain(now),
                    (28, _) => {
                        mux.ping(id, now);
                    }
                    _ => mux.poll_transmit(&mut encoder, &mut batch, now).unwrap(),
                }
                Ok(())
            }
        };
        if handled.is_err() {
            mux.end(now);
            assert!(!mux.has_output());
            return;
        }
        while mux.poll_event().is_some() {}
        assert!(mux.open_channels() <= limits.max_channels);
        assert!(mux.bytes_received_unread() <= limits.receive_total);
        // Each channel is guaranteed 16 KiB.
        assert!(mux.bytes_unsent() <= limits.send_total + limits.max_channels * 16 * 1024);
        assert!(mux.control_frames_waiting() <= 20_000);
        // The batch exceeds its limit by at most one frame.
        assert!(batch.len() <= 256 * 1024 + 64 * 1024 + 64);
    }
    mux.end(now);
    for key in keys {
        mux.release(key, now);
    }
    assert_eq!(mux.bytes_received_unread(), 0);
    assert_eq!(mux.bytes_unsent(), 0);
    assert_eq!(mux.open_channels(), 0);
}
