//! Durations, dates and sizes as people read them.

use std::time::{Duration, SystemTime};

use crate::time_fmt::rfc3339;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Formats a duration with its two largest units, such as `3 h 12 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        ..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        _ => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
    }
}

/// Formats the time from one time to a later one; `0 s` if the clock was set back.
pub(super) fn since(from: SystemTime, now: SystemTime) -> String {
    duration(now.duration_since(from).unwrap_or_default())
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Formats a date in UTC, such as `27 Feb 2027`.
pub(super) fn date(time: SystemTime) -> String {
    let text = rfc3339(time);
    let mut parts = text.split(['-', 'T']);
    let mut next = || parts.next().unwrap_or_default();
    let (year, month, day) = (next(), next(), next().trim_start_matches('0'));
    let month: usize = month.parse().unwrap_or_default();
    let month = MONTHS.get(month.wrapping_sub(1)).unwrap_or(&"");
    format!("{day} {month} {year}")
}

/// Formats a date and time, such as `27 Feb 2027, 14:05 UTC`.
pub(super) fn date_and_time(time: SystemTime) -> String {
    let clock = rfc3339(time);
    let minutes = clock.get(11..16).unwrap_or_default();
    format!("{}, {minutes} UTC", date(time))
}

/// Formats a time of the day, such as `14:05:09 UTC`.
pub(super) fn time_of_day(time: SystemTime) -> String {
    let clock = rfc3339(time);
    format!("{} UTC", clock.get(11..19).unwrap_or_default())
}

/// Formats a number of bytes, in powers of 1,000.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Formats a number with a noun, such as `1 visitor`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Escapes text for an HTML element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d"),
            (90 * 86_400 + 3_600, "90 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(
            since(UNIX_EPOCH + Duration::from_secs(9), UNIX_EPOCH),
            "0 s"
        );
    }

    #[test]
    fn sizes_and_dates_are_short() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_250_000_000, "1.2 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(number), text);
        }
        let time = UNIX_EPOCH + Duration::from_secs(1_803_736_000);
        assert_eq!(date(time), "27 Feb 2027");
        assert_eq!(time_of_day(time), "13:46:40 UTC");
        assert_eq!(date_and_time(time), "27 Feb 2027, 13:46 UTC");
        assert_eq!(
            (count(1, "visitor"), count(0, "visitor")),
            ("1 visitor".into(), "0 visitors".into())
        );
    }
}
