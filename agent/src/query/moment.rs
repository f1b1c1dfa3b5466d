// SPDX-License-Identifier: Apache-2.0
//! Times as people write them: absolute, in the zone of who asks or in one they name, or counted back from now.

use jiff::{Timestamp, ZonedDateTime, civil};

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no time: write 2026-03-09, \"2026-03-09 14:30\", 2026-03-09T14:30:00Z, 14:30 (today), now, today, yesterday, 90m, \
     \"2h 30m ago\" or 3d (before now)"
)]
pub struct MomentError(String);

/// Nanoseconds since 1970 that `text` means for who asks at `now`.
///
/// # Errors
/// [`MomentError`].
pub fn parse(text: &str, now: &ZonedDateTime) -> Result<i64, MomentError> {
    let refused = || MomentError(text.to_owned());
    let text = text.trim();
    let moment = absolute(text, now)
        .or_else(|| before(text, now))
        .ok_or_else(refused)?;
    i64::try_from(moment.as_nanosecond()).map_err(|_| refused())
}

fn absolute(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let local = |time: civil::DateTime| {
        let zoned = time.to_zoned_datetime(now.time_zone().clone());
        zoned.ok().map(|zoned| zoned.timestamp())
    };
    let midnight = |date: civil::Date| local(date.at(0, 0, 0, 0));
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return midnight(now.date()),
        "yesterday" => return midnight(now.date().yesterday().ok()?),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::from_second(seconds.parse().ok()?).ok();
    }
    if let Ok(timestamp) = text.parse() {
        return Some(timestamp);
    }
    if let Ok(zoned) = text.parse::<ZonedDateTime>() {
        return Some(zoned.timestamp());
    }
    // A date alone is a time to this parser, a time alone is none.
    if let Ok(time) = text.parse() {
        return local(time);
    }
    local(now.date().to_datetime(text.parse::<civil::Time>().ok()?))
}

/// `90m`, `2h 30m ago`.
fn before(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    let span = text.strip_suffix("ago").unwrap_or(text).trim();
    let span = span.strip_prefix('-').unwrap_or(span);
    // Without an hour or a minute as a start it would also take the ISO's P1D: as good.
    let span: jiff::Span = span.parse().ok()?;
    now.checked_sub(span).ok().map(|zoned| zoned.timestamp())
}

/// A time as it is shown: UTC, to the microsecond.
#[must_use]
pub fn show(ns: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(time) => format!("{time:.6}"),
        // No such time exists: what a list claims.
        Err(_) => format!("{ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let now: ZonedDateTime = "2026-03-09T14:30:00+01:00[Europe/Berlin]".parse().unwrap();
        let ns = |text: &str| {
            let time: Timestamp = text.parse().unwrap();
            i64::try_from(time.as_nanosecond()).unwrap()
        };
        for (text, utc) in [
            ("2026-03-09T14:30:00Z", "2026-03-09T14:30:00Z"),
            ("2026-03-09T14:30:00+02:00", "2026-03-09T12:30:00Z"),
            ("2026-03-09 14:30", "2026-03-09T13:30:00Z"),
            ("2026-03-09T14:30:01.5", "2026-03-09T13:30:01.5Z"),
            ("2026-03-09", "2026-03-08T23:00:00Z"),
            ("14:00", "2026-03-09T13:00:00Z"),
            ("now", "2026-03-09T13:30:00Z"),
            ("today", "2026-03-08T23:00:00Z"),
            ("yesterday", "2026-03-07T23:00:00Z"),
            ("90m", "2026-03-09T12:00:00Z"),
            ("2h 30m ago", "2026-03-09T11:00:00Z"),
            ("-1h", "2026-03-09T12:30:00Z"),
            ("3d", "2026-03-06T13:30:00Z"),
            ("1w", "2026-03-02T13:30:00Z"),
            ("@0", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse(text, &now), Ok(ns(utc)), "{text}");
        }
        for text in ["", "soon", "25:00", "2026-13-01", "@x", "ago", "999999999y"] {
            assert_eq!(parse(text, &now), Err(MomentError(text.to_owned())));
        }
    }

    #[test]
    fn a_time_that_does_not_exist_is_shown_as_the_list_claims_it() {
        assert_eq!(show(1_500_000_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(show(i64::MIN), "1677-09-21T00:12:43.145224Z");
    }
}
