//! Budgets: what a credential may cost in a day, a month and in all, and what was counted so far.
//! Amounts are millionths of a US dollar; days and months are those of UTC.
use std::fmt;

use serde::{Deserialize, Serialize};

use super::payment::{Amount, usd};
use super::types::Timestamp;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What a credential may cost. A limit that is absent is none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// In one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<Amount>,
    /// In one month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub month: Option<Amount>,
    /// In all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Amount>,
    /// From how many hundredths of a limit on the master is asked about each request; 1 to 99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_at: Option<u8>,
    /// How many requests a minute; others wait for their turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What is charged, in place of what the catalog knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

/// What a service charges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// For a million tokens that are sent.
    #[serde(default)]
    pub input: Amount,
    /// For a million tokens that are answered.
    #[serde(default)]
    pub output: Amount,
    /// For a million tokens that are sent, and that the service had before; absent: as others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<Amount>,
    /// For each request.
    #[serde(default)]
    pub request: Amount,
}

/// A limit of a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Of a day.
    Day,
    /// Of a month.
    Month,
    /// Of all.
    Total,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        })
    }
}

/// How it stands with a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is some left.
    Within,
    /// So much was spent that the master is asked.
    Asks(Reached),
    /// Nothing is left.
    Over(Reached),
}

/// A limit, or its part from which on the master is asked, that was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    /// Which.
    pub limit: Limit,
    /// What was counted.
    pub spent: Amount,
    /// What it allows.
    pub of: Amount,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (spent, of) = (usd(self.spent), usd(self.of));
        match self.limit {
            Limit::Total => write!(f, "{spent} of {of} USD are spent in all"),
            limit => write!(f, "{spent} of {of} USD of this {limit} are spent (UTC)"),
        }
    }
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// The day that was counted last: days since 1970.
    pub at_day: u64,
    /// The month that was counted last: months since year 0.
    pub at_month: u64,
    /// In that day.
    pub day: Amount,
    /// In that month.
    pub month: Amount,
    /// In all.
    pub total: Amount,
}

impl Spent {
    /// The same, as it counts at a moment: a new day begins with nothing. A clock that was set back
    /// begins none.
    pub fn at(mut self, now: Timestamp) -> Self {
        let day = now.0 / DAY_MS;
        let month = now.months();
        if day > self.at_day {
            (self.at_day, self.day) = (day, 0);
        }
        if month > self.at_month {
            (self.at_month, self.month) = (month, 0);
        }
        self
    }

    /// With an amount more.
    pub fn plus(self, amount: Amount, now: Timestamp) -> Self {
        let mut spent = self.at(now);
        for sum in [&mut spent.day, &mut spent.month, &mut spent.total] {
            *sum = sum.saturating_add(amount);
        }
        spent
    }
}

