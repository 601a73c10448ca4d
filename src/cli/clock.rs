//! The clock of this machine, and times as people type and read them.
use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::problem::Problem;
use crate::core::types::Timestamp;

/// Now, by this machine's clock; 1970 on a machine that believes to be before it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads a moment: RFC 3339, a date, or an age such as `90s`, `30m`, `2h`, `7d`.
///
/// # Errors
/// `field` is none of them.
pub fn moment(field: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Some(age) = age(text) {
        return Ok(Timestamp(now.0.saturating_sub(age)));
    }
    // A date alone is its first moment, in UTC.
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    whole.parse().map_err(|_| {
        Problem::invalid(
            field,
            "wants an age such as 30m, 2h or 7d, a date such as 2026-04-09, \
             or a time such as 2026-04-09T14:32:07Z",
        )
    })
}

/// Milliseconds of an age such as `2h`.
fn age(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let millis: u64 = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis)
}

/// A span as people say it: `12 seconds`, `3 minutes`, `2 hours`, `5 days`.
pub fn span(millis: u64) -> String {
    let (count, unit) = match millis / 1_000 {
        seconds @ 0..=119 => (seconds, "second"),
        seconds @ 120..=7_199 => (seconds / 60, "minute"),
        seconds @ 7_200..=172_799 => (seconds / 3_600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_age_a_date_or_a_time() {
        let now: Timestamp = "2026-04-09T14:32:07Z".parse().unwrap();
        let at = |text| moment("since", text, now).unwrap().to_string();
        assert_eq!(at("7s"), "2026-04-09T14:32:00.000Z");
        assert_eq!(at("2h"), "2026-04-09T12:32:07.000Z");
        assert_eq!(at("1d"), "2026-04-08T14:32:07.000Z");
        assert_eq!(at("2026-04-01"), "2026-04-01T00:00:00.000Z");
        assert_eq!(at("2026-04-01T10:00:00+02:00"), "2026-04-01T08:00:00.000Z");
        assert_eq!(moment("since", "9999999d", now).unwrap(), Timestamp(0));
        for bad in ["", "x", "1", "-1h", "2026-04-32", "99999999999999999999h", "é"] {
            assert!(moment("since", bad, now).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_span_reads_as_people_say_it() {
        for (millis, text) in [
            (0, "0 seconds"),
            (1_999, "1 second"),
            (119_000, "119 seconds"),
            (120_000, "2 minutes"),
            (7_200_000, "2 hours"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(span(millis), text);
        }
    }
}
