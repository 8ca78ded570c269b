use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, Filter, LastWill, Packet as Encoded, PubAck, PubRec, PubRecReason,
    Publish as EncodedPublish, PublishProperties, Subscribe,
};

use super::*;
use crate::mqtt::message::QoS;

/// Writes a Variable Byte Integer as MQTT 5.0, 1.5.5 shows it.
fn variable(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let digit = (number % 128) as u8;
        number /= 128;
        bytes.push(if number > 0 { digit | 128 } else { digit });
        if number == 0 {
            return bytes;
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [vec![first], variable(body.len()), body].concat()
}

/// The properties of a packet, with their length.
fn properties(list: &[Vec<u8>]) -> Vec<u8> {
    let list = list.concat();
    [variable(list.len()), list].concat()
}

fn any_text() -> impl Strategy<Value = String> {
    // Lengths on both sides of a length field of two bytes.
    prop_oneof![".{0,12}", "[a-zé]{100,160}"]
}

fn one(id: u8, value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::option::of(value.prop_map(move |value| [vec![id], value].concat()))
        .prop_map(|property| property.into_iter().collect())
}

fn many(id: u8, value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(value, 0..6).prop_map(move |values| {
        values
            .iter()
            .map(|value| [&[id], &value[..]].concat())
            .collect()
    })
}

fn text_value() -> impl Strategy<Value = Vec<u8>> {
    any_text().prop_map(|value| text(&value))
}

fn pair() -> impl Strategy<Value = Vec<u8>> {
    (text_value(), text_value()).prop_map(|(name, value)| [name, value].concat())
}

/// Every set of properties that a PUBLISH may have, in any order.
fn publish_properties() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let identifier = (1_usize..268_435_456).prop_map(variable);
    let small = (1_usize..300).prop_map(variable);
    (
        one(0x01, (0_u8..2).prop_map(|flag| vec![flag])),
        one(
            0x02,
            any::<u32>().prop_map(|number| number.to_be_bytes().to_vec()),
        ),
        one(0x03, text_value()),
        one(0x08, text_value()),
        one(0x09, text_value()),
        many(0x0B, prop_oneof![identifier, small]),
        one(
            0x23,
            any::<u16>().prop_map(|number| number.to_be_bytes().to_vec()),
        ),
        many(0x26, pair()),
    )
        .prop_map(|(a, b, c, d, e, f, g, h)| [a, b, c, d, e, f, g, h].concat())
        .prop_shuffle()
}

/// Takes the values out of a packet that rumqttc has written.
struct Written<'a>(Reader<'a>);

impl<'a> Written<'a> {
    /// The length field covers the rest of the packet exactly.
    fn new(packet: &'a [u8], first: u8) -> Self {
        assert_eq!(packet_length(packet).unwrap(), Some(packet.len()));
        let mut reader = Reader::new(packet);
        assert_eq!(reader.byte().unwrap(), first);
        reader.variable_byte().unwrap();
        Self(reader)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.0.array().unwrap()
    }

    fn text(&mut self) -> &'a str {
        self.0.text().unwrap()
    }

    fn properties(&mut self) -> &'a [u8] {
        let length = self.0.variable_byte().unwrap();
        self.0.take(length as usize).unwrap()
    }

    fn rest(&mut self) -> &'a [u8] {
        self.0.take(self.0.rest().len()).unwrap()
    }
}

