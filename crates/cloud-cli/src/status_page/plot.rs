//! The plot of the last hour, and the same in words.

use std::fmt::Write;

use super::history::{History, MINUTES};
use super::words::{bytes, count};

/// The width of a minute and the height of the plot, in units of the drawing.
const MINUTE_WIDTH: u64 = 10;
const GAP: u64 = 2;
const HEIGHT: u64 = 100;

/// Returns the drawing: bars of bytes to and from visitors, newest at the right, and a background
/// behind the minutes with an outage.
pub(super) fn svg(history: &History) -> String {
    let width = MINUTE_WIDTH * MINUTES as u64;
    let max = busiest(history).max(1);
    // Anything that is not nothing shows.
    let height = |bytes: u64| match bytes {
        0 => 0,
        bytes => (u128::from(bytes) * u128::from(HEIGHT) / u128::from(max)).max(1) as u64,
    };
    let mut svg = format!(
        r#"<svg viewBox="0 0 {width} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">"#
    );
    let mut bar = |class: &str, x: u64, top: u64, height: u64, width: u64| {
        if height > 0 {
            // Writing to a String cannot fail.
            let _ = write!(
                svg,
                r#"<rect class="{class}" x="{x}" y="{top}" width="{width}" height="{height}"/>"#
            );
        }
    };
    for (age, minute) in history.minutes().rev().enumerate() {
        let x = width - (age as u64 + 1) * MINUTE_WIDTH;
        if minute.down {
            bar("down", x, 0, HEIGHT, MINUTE_WIDTH);
        }
        let (sent, received) = (height(minute.sent), height(minute.received));
        let bar_width = MINUTE_WIDTH - GAP;
        bar("sent", x, HEIGHT - sent, sent, bar_width);
        let top = HEIGHT.saturating_sub(sent + received);
        bar("received", x, top, received, bar_width);
    }
    svg.push_str("</svg>");
    svg
}

/// Returns the meaning of the plot's height.
pub(super) fn scale(history: &History) -> String {
    match busiest(history) {
        0 => "No traffic yet".to_owned(),
        max => format!("{} a minute", bytes(max)),
    }
}

/// Returns the plot in words, with the key of its colours.
pub(super) fn summary(history: &History) -> String {
    let sent = history.minutes().map(|minute| minute.sent).sum();
    let received = history.minutes().map(|minute| minute.received).sum();
    let down = history.minutes().filter(|minute| minute.down).count() as u64;
    let visitors = history.minutes().map(|minute| minute.visitors).max();
    let mut summary = format!(
        r#"<span class="key sent"></span><span>{} to visitors</span> <span class="key received"></span><span>{} from visitors</span> "#,
        bytes(sent),
        bytes(received)
    );
    if down > 0 {
        let _ = write!(
            summary,
            r#"<span class="key down"></span><span>{} with an outage</span> "#,
            count(down, "minute")
        );
    }
    let _ = write!(
        summary,
        "<span>at most {} at a time</span>",
        count(visitors.unwrap_or(0) as u64, "visitor")
    );
    summary
}

fn busiest(history: &History) -> u64 {
    let bytes = history
        .minutes()
        .map(|minute| minute.sent.saturating_add(minute.received));
    bytes.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::history::Sample;
    use super::*;

    #[test]
    fn bars_are_scaled_to_the_busiest_minute() {
        let mut history = History::default();
        assert_eq!(scale(&history), "No traffic yet");
        for (minute, sent, received, down) in [(0, 3_000, 1_000, false), (1, 3_001, 1_000, true)] {
            let sample = Sample {
                sent,
                received,
                visitors: 2,
                down,
            };
            history.record(minute, sample);
        }
        let svg = svg(&history);
        for bar in [
            r#"<rect class="sent" x="580" y="25" width="8" height="75"/>"#,
            r#"<rect class="received" x="580" y="0" width="8" height="25"/>"#,
            r#"<rect class="down" x="590" y="0" width="10" height="100"/>"#,
            r#"<rect class="sent" x="590" y="99" width="8" height="1"/>"#,
        ] {
            assert!(svg.contains(bar), "{bar} is not in {svg}");
        }
        assert_eq!(scale(&history), "4.0 kB a minute");
        let summary = summary(&history);
        for part in [
            "3.0 kB to",
            "1.0 kB from",
            "1 minute with",
            "most 2 visitors",
        ] {
            assert!(summary.contains(part), "{part} is not in {summary}");
        }
    }
}
