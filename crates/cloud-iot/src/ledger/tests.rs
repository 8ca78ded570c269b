use super::*;

const DELAY: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);

type Stored = oneshot::Receiver<Result<(), StoreError>>;

/// A ledger and the time.
struct Bench {
    ledger: Ledger,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            ledger: Ledger::new(DELAY, BTreeSet::new()),
            now: Instant::now(),
        }
    }

    fn enter(&mut self, id: MessageId) -> Stored {
        self.enter_sized(id, 1)
    }

    fn enter_sized(&mut self, id: MessageId, bytes: usize) -> Stored {
        let (stage, stored) = oneshot::channel();
        let put = Put {
            id,
            message: Message::new("t", vec![0; bytes]),
            accepted: self.now,
            expires_in: None,
        };
        self.ledger.enter(put, Some(stage));
        stored
    }

    fn settle(&mut self, id: MessageId) {
        self.ledger.settle(id, self.now);
    }

    /// What is given when it is next due: how long after, what is put and what is removed.
    fn next(&mut self) -> Option<(Duration, Vec<MessageId>, Vec<MessageId>)> {
        let due = self.ledger.due()?;
        let wait = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        let batch = self.ledger.collect(self.now).expect("it is due");
        let put = batch.put.iter().map(|put| put.id).collect();
        Some((wait, put, batch.remove))
    }

    fn written(&mut self, outcome: Result<(), StoreError>) -> Written {
        self.ledger.written(outcome, self.now)
    }
}

#[test]
fn what_comes_together_is_written_together() {
    let mut bench = Bench::new();
    let mut first = bench.enter(1);
    bench.now += DELAY / 2;
    assert!(bench.ledger.collect(bench.now).is_none());
    let mut second = bench.enter(2);
    assert_eq!(bench.next(), Some((DELAY / 2, vec![1, 2], vec![])));
    assert!(first.try_recv().is_err(), "not before it is on disk");

    // Meanwhile the next ones come, and leave at once when the way is free.
    let mut third = bench.enter(3);
    bench.now += SECOND;
    assert_eq!(bench.ledger.due(), None, "one at a time");
    assert_eq!(bench.written(Ok(())), Written::default());
    for stored in [&mut first, &mut second] {
        assert_eq!(stored.try_recv(), Ok(Ok(())));
    }
    assert_eq!(bench.ledger.kept(), 2);
    assert_eq!(bench.next(), Some((Duration::ZERO, vec![3], vec![])));
    bench.written(Ok(()));
    assert_eq!(third.try_recv(), Ok(Ok(())));
    assert_eq!(bench.ledger.due(), None);
}

#[test]
fn what_is_delivered_in_time_is_never_written() {
    let mut bench = Bench::new();
    let mut stored = bench.enter(1);
    bench.settle(1);
    assert_eq!(stored.try_recv(), Ok(Ok(())));
    assert_eq!(bench.ledger.due(), None);
    assert!(bench.ledger.collect_last().is_none());
}

#[test]
fn a_large_batch_is_divided_in_order() {
    let mut bench = Bench::new();
    let _stored: Vec<_> = (1..=3)
        .map(|id| bench.enter_sized(id, BATCH_BYTES / 2))
        .collect();
    let _large = bench.enter_sized(4, 2 * BATCH_BYTES);
    for expected in [vec![1], vec![2], vec![3], vec![4]] {
        let (_, put, _) = bench.next().unwrap();
        assert_eq!(put, expected);
        bench.written(Ok(()));
    }
}

#[test]
fn removals_wait_for_company() {
    let mut bench = Bench::new();
    let _stored: Vec<_> = (1..=3).map(|id| bench.enter(id)).collect();
    bench.next().unwrap();
    bench.written(Ok(()));
    bench.settle(2);
    bench.now += SECOND;
    bench.settle(1);
    assert_eq!(bench.ledger.kept(), 1);
    let _next = bench.enter(4);
    assert_eq!(bench.next(), Some((DELAY, vec![4], vec![1, 2])));
    bench.written(Ok(()));
    bench.settle(3);
    assert_eq!(bench.next(), Some((REMOVE_DELAY, vec![], vec![3])));
    bench.written(Ok(()));
    assert_eq!(bench.ledger.due(), None);

    // But not too many.
    let many: Vec<_> = (100..100 + REMOVALS as u64).collect();
    let _stored: Vec<_> = many.iter().map(|id| bench.enter(*id)).collect();
    bench.next().unwrap();
    bench.written(Ok(()));
    for id in &many {
        bench.settle(*id);
    }
    assert_eq!(bench.next(), Some((Duration::ZERO, vec![], many)));
}

