//! The metrics that a recorder receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit, with_local_recorder,
};

use super::*;

/// The last value of each gauge, and the sums of counters and histograms, by name and label.
#[derive(Default, Clone)]
struct Book(Arc<Mutex<BTreeMap<String, f64>>>);

struct Line {
    book: Book,
    name: String,
}

impl Line {
    fn add(&self, value: f64) {
        *self
            .book
            .0
            .lock()
            .unwrap()
            .entry(self.name.clone())
            .or_default() += value;
    }
}

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _value: u64) {
        unreachable!("not used")
    }
}

impl GaugeFn for Line {
    fn increment(&self, _value: f64) {
        unreachable!("not used")
    }

    fn decrement(&self, _value: f64) {
        unreachable!("not used")
    }

    fn set(&self, value: f64) {
        self.book.0.lock().unwrap().insert(self.name.clone(), value);
    }
}

impl HistogramFn for Line {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Book {
    fn line(&self, key: &Key) -> Arc<Line> {
        let mut name = key.name().trim_start_matches("cloud_iot_").to_owned();
        for label in key.labels() {
            match label.key() {
                "client_id" => assert_eq!(label.value(), "device"),
                _ => name = format!("{name} {}", label.value()),
            }
        }
        Arc::new(Line {
            book: self.clone(),
            name,
        })
    }

    fn value(&self, name: &str) -> f64 {
        let lines = self.0.lock().unwrap();
        *lines
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in {lines:?}"))
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[test]
fn recorder_receives_session_metrics() {
    let book = Book::default();
    with_local_recorder(&book, || {
        let mut harness = Harness::online(config());
        assert_eq!(book.value("connected"), 1.0);
        let receipts: Vec<_> = (0..3).map(|n| harness.publish(&n.to_string())).collect();
        harness.event(ConnectionEvent::Written(2));
        harness.event(ConnectionEvent::Written(3));
        harness.wait(2 * SECOND);
        harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
        harness.wait(SECOND);
        harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::NOT_AUTHORIZED));
        assert_eq!(book.value("acknowledged_total"), 1.0);
        assert_eq!(book.value("refused_total"), 1.0);
        assert_eq!(book.value("acknowledgement_seconds"), 5.0, "2 and 3");
        harness.core.update_metrics(harness.now);
        assert_eq!(book.value("dropped_total refused"), 1.0);
        assert_eq!(book.value("in_flight_messages"), 1.0);
        assert_eq!(book.value("queued_messages"), 0.0);
        assert_eq!(book.value("connected_seconds_total"), 3.0);

        harness.now += 10 * SECOND;
        harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
        assert_eq!(book.value("connected"), 0.0);
        assert_eq!(book.value("connected_seconds_total"), 13.0);
        assert_eq!(book.value("disconnections_total keep_alive"), 1.0);
        harness.core.handle_hooks_finished(harness.now);
        harness.wait_until_due();
        harness.event(ConnectionEvent::Lost(Cause::Refused));
        assert_eq!(book.value("disconnections_total refused"), 1.0);
        harness.core.update_metrics(harness.now);
        assert_eq!(book.value("queued_messages"), 1.0, "to be sent again");
        assert_eq!(book.value("connected_seconds_total"), 13.0);

        harness.core.stop(harness.now + SECOND, harness.now);
        assert_eq!(book.value("queued_messages"), 0.0);
        drop(receipts);
    });
}