fn encode(packet: &Encoded) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn publish_with_any_properties_arrives_as_sent(
        list in publish_properties(),
        topic in "[a-z/]{1,20}",
        payload in prop::collection::vec(any::<u8>(), 0..200),
        at_least_once in any::<bool>(),
        duplicate in any::<bool>(),
        retain in any::<bool>(),
        id in 1_u16..,
    ) {
        let first = 0x30 | u8::from(duplicate) << 3 | u8::from(at_least_once) << 1 | u8::from(retain);
        let packet_id = if at_least_once { id.to_be_bytes().to_vec() } else { Vec::new() };
        let bytes = packet(first, &[&text(&topic), &packet_id, &properties(&list), &payload]);
        prop_assert_eq!(packet_length(&bytes), Ok(Some(bytes.len())));
        let expected = Publish {
            topic,
            payload: payload.into(),
            properties: MessageProperties::decode(&list.concat()).unwrap(),
            at_least_once,
            retain,
            duplicate,
            packet_id: if at_least_once { id } else { 0 },
        };
        prop_assert_eq!(decode(&bytes, false), Ok(Received::Publish(expected)));
    }

    #[test]
    fn connack_with_any_properties_is_decoded(
        receive in prop::option::of(any::<u16>()),
        maximum in prop::option::of(any::<u32>()),
        keep_alive in prop::option::of(any::<u16>()),
        qos in prop::option::of(0_u8..2),
        retain in prop::option::of(0_u8..2),
        words in prop::option::of(any_text()),
        others in (
            one(0x11, Just(vec![0; 4])), one(0x12, text_value()), one(0x15, text_value()),
            one(0x16, text_value()), one(0x1A, text_value()), one(0x1C, text_value()),
            one(0x22, Just(vec![0; 2])), one(0x28, Just(vec![0])), many(0x26, pair()),
        ),
        session_present in any::<bool>(),
        code in prop_oneof![Just(0_u8), 6_u8..],
        order in any::<prop::sample::Index>(),
    ) {
        let (a, b, c, d, e, f, g, h, i) = others;
        let mut list = [a, b, c, d, e, f, g, h, i].concat();
        list.extend(receive.map(|value| [&[0x21], &value.to_be_bytes()[..]].concat()));
        list.extend(maximum.map(|value| [&[0x27], &value.to_be_bytes()[..]].concat()));
        list.extend(keep_alive.map(|value| [&[0x13], &value.to_be_bytes()[..]].concat()));
        list.extend(qos.map(|value| vec![0x24, value]));
        list.extend(retain.map(|value| vec![0x25, value]));
        list.extend(words.as_ref().map(|value| [vec![0x1F], text(value)].concat()));
        if !list.is_empty() {
            let middle = order.index(list.len());
            list.rotate_left(middle);
        }
        let bytes = packet(0x20, &[&[session_present.into(), code], &properties(&list)]);
        let expected = ConnAck {
            session_present,
            reason: ReasonCode(code),
            receive_maximum: receive,
            maximum_qos: qos,
            retain_available: retain.map(|value| value == 1),
            maximum_packet: maximum,
            server_keep_alive: keep_alive,
            message: words.map(UntrustedText::from),
        };
        prop_assert_eq!(decode(&bytes, false), Ok(Received::ConnAck(expected)));
    }

    #[test]
    fn suback_with_any_properties_is_decoded(
        words in prop::option::of(any_text()),
        others in many(0x26, pair()),
        codes in prop::collection::vec(any::<u8>(), 0..10),
        packet_id in any::<u16>(),
    ) {
        let mut list = others;
        list.extend(words.as_ref().map(|value| [vec![0x1F], text(value)].concat()));
        let bytes = packet(0x90, &[&packet_id.to_be_bytes(), &properties(&list), &codes]);
        let expected = SubAck {
            packet_id,
            codes: codes.into_iter().map(ReasonCode).collect(),
            message: words.map(UntrustedText::from),
        };
        prop_assert_eq!(decode(&bytes, false), Ok(Received::SubAck(expected)));
    }

    /// All that this crate sends, at sizes on both sides of each length field's boundary.
    #[test]
    fn encoder_counts_lengths_correctly(
        topic in "[a-z/]{1,200}",
        payload in prop_oneof![Just(0_usize), 100_usize..140, 16_300_usize..16_400],
        expiry in prop::option::of(any::<u32>()),
        filters in prop::collection::vec("[a-z/]{1,250}", 1..100),
        session_expiry in prop::option::of(any::<u32>()),
        receive_maximum in prop::option::of(1_u16..),
        will in prop::option::of(("[a-z/]{1,200}", 0_usize..20_000)),
        client_id in "[a-z]{1,128}",
    ) {
        let bytes = encode(&Encoded::Publish(EncodedPublish {
            dup: false,
            qos: QoS::AtLeastOnce.into(),
            retain: false,
            topic: topic.clone().into(),
            pkid: 7,
            payload: vec![b'x'; payload].into(),
            properties: expiry.map(|expiry| PublishProperties {
                message_expiry_interval: Some(expiry),
                ..PublishProperties::default()
            }),
        }));
        let mut written = Written::new(&bytes, 0x32);
        prop_assert_eq!(written.text(), topic);
        prop_assert_eq!(written.bytes(), [0, 7]);
        let expected = expiry.map(|expiry| [&[0x02], &expiry.to_be_bytes()[..]].concat());
        prop_assert_eq!(written.properties(), expected.unwrap_or_default());
        prop_assert_eq!(written.rest(), vec![b'x'; payload]);

        let list = filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce.into()));
        let mut subscribe = Subscribe::new_many(list, None);
        subscribe.pkid = 7;
        let bytes = encode(&Encoded::Subscribe(subscribe));
        let mut written = Written::new(&bytes, 0x82);
        prop_assert_eq!(written.bytes(), [0, 7, 0]);
        for filter in &filters {
            prop_assert_eq!(written.text(), filter);
            prop_assert_eq!(written.bytes(), [1]);
        }
        prop_assert!(written.rest().is_empty());

        let connect = Connect {
            keep_alive: 60,
            client_id: client_id.clone(),
            clean_start: true,
            properties: Some(ConnectProperties {
                session_expiry_interval: session_expiry,
                receive_maximum,
                max_packet_size: Some(150_000),
                ..ConnectProperties::new()
            }),
        };
        let last_will = will.as_ref().map(|(topic, size)| {
            LastWill::new(topic, vec![b'w'; *size], QoS::AtLeastOnce.into(), true, None)
        });
        let bytes = encode(&Encoded::Connect(connect, last_will, None));
        let mut written = Written::new(&bytes, 0x10);
        prop_assert_eq!(written.text(), "MQTT");
        let flags = if will.is_some() { 0b0010_1110 } else { 0b0000_0010 };
        prop_assert_eq!(written.bytes(), [5, flags, 0, 60]);
        let mut list = Vec::new();
        list.extend(session_expiry.map(|value| [&[0x11], &value.to_be_bytes()[..]].concat()));
        list.extend(receive_maximum.map(|value| [&[0x21], &value.to_be_bytes()[..]].concat()));
        list.push([&[0x27], &150_000_u32.to_be_bytes()[..]].concat());
        prop_assert_eq!(written.properties(), list.concat());
        prop_assert_eq!(written.text(), client_id);
        if let Some((topic, size)) = will {
            prop_assert_eq!(written.properties(), b"");
            prop_assert_eq!(written.text(), topic);
            prop_assert_eq!(written.text().len(), size);
        }
        prop_assert!(written.rest().is_empty());
    }
}

