use super::*;

const DELAY: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);

type Stored = oneshot::Receiver<Result<(), StoreError>>;

/// A write-behind buffer and the time.
struct Harness {
    write_behind: WriteBehind,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        Self {
            write_behind: WriteBehind::new(DELAY, BTreeSet::new()),
            now: Instant::now(),
        }
    }

    fn insert(&mut self, id: MessageId) -> Stored {
        self.enter_sized(id, 1)
    }

    fn enter_sized(&mut self, id: MessageId, bytes: usize) -> Stored {
        let (stored_sender, stored) = oneshot::channel();
        let put = PendingWrite {
            id,
            message: Message::new("t", vec![0; bytes]),
            accepted: self.now,
            expires_in: None,
        };
        self.write_behind.insert(put, Some(stored_sender));
        stored
    }

    fn remove(&mut self, id: MessageId) {
        self.write_behind.remove(id, self.now);
    }

    /// Returns the next batch: the delay, the inserted and the removed messages.
    fn next(&mut self) -> Option<(Duration, Vec<MessageId>, Vec<MessageId>)> {
        let due = self.write_behind.due()?;
        let wait = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        let batch = self.write_behind.collect(self.now).expect("it is due");
        let put = batch.put.iter().map(|put| put.id).collect();
        Some((wait, put, batch.remove))
    }

    fn written(&mut self, outcome: Result<(), StoreError>) -> Written {
        self.write_behind.written(outcome, self.now)
    }
}

#[test]
fn simultaneous_messages_share_a_write() {
    let mut harness = Harness::new();
    let mut first = harness.insert(1);
    harness.now += DELAY / 2;
    assert!(harness.write_behind.collect(harness.now).is_none());
    let mut second = harness.insert(2);
    assert_eq!(harness.next(), Some((DELAY / 2, vec![1, 2], vec![])));
    assert!(first.try_recv().is_err(), "not before it is on disk");

    // More messages arrive meanwhile, and are due as soon as the write has completed.
    let mut third = harness.insert(3);
    harness.now += SECOND;
    assert_eq!(harness.write_behind.due(), None, "one at a time");
    assert_eq!(harness.written(Ok(())), Written::default());
    for stored in [&mut first, &mut second] {
        assert_eq!(stored.try_recv(), Ok(Ok(())));
    }
    assert_eq!(harness.write_behind.stored_count(), 2);
    assert_eq!(harness.next(), Some((Duration::ZERO, vec![3], vec![])));
    harness.written(Ok(()));
    assert_eq!(third.try_recv(), Ok(Ok(())));
    assert_eq!(harness.write_behind.due(), None);
}

#[test]
fn quickly_delivered_message_is_never_written() {
    let mut harness = Harness::new();
    let mut stored = harness.insert(1);
    harness.remove(1);
    assert_eq!(stored.try_recv(), Ok(Ok(())));
    assert_eq!(harness.write_behind.due(), None);
    assert!(harness.write_behind.collect_last().is_none());
}

#[test]
fn a_large_batch_is_divided_in_order() {
    let mut harness = Harness::new();
    let _stored: Vec<_> = (1..=3)
        .map(|id| harness.enter_sized(id, BATCH_BYTES / 2))
        .collect();
    let _large = harness.enter_sized(4, 2 * BATCH_BYTES);
    for expected in [vec![1], vec![2], vec![3], vec![4]] {
        let (_, put, _) = harness.next().unwrap();
        assert_eq!(put, expected);
        harness.written(Ok(()));
    }
}

#[test]
fn removals_wait_for_next_write() {
    let mut harness = Harness::new();
    let _stored: Vec<_> = (1..=3).map(|id| harness.insert(id)).collect();
    harness.next().unwrap();
    harness.written(Ok(()));
    harness.remove(2);
    harness.now += SECOND;
    harness.remove(1);
    assert_eq!(harness.write_behind.stored_count(), 1);
    let _next = harness.insert(4);
    assert_eq!(harness.next(), Some((DELAY, vec![4], vec![1, 2])));
    harness.written(Ok(()));
    harness.remove(3);
    assert_eq!(harness.next(), Some((REMOVE_DELAY, vec![], vec![3])));
    harness.written(Ok(()));
    assert_eq!(harness.write_behind.due(), None);

    // But not too many.
    let many: Vec<_> = (100..100 + REMOVALS as u64).collect();
    let _stored: Vec<_> = many.iter().map(|id| harness.insert(*id)).collect();
    harness.next().unwrap();
    harness.written(Ok(()));
    for id in &many {
        harness.remove(*id);
    }
    assert_eq!(harness.next(), Some((Duration::ZERO, vec![], many)));
}