#[test]
fn delivered_while_it_is_written() {
    let mut bench = Bench::new();
    let mut stored = bench.enter(1);
    bench.next().unwrap();
    bench.settle(1);
    bench.written(Ok(()));
    assert_eq!(stored.try_recv(), Ok(Ok(())));
    assert_eq!(bench.ledger.kept(), 0);
    assert_eq!(bench.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    bench.written(Ok(()));

    let mut stored = bench.enter(2);
    bench.next().unwrap();
    bench.settle(2);
    bench.written(Err(StoreError::Full));
    assert_eq!(stored.try_recv(), Ok(Ok(())), "it cannot be lost any more");
    assert_eq!(bench.ledger.due(), None, "nothing is there to remove");
}

#[test]
fn a_failure_is_told_at_once_and_once() {
    let mut bench = Bench::new();
    let mut kept = bench.enter(1);
    bench.next().unwrap();
    bench.written(Ok(()));
    assert_eq!(kept.try_recv(), Ok(Ok(())));

    let mut first = bench.enter(2);
    bench.next().unwrap();
    let mut behind = bench.enter(3);
    let news = bench.written(Err(StoreError::Full)).news;
    assert_eq!(news, Some(StoreError::Full));
    let mut next = bench.enter(4);
    for stored in [&mut first, &mut behind, &mut next] {
        assert_eq!(stored.try_recv(), Ok(Err(StoreError::Full)));
    }
    assert_eq!(bench.ledger.due(), None);

    // It is tried again, not too soon, and the second failure is no news.
    bench.now += RETRY_DELAY;
    let mut again = bench.enter(5);
    assert_eq!(bench.next(), Some((DELAY, vec![5], vec![])));
    assert_eq!(bench.written(Err(StoreError::Full)).news, None);
    assert_eq!(again.try_recv(), Ok(Err(StoreError::Full)));

    // What need not be kept is removed when the store works again.
    bench.settle(1);
    assert_eq!(bench.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    bench.written(Err(StoreError::Full));
    assert_eq!(bench.next(), Some((REMOVE_DELAY, vec![], vec![1])));
    bench.written(Ok(()));
    assert_eq!(bench.ledger.due(), None);
    let _stored = bench.enter(6);
    bench.next().unwrap();
    let news = bench.written(Err(StoreError::Full)).news;
    assert_eq!(news, Some(StoreError::Full), "another run of failures");
}

#[test]
fn what_a_damaged_store_held_is_told() {
    let mut bench = Bench::new();
    let _stored = [bench.enter(1), bench.enter(2)];
    bench.next().unwrap();
    bench.written(Ok(()));
    bench.settle(1);
    let mut third = bench.enter(3);
    bench.next().unwrap();
    let damaged = StoreError::Damaged("bits".into());
    let written = bench.written(Err(damaged.clone()));
    assert_eq!(written.lost, BTreeSet::from([2]));
    assert_eq!(written.news, Some(damaged.clone()));
    assert_eq!(third.try_recv(), Ok(Err(damaged)));
    assert_eq!(bench.ledger.kept(), 0);
    // It is empty and usable.
    let _again = bench.enter(2);
    assert_eq!(bench.next(), Some((DELAY, vec![2], vec![])));
}

#[test]
fn the_end_leaves_nothing_unwritten() {
    let mut bench = Bench::new();
    let _stored = [bench.enter(1), bench.enter(2)];
    bench.next().unwrap();
    bench.written(Ok(()));
    bench.settle(1);
    let _third = bench.enter(3);
    bench.ledger.hurry(bench.now);
    assert_eq!(bench.ledger.due(), Some(bench.now));
    let batch = bench.ledger.collect_last().unwrap();
    assert_eq!((batch.put.len(), batch.remove), (1, vec![1]));
    assert!(bench.ledger.collect_last().is_none(), "one at a time");
    bench.written(Ok(()));
    assert!(bench.ledger.collect_last().is_none());
    assert_eq!(bench.ledger.kept(), 2);
}

#[test]
fn a_store_that_fails_is_left_alone_however_much_is_to_be_removed() {
    let now = Instant::now();
    let mut ledger = Ledger::new(Duration::from_secs(1), (1..=1000).collect());
    for id in 1..=300 {
        ledger.settle(id, now);
    }
    ledger.collect(now).unwrap();
    ledger.written(Err(StoreError::Full), now);
    for id in 301..=1000 {
        let now = now + Duration::from_millis(id);
        ledger.settle(id, now);
        assert!(ledger.collect(now).is_none(), "after {id} ms");
    }
}
