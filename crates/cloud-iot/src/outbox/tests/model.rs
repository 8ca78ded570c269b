//! Random sequences against a model of the server.

use proptest::prelude::*;

use super::*;
use crate::outbox::throttle::REFUSALS;

#[derive(Debug, Clone)]
enum Step {
    Accept(QoS),
    HandOver,
    Write,
    /// The server acknowledges one of its messages, by position.
    Acknowledge(usize),
    /// It defers one of its messages.
    Refuse(usize),
    /// The connection is lost; the server keeps the session or not.
    Lose {
        kept: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(|sure| Step::Accept(if sure { QoS::AtLeastOnce } else { QoS::AtMostOnce })),
        3 => Just(Step::HandOver),
        3 => Just(Step::Write),
        2 => (0_usize..8).prop_map(Step::Acknowledge),
        1 => (0_usize..8).prop_map(Step::Refuse),
        1 => any::<bool>().prop_map(|kept| Step::Lose { kept }),
    ]
}

proptest! {
    /// For all sequences, messages first arrive in the order of acceptance, and in the end each has
    /// arrived and every receipt reports it. A message that the server may have in a kept session
    /// is resent under its packet identifier with the DUP flag, and no other message uses that
    /// identifier. A deferred message is sent as a new one.
    #[test]
    fn nothing_is_lost_and_order_is_kept(
        steps in prop::collection::vec(step(), 0..200), size in 1_u16..5,
    ) {
        let mut outbox = bounded(1000, 1 << 20);
        let mut packet_ids = PacketIds::new(size, Vec::new());
        let mut receipts = Vec::new();
        let mut arrived: Vec<usize> = Vec::new();
        // Queued and not written; written and not answered, on this connection and earlier in the
        // session.
        let mut handed: VecDeque<(u16, usize, bool)> = VecDeque::new();
        let mut unanswered: Vec<(u16, usize)> = Vec::new();
        let mut before: Vec<(u16, usize)> = Vec::new();
        let mut refused: Vec<usize> = Vec::new();
        let endgame = (0..5000).map(|n| match n % 3 {
            0 => Step::HandOver,
            1 => Step::Write,
            _ => Step::Acknowledge(0),
        });
        for step in steps.into_iter().chain(endgame) {
            match step {
                Step::Accept(qos) => {
                    let message = numbered(receipts.len(), qos);
                    receipts.push(accept(&mut outbox, message));
                }
                Step::HandOver => if let Next::Message(out) = outbox.next_to_send(&mut packet_ids, &capabilities(), Instant::now()) {
                    let number = std::str::from_utf8(&out.message.payload).unwrap().parse().unwrap();
                    let id = out.packet_id;
                    prop_assert_eq!(id != 0, out.message.qos == QoS::AtLeastOnce);
                    let old = before.iter().position(|(_, sent)| *sent == number);
                    prop_assert_eq!(out.duplicate, old.is_some());
                    if let Some(old) = old {
                        prop_assert_eq!(before.remove(old).0, id);
                    }
                    let known = before.iter().chain(&unanswered).map(|(other, _)| *other);
                    let mut known = known.chain(handed.iter().map(|(other, ..)| *other));
                    prop_assert!(id == 0 || known.all(|other| other != id), "a collision");
                    handed.push_back((id, number, out.duplicate));
                    prop_assert!(handed.len() + unanswered.len() <= usize::from(size));
                },
                Step::Write => if let Some((id, number, _)) = handed.pop_front() {
                    outbox.written(id, Instant::now(), LIMIT).unwrap();
                    if !arrived.contains(&number) {
                        arrived.push(number);
                    }
                    if id != 0 {
                        unanswered.push((id, number));
                    }
                },
                Step::Acknowledge(n) => if n < unanswered.len() {
                    let (id, _) = unanswered.remove(n);
                    outbox.acknowledged(id, ReasonCode::SUCCESS, Instant::now()).unwrap();
                },
                Step::Refuse(n) => if n < unanswered.len() {
                    let (id, number) = unanswered.remove(n);
                    outbox.acknowledged(id, ReasonCode::QUOTA_EXCEEDED, Instant::now()).unwrap();
                    refused.push(number);
                },
                Step::Lose { kept } => {
                    outbox.connection_lost();
                    // A message to resend that was not written is known from before.
                    before.append(&mut unanswered);
                    let duplicate = handed.drain(..).filter(|(.., again)| *again);
                    before.extend(duplicate.map(|(id, number, _)| (id, number)));
                    if !kept {
                        outbox.session_gone();
                        before.clear();
                    }
                    packet_ids = PacketIds::new(size, outbox.reserved());
                }
            }
        }
        prop_assert_eq!(arrived, (0..receipts.len()).collect::<Vec<_>>());
        for (number, mut receipt) in receipts.into_iter().enumerate() {
            // A message that was refused repeatedly, while others were accepted, is dropped.
            let times = refused.iter().filter(|other| **other == number).count();
            let given_up = receipt.try_recv().unwrap().is_err();
            prop_assert!(!given_up || times > usize::from(REFUSALS));
        }
        prop_assert!(outbox.is_empty());
        prop_assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
    }
}