#[test]
fn delivered_while_it_is_written() {
    let mut harness = Harness::new();
    let mut stored = harness.insert(1);
    harness.next().unwrap();
    harness.remove(1);
    harness.written(Ok(()));
    assert_eq!(stored.try_recv(), Ok(Ok(())));
    assert_eq!(harness.write_behind.stored_count(), 0);
    assert_eq!(harness.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    harness.written(Ok(()));

    let mut stored = harness.insert(2);
    harness.next().unwrap();
    harness.remove(2);
    harness.written(Err(StoreError::Full));
    assert_eq!(stored.try_recv(), Ok(Ok(())), "it cannot be lost any more");
    assert_eq!(
        harness.write_behind.due(),
        None,
        "nothing is there to remove"
    );
}

#[test]
fn failure_is_reported_at_once_and_once() {
    let mut harness = Harness::new();
    let mut kept = harness.insert(1);
    harness.next().unwrap();
    harness.written(Ok(()));
    assert_eq!(kept.try_recv(), Ok(Ok(())));

    let mut first = harness.insert(2);
    harness.next().unwrap();
    let mut behind = harness.insert(3);
    let new_failure = harness.written(Err(StoreError::Full)).new_failure;
    assert_eq!(new_failure, Some(StoreError::Full));
    let mut next = harness.insert(4);
    for stored in [&mut first, &mut behind, &mut next] {
        assert_eq!(stored.try_recv(), Ok(Err(StoreError::Full)));
    }
    assert_eq!(harness.write_behind.due(), None);

    // It retries after the delay, and does not report the second failure.
    harness.now += RETRY_DELAY;
    let mut retried = harness.insert(5);
    assert_eq!(harness.next(), Some((DELAY, vec![5], vec![])));
    assert_eq!(harness.written(Err(StoreError::Full)).new_failure, None);
    assert_eq!(retried.try_recv(), Ok(Err(StoreError::Full)));

    // Pending removals are written when the store works again.
    harness.remove(1);
    assert_eq!(harness.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    harness.written(Err(StoreError::Full));
    assert_eq!(harness.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    harness.written(Ok(()));
    assert_eq!(harness.write_behind.due(), None);
    let _stored = harness.insert(6);
    harness.next().unwrap();
    let new_failure = harness.written(Err(StoreError::Full)).new_failure;
    assert_eq!(
        new_failure,
        Some(StoreError::Full),
        "another run of failures"
    );
}

#[test]
fn store_damage_is_reported() {
    let mut harness = Harness::new();
    let _stored = [harness.insert(1), harness.insert(2)];
    harness.next().unwrap();
    harness.written(Ok(()));
    harness.remove(1);
    let mut third = harness.insert(3);
    harness.next().unwrap();
    let damaged = StoreError::Damaged("bits".into());
    let written = harness.written(Err(damaged.clone()));
    assert_eq!(written.lost, BTreeSet::from([2]));
    assert_eq!(written.new_failure, Some(damaged.clone()));
    assert_eq!(third.try_recv(), Ok(Err(damaged)));
    assert_eq!(harness.write_behind.stored_count(), 0);
    // It is empty and usable.
    let _again = harness.insert(2);
    assert_eq!(harness.next(), Some((DELAY, vec![2], vec![])));
}

#[test]
fn collect_last_leaves_nothing_unwritten() {
    let mut harness = Harness::new();
    let _stored = [harness.insert(1), harness.insert(2)];
    harness.next().unwrap();
    harness.written(Ok(()));
    harness.remove(1);
    let _third = harness.insert(3);
    harness.write_behind.flush_now(harness.now);
    assert_eq!(harness.write_behind.due(), Some(harness.now));
    let batch = harness.write_behind.collect_last().unwrap();
    assert_eq!((batch.put.len(), batch.remove), (1, vec![1]));
    assert!(
        harness.write_behind.collect_last().is_none(),
        "one at a time"
    );
    harness.written(Ok(()));
    assert!(harness.write_behind.collect_last().is_none());
    assert_eq!(harness.write_behind.stored_count(), 2);
}

#[test]
fn failed_store_is_not_retried_early_for_removals() {
    let now = Instant::now();
    let mut write_behind = WriteBehind::new(Duration::from_secs(1), (1..=1000).collect());
    for id in 1..=300 {
        write_behind.remove(id, now);
    }
    write_behind.collect(now).unwrap();
    write_behind.written(Err(StoreError::Full), now);
    for id in 301..=1000 {
        let now = now + Duration::from_millis(id);
        write_behind.remove(id, now);
        assert!(write_behind.collect(now).is_none(), "after {id} ms");
    }
}
