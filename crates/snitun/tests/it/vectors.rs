//! Frames recorded from the public Python package decode and re-encode to the same bytes.

use std::net::IpAddr;

use bytes::BytesMut;
use serde::Deserialize;
use snitun::{
    ChannelId, Cipher, ClientHandshake, ConnectionKey, Decoder, Encoder, FrameType, HEADER_LEN,
    Header, Incoming, Opener, ProtocolVersion, ServerHandshake, Session, SessionKey,
};

#[derive(Deserialize)]
struct Recording {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    cipher: String,
    protocol_version: u8,
    /// The role of the writer.
    role: String,
    aes_key: String,
    aes_iv: String,
    handshake: Handshake,
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Handshake {
    plaintext: String,
    wire: String,
    challenge_token: String,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: u8,
    id: String,
    data: String,
    extra_prefix: String,
    wire: String,
    note: String,
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Replays the random bytes of the recorded side.
fn playback(bytes: Vec<u8>) -> impl FnMut(&mut [u8]) + Send {
    let mut left = bytes.into_iter();
    move |dest: &mut [u8]| {
        dest.fill_with(|| left.next().expect("the recording has more randomness"))
    }
}

/// The random nonce of each unit on the wire.
fn random_nonce(cipher: Cipher, wire: &[u8]) -> &[u8] {
    match cipher {
        Cipher::AesGcmSiv => &wire[..12],
        _ => &[],
    }
}

impl Case {
    fn cipher(&self) -> Cipher {
        self.cipher.parse().unwrap()
    }

    fn version(&self) -> ProtocolVersion {
        self.protocol_version.try_into().unwrap()
    }

    fn key(&self) -> ConnectionKey {
        SessionKey::from_hex(&self.aes_key, &self.aes_iv)
            .unwrap()
            .with_cipher(self.cipher())
    }

    /// Runs the handshake as the recorded side, checks its bytes, and returns its session.
    fn write_handshake(&self) -> Session {
        let cipher = self.cipher();
        let recorded = unhex(&self.handshake.wire);
        let challenge = unhex(&self.handshake.challenge_token);
        let nonce = random_nonce(cipher, &recorded);
        let mut wire = Vec::new();
        if self.role == "server" {
            let mut random = playback([&challenge, nonce].concat());
            let server = ServerHandshake::new(self.key(), &mut random, &mut wire).unwrap();
            assert_eq!(wire, recorded);
            // A client with the same key is accepted.
            let mut answer = Vec::new();
            ClientHandshake::new(self.key())
                .answer(&mut wire, &mut |dest: &mut [u8]| dest.fill(5), &mut answer)
                .unwrap();
            server.verify(&mut answer).unwrap()
        } else {
            let mut sent = Vec::new();
            let mut random = playback([&challenge[..], &[9; 12]].concat());
            let server = ServerHandshake::new(self.key(), &mut random, &mut sent).unwrap();
            let session = ClientHandshake::new(self.key())
                .answer(&mut sent, &mut playback(nonce.to_vec()), &mut wire)
                .unwrap();
            assert_eq!(wire, recorded);
            server.verify(&mut wire).unwrap();
            session
        }
    }

    /// Returns the reading state of the other side after the recorded handshake.
    fn opener(&self) -> Opener {
        let mut wire = unhex(&self.handshake.wire);
        if self.role == "server" {
            let client = ClientHandshake::new(self.key());
            let mut fixed = |dest: &mut [u8]| dest.fill(7);
            let session = client.answer(&mut wire, &mut fixed, &mut Vec::new());
            return session.unwrap().opener;
        }
        let challenge = unhex(&self.handshake.challenge_token);
        let mut random = playback([&challenge[..], &[9; 12]].concat());
        let server = ServerHandshake::new(self.key(), &mut random, &mut Vec::new());
        server.unwrap().verify(&mut wire).unwrap().opener
    }

    fn decoder(&self) -> Decoder {
        Decoder::new(self.opener(), self.version())
    }

    /// Returns the recorded headers before encryption.
    fn headers(&self) -> Vec<(Header, Vec<u8>)> {
        let cipher = self.cipher();
        let mut opener = self.opener();
        let unit = HEADER_LEN + cipher.overhead();
        self.frames
            .iter()
            .map(|frame| {
                let mut wire = unhex(&frame.wire);
                let (head, rest) = wire.split_at_mut(unit);
                let plain = opener.open(head).unwrap();
                let header = Header::from_bytes(plain.first_chunk().unwrap());
                let data = if frame.kind == FrameType::New as u8 && !rest.is_empty() {
                    opener.open(rest).unwrap().to_vec()
                } else {
                    rest.to_vec()
                };
                (header, data)
            })
            .collect()
    }
}

fn cases() -> Vec<Case> {
    let text = include_str!("../vectors/snitun.json");
    let recording: Recording = serde_json::from_str(text).unwrap();
    assert_eq!(recording.cases.len(), 18, "version × cipher × role");
    recording.cases
}

fn expected(frame: &Frame) -> Option<Incoming> {
    let id = ChannelId(unhex(&frame.id).try_into().unwrap());
    Some(match FrameType::from_byte(frame.kind)? {
        FrameType::New => {
            let address: IpAddr = frame.note.rsplit(' ').next().unwrap().parse().unwrap();
            // Versions before 2 cannot carry an IPv6 address.
            let carried = !frame.data.is_empty() || address.is_ipv4();
            Incoming::New {
                id,
                caller: carried.then_some(address),
            }
        }
        FrameType::Data => Incoming::Data {
            id,
            data: BytesMut::from(&unhex(&frame.data)[..]),
        },
        FrameType::Close => Incoming::Close { id },
        FrameType::Ping if frame.extra_prefix == "706f6e67" => Incoming::Pong {
            id,
            has_backpressure: false,
        },
        FrameType::Ping => Incoming::Ping { id },
        FrameType::Pause => Incoming::Pause { id },
        FrameType::Resume => Incoming::Resume { id },
    })
}

#[test]
fn recorded_frames_decode() {
    for case in cases() {
        let mut decoder = case.decoder();
        for frame in &case.frames {
            let mut input = BytesMut::from(&unhex(&frame.wire)[..]);
            let decoded = decoder.decode(&mut input).unwrap();
            assert_eq!(decoded, expected(frame), "{} {}", case.cipher, frame.note);
            assert!(input.is_empty());
            assert!(decoder.is_between_frames());
        }
    }
}

#[test]
fn recorded_frames_decode_byte_by_byte() {
    for case in cases() {
        let mut decoder = case.decoder();
        for frame in &case.frames {
            let mut input = BytesMut::new();
            let mut data = BytesMut::new();
            let mut last = None;
            for byte in unhex(&frame.wire) {
                input.extend_from_slice(&[byte]);
                match decoder.decode(&mut input).unwrap() {
                    Some(Incoming::Data { id, data: piece }) => {
                        assert_eq!(piece.len(), 1);
                        data.extend_from_slice(&piece);
                        last = Some(Incoming::Data {
                            id,
                            data: data.clone(),
                        });
                    }
                    Some(other) => last = Some(other),
                    None => {}
                }
            }
            assert_eq!(last, expected(frame), "{} {}", case.cipher, frame.note);
        }
    }
}

#[test]
fn recorded_frames_encode_identically() {
    for case in cases() {
        let cipher = case.cipher();
        let unit = HEADER_LEN + cipher.overhead();
        // All random bytes, in the order in which they were drawn: padding, then the nonce.
        let mut random = Vec::new();
        for (frame, (header, data)) in case.frames.iter().zip(case.headers()) {
            let wire = unhex(&frame.wire);
            random.extend_from_slice(&header.extra);
            if frame.kind == FrameType::New as u8 && !data.is_empty() {
                // The encoder draws a whole unit of padding at once.
                let mut padded = data.clone();
                padded.resize(32, 0);
                random.extend_from_slice(&padded);
            }
            random.extend_from_slice(random_nonce(cipher, &wire));
            if wire.len() > unit && frame.kind == FrameType::New as u8 {
                random.extend_from_slice(random_nonce(cipher, &wire[unit..]));
            }
        }
        let session = case.write_handshake();
        let mut encoder = Encoder::new(session.sealer, case.version(), Box::new(playback(random)));
        for frame in &case.frames {
            let mut wire = Vec::new();
            match expected(frame).unwrap() {
                Incoming::New { id, caller } => encoder.new_channel(id, caller, &mut wire),
                Incoming::Data { id, data } => {
                    let header = encoder.data(id, data.len() as u32, &mut wire);
                    wire.extend_from_slice(&data);
                    header
                }
                Incoming::Close { id } => encoder.bare(id, FrameType::Close, &mut wire),
                Incoming::Pause { id } => encoder.bare(id, FrameType::Pause, &mut wire),
                Incoming::Resume { id } => encoder.bare(id, FrameType::Resume, &mut wire),
                Incoming::Ping { id } => encoder.ping(id, false, &mut wire),
                Incoming::Pong { id, .. } => encoder.ping(id, true, &mut wire),
                other => panic!("not recorded: {other:?}"),
            }
            .unwrap();
            assert_eq!(wire, unhex(&frame.wire), "{} {}", case.cipher, frame.note);
        }
    }
}

#[test]
fn answer_is_the_challenge_digest() {
    use sha2::{Digest, Sha256};
    for case in cases().iter().filter(|case| case.role == "client") {
        let digest = Sha256::digest(unhex(&case.handshake.challenge_token));
        assert_eq!(digest.as_slice(), unhex(&case.handshake.plaintext));
    }
}