#[test]
fn encoder_writes_short_answers() {
    let puback = encode(&Encoded::PubAck(PubAck::new(7, None)));
    assert_eq!(puback[..], [0x40, 2, 0, 7]);
    let pubrec = encode(&Encoded::PubRec(PubRec {
        pkid: 7,
        reason: PubRecReason::ImplementationSpecificError,
        properties: None,
    }));
    assert_eq!(pubrec[..], [0x50, 4, 0, 7, 0x83, 0]);
}

#[test]
fn invalid_properties_are_named_by_number() {
    for (list, reason, part) in [
        (&[0x7F, 0x00][..], 0x81, "unknown property 0x7F"),
        (&[0x1F, 0x00, 0x00], 0x81, "0x1F, which it cannot have"),
        (&[0x01, 0x00, 0x01, 0x00], 0x82, "two properties 0x01"),
        (
            &[0x26, 0x00, 0x00, 0x00, 0x01, 0xE9],
            0x81,
            "0x26: text that is not UTF-8",
        ),
        (&[0x02, 0x00], 0x81, "0x02: a value that is longer"),
    ] {
        let bytes = packet(0x30, &[&text("t"), &properties(&[list.to_vec()])]);
        let Ok(Received::UndeliverablePublish(undeliverable)) = decode(&bytes, false) else {
            panic!("{list:x?} was taken")
        };
        assert_eq!(undeliverable.fault.reason, ReasonCode(reason));
        let text = undeliverable.fault.text;
        assert!(text.contains(part) && text.contains("topic t"), "{text}");
    }
}

/// Properties of CONNACK and SUBACK that cannot be read end one connection, not each.
#[test]
fn lenient_decoder_leaves_unreadable_properties_out() {
    let list = properties(&[vec![0x21, 0, 9], vec![0x7F, 1]]);
    let connack = packet(0x20, &[&[0, 0], &list]);
    let suback = packet(0x90, &[&[0, 1], &properties(&[vec![0x7F, 1]]), &[1]]);
    for bytes in [&connack, &suback] {
        let fault = decode(bytes, false).unwrap_err();
        assert_eq!(fault.reason, ReasonCode::MALFORMED_PACKET);
        assert!(decode(bytes, true).is_ok());
    }
    let Ok(Received::ConnAck(connack)) = decode(&connack, true) else {
        panic!("no CONNACK")
    };
    assert_eq!(connack.receive_maximum, Some(9));
}