impl Budget {
    /// Whether it limits nothing and prices nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn limits(&self) -> [(Limit, Option<Amount>); 3] {
        [(Limit::Total, self.total), (Limit::Month, self.month), (Limit::Day, self.day)]
    }

    /// Whether there is a limit.
    pub fn has_limit(&self) -> bool {
        self.limits().iter().any(|(_, of)| of.is_some())
    }

    /// Whether its figures are of use.
    pub fn is_sound(&self) -> bool {
        let asks = self.ask_at.is_none_or(|part| (1..=99).contains(&part) && self.has_limit());
        asks && self.rate != Some(0) && self.limits().iter().all(|(_, of)| *of != Some(0))
    }

    /// How it stands.
    pub fn standing(&self, spent: Spent, now: Timestamp) -> Standing {
        let spent = spent.at(now);
        let of = |limit| match limit {
            Limit::Day => spent.day,
            Limit::Month => spent.month,
            Limit::Total => spent.total,
        };
        let reached = |part: u8| {
            self.limits().into_iter().find_map(|(limit, most)| {
                let (spent, most) = (of(limit), most?);
                let is_reached = u128::from(spent) * 100 >= u128::from(most) * u128::from(part);
                is_reached.then_some(Reached { limit, spent, of: most })
            })
        };
        match (reached(100), self.ask_at.and_then(reached)) {
            (Some(over), _) => Standing::Over(over),
            (None, Some(asks)) => Standing::Asks(asks),
            (None, None) => Standing::Within,
        }
    }

    /// Whether it allows nothing that `wider` does not.
    pub fn within(&self, wider: &Self) -> bool {
        fn narrower<T: Ord>(ours: Option<T>, theirs: Option<T>) -> bool {
            match (ours, theirs) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(ours), Some(theirs)) => ours <= theirs,
            }
        }
        let limits = self.limits().into_iter().zip(wider.limits());
        let mut limits = limits.map(|((_, ours), (_, theirs))| narrower(ours, theirs));
        // Another price counts otherwise, which may be less.
        let counts = self.price == wider.price || !wider.has_limit();
        limits.all(|ok| ok)
            && narrower(self.ask_at, wider.ask_at)
            && narrower(self.rate, wider.rate)
            && counts
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut parts = Vec::new();
        for (limit, of) in self.limits().into_iter().rev() {
            let Some(of) = of else { continue };
            parts.push(match limit {
                Limit::Total => format!("{} USD in all", usd(of)),
                limit => format!("{} USD a {limit}", usd(of)),
            });
        }
        if let Some(part) = self.ask_at {
            parts.push(format!("asks from {part}% on"));
        }
        if let Some(rate) = self.rate {
            parts.push(format!("{rate} requests a minute"));
        }
        if let Some(Price { input, output, cached, request }) = self.price {
            let mut price = format!("{}/{}", usd(input), usd(output));
            if let Some(cached) = cached {
                price.push_str(&format!("/{}", usd(cached)));
            }
            parts.push(format!("at {price} USD a million tokens and {} a request", usd(request)));
        }
        f.write_str(&if parts.is_empty() { "no limit".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_775_745_127_000);

    fn budget(day: u64, total: u64) -> Budget {
        Budget { day: Some(day), total: Some(total), ask_at: Some(80), ..Budget::default() }
    }

    #[test]
    fn a_day_begins_with_nothing_and_a_clock_that_was_set_back_begins_none() {
        let spent = Spent::default().plus(5, NOW);
        let next = NOW.plus_ms(DAY_MS);
        assert_eq!((spent.day, spent.at(next).day, spent.at(next).total), (5, 0, 5));
        let back = spent.plus(2, next).at(NOW);
        assert_eq!((back.day, back.month, back.total), (2, 7, 7));
        let later = spent.at(NOW.plus_ms(31 * DAY_MS));
        assert_eq!((later.month, later.total), (0, 5));
    }

    #[test]
    fn a_limit_is_over_when_it_is_reached_and_asks_before_that() {
        let stands = |spent: u64| budget(10, 100).standing(Spent::default().plus(spent, NOW), NOW);
        assert_eq!(stands(7), Standing::Within);
        let of_day = |spent| Reached { limit: Limit::Day, spent, of: 10 };
        assert_eq!(stands(8), Standing::Asks(of_day(8)));
        assert_eq!(stands(10), Standing::Over(of_day(10)));
        assert_eq!(
            stands(100),
            Standing::Over(Reached { limit: Limit::Total, spent: 100, of: 100 })
        );
        assert_eq!(
            Budget::default().standing(Spent::default().plus(9, NOW), NOW),
            Standing::Within
        );
        let most = Budget { total: Some(u64::MAX), ..Budget::default() };
        assert_eq!(most.standing(Spent::default().plus(1, NOW), NOW), Standing::Within);
    }

    #[test]
    fn narrower_is_what_allows_less_or_asks_sooner() {
        let (none, some) = (Budget::default(), budget(10, 100));
        assert!(some.within(&none) && !none.within(&some) && some.within(&some));
        assert!(budget(9, 100).within(&some) && !budget(11, 100).within(&some));
        assert!(!Budget { ask_at: None, ..some.clone() }.within(&some));
        assert!(Budget { ask_at: Some(50), ..some.clone() }.within(&some));
        let cheap = Budget { price: Some(Price::default()), ..some.clone() };
        assert!(!cheap.within(&some) && cheap.within(&none));
    }

    #[test]
    fn it_reads_as_people_say_it() {
        assert_eq!(
            budget(1_000_000, 2_500_000).to_string(),
            "1.00 USD a day, 2.50 USD in all, asks from 80% on"
        );
        assert_eq!(Budget::default().to_string(), "no limit");
        assert!(!budget(0, 1).is_sound() && budget(1, 1).is_sound());
        assert!(!Budget { ask_at: Some(80), ..Budget::default() }.is_sound());
    }
}
