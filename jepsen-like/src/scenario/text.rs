//! Values that are written as a text: durations, sizes, rates, and ranges of them.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::Scheme;
use serde::Deserialize;

/// A value that is written as a text.
pub(super) trait FromText: Sized {
    /// For the message, like `a duration like 10s`.
    const FORM: &'static str;
    fn from_text(text: &str) -> Option<Self>;
}

/// Deserializes by [`FromText`]; the message names the form.
pub(super) fn deserialize<'de, T: FromText, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);
    impl<T: FromText> serde::de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::FORM)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Visitor(std::marker::PhantomData))
}

/// `impl Deserialize` for types that are written as a text.
macro_rules! from_text {
    ($($type:ty),*) => {
        $(impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::scenario::text::deserialize(deserializer)
            }
        })*
    };
}
pub(super) use from_text;

#[derive(Clone, Copy)]
pub(super) struct Time(pub Duration);
pub(super) struct TimeRange(pub RangeInclusive<Duration>);
pub(super) struct ByteRange(pub RangeInclusive<u64>);
pub(super) struct CountRange(pub RangeInclusive<u32>);

/// `1 per 5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

from_text!(Time, TimeRange, ByteRange, CountRange, Rate);

impl Rate {
    /// How many are expected within `time`.
    pub fn expected_in(&self, time: Duration) -> f64 {
        f64::from(self.count) * time.as_secs_f64() / self.per.as_secs_f64()
    }
}

impl FromText for Time {
    const FORM: &'static str = "a duration like 500ms, 10s, 2m or 1h";
    fn from_text(text: &str) -> Option<Time> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        // A year and no more: sums of a few never overflow.
        number.checked_mul(unit_ms).filter(|ms| *ms <= 365 * 24 * 3_600_000).map(|ms| Time(Duration::from_millis(ms)))
    }
}

/// `a..b`, or `a` for both.
fn range<T: PartialOrd>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<RangeInclusive<T>> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most) = (parse(least)?, parse(most)?);
    (least <= most).then_some(least..=most)
}

impl FromText for TimeRange {
    const FORM: &'static str = "a duration like 5s or a range like 12s..40s";
    fn from_text(text: &str) -> Option<TimeRange> {
        range(text, |text| Time::from_text(text).map(|time| time.0)).map(TimeRange)
    }
}

impl FromText for ByteRange {
    const FORM: &'static str = "a size like 64KiB or a range like 1..1MiB";
    fn from_text(text: &str) -> Option<ByteRange> {
        range(text, bytes).map(ByteRange)
    }
}

impl FromText for CountRange {
    const FORM: &'static str = "a number like 3 or a range like 1..20, from 1 on";
    fn from_text(text: &str) -> Option<CountRange> {
        range(text, |text| text.parse().ok().filter(|count| *count > 0)).map(CountRange)
    }
}

impl FromText for Rate {
    const FORM: &'static str = "a rate like 1 per 5s";
    fn from_text(text: &str) -> Option<Rate> {
        let (count, per) = text.split_once(" per ")?;
        let rate = Rate { count: count.parse().ok()?, per: Time::from_text(per)?.0 };
        (rate.count > 0 && !rate.per.is_zero()).then_some(rate)
    }
}

/// `1`, `64KiB`, `1MiB`, `5GiB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The storage scheme, as `rs(4,2)` or `replicas(3)`.
pub(super) fn scheme<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Scheme, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let form = &"a scheme like rs(4,2) or replicas(3)";
        serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), form)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_refused() {
        let time = |text| Time::from_text(text).map(|time| time.0.as_millis());
        assert_eq!([time("500ms"), time("2m"), time("1h")], [Some(500), Some(120_000), Some(3_600_000)]);
        for bad in ["", "5", "s", "5 s", "-5s", "1.5s", "5d", "99999999999h"] {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!(ByteRange::from_text("1..1MiB").map(|range| range.0), Some(1..=1 << 20));
        assert_eq!(ByteRange::from_text("2..1").map(|range| range.0), None);
        assert_eq!(CountRange::from_text("1..20").map(|range| range.0), Some(1..=20));
        assert_eq!(CountRange::from_text("0..20").map(|range| range.0), None);
        let rate = Rate::from_text("1 per 4s").unwrap();
        assert_eq!(rate.expected_in(Duration::from_secs(16)), 4.0);
        for bad in ["0 per 4s", "1 per 0s", "1/4s"] {
            assert_eq!(Rate::from_text(bad), None, "{bad}");
        }
    }
}
