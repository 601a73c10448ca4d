//! On what terms an agent has a credential: how far it is shown, and what it may be used for.
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::rule::{Effect, MAX_RULES, Path, Rule};
use super::types::Malformed;

/// How far a credential comes towards an agent. Each tier holds those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exposure {
    /// It is used by the gateway alone, and never leaves the backend but for its service.
    Broker,
    /// It is also put into the environment of a program that `run` starts.
    Inject,
    /// It is also read as plaintext.
    Reveal,
}

impl Exposure {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Inject => "inject",
            Self::Reveal => "reveal",
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Exposure {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [Self::Broker, Self::Inject, Self::Reveal]
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| Malformed::new("exposure", "is broker, inject or reveal"))
    }
}

/// The terms of one credential.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// How far it is shown at most; absent: as far as it may be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Exposure>,
    /// Which requests the gateway sends with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rules: BTreeSet<Rule>,
    /// What it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Endpoints by whose last word keys are made or shown, of whatever service.
const MAKE_KEYS: [&str; 7] = [
    "api_keys",
    "api-keys",
    "apikeys",
    "admin_api_keys",
    "access_tokens",
    "service_accounts",
    "service_account_keys",
];

/// What becomes of a request that is not refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sendable {
    /// It is sent.
    AtOnce,
    /// It is sent once the master has approved it, for what it says.
    Asked(Rule),
}

/// Why a request is not sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unsent {
    /// A rule denies it.
    Denied(Rule),
    /// No rule names it, and there are some that name others.
    NotNamed,
    /// It makes or shows keys, and no rule names it.
    MakesKeys,
}

impl Terms {
    /// No terms.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// How far it is shown.
    pub fn exposure(&self) -> Exposure {
        self.expose.unwrap_or(Exposure::Reveal)
    }

    /// Whether a request may be sent; `guarded` are the service's own endpoints that make keys.
    /// What a rule asks for is named by it, as by one that allows: each is sent by an approval.
    ///
    /// # Errors
    /// Why not.
    pub fn allow(&self, method: &str, path: &Path, guarded: &[Rule]) -> Result<Sendable, Unsent> {
        let named = |effect| {
            self.rules.iter().find(|rule| rule.effect() == effect && rule.names(method, path))
        };
        if let Some(rule) = named(Effect::Deny) {
            return Err(Unsent::Denied(rule.clone()));
        }
        if let Some(rule) = named(Effect::Ask) {
            return Ok(Sendable::Asked(rule.clone()));
        }
        if named(Effect::Allow).is_some() {
            return Ok(Sendable::AtOnce);
        }
        if self.rules.iter().any(|rule| rule.effect() == Effect::Allow) {
            return Err(Unsent::NotNamed);
        }
        if path.has_segment(&MAKE_KEYS) || guarded.iter().any(|rule| rule.names(method, path)) {
            return Err(Unsent::MakesKeys);
        }
        Ok(Sendable::AtOnce)
    }

    /// Whether these terms allow nothing that `wider` does not, as far as that is plain to see:
    /// fewer that allow, more that ask or deny. What asks lets nothing through by itself, since each
    /// approval is an act of its own.
    pub fn within(&self, wider: &Self) -> bool {
        let of = |terms: &Self, effect| {
            terms.rules.iter().filter(|rule| rule.effect() == effect).cloned().collect()
        };
        let (ours, theirs): (BTreeSet<Rule>, BTreeSet<Rule>) =
            (of(self, Effect::Allow), of(wider, Effect::Allow));
        // Without one that allows, all is allowed but what makes keys; with one, just what is named,
        // and that may be what makes keys.
        let allows = if theirs.is_empty() {
            ours.is_empty()
        } else {
            ours.is_subset(&theirs) && !ours.is_empty()
        };
        let holds = |effect| {
            let (ours, theirs): (BTreeSet<Rule>, BTreeSet<Rule>) =
                (of(self, effect), of(wider, effect));
            theirs.is_subset(&ours)
        };
        let stricter = holds(Effect::Ask) && holds(Effect::Deny);
        let none = Budget::default();
        let budget = |terms: &Self| terms.budget.clone().unwrap_or_default();
        let cheaper = budget(self).within(wider.budget.as_ref().unwrap_or(&none));
        self.exposure() <= wider.exposure() && allows && stricter && cheaper
    }

    /// Whether they have no more rules than [`MAX_RULES`].
    pub fn is_bounded(&self) -> bool {
        self.rules.len() <= MAX_RULES
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.exposure())?;
        for rule in &self.rules {
            write!(f, ", {rule}")?;
        }
        if let Some(budget) = &self.budget {
            write!(f, ", {budget}")?;
        }
        Ok(())
    }
}

/// What of the terms is to be changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermsChange {
    /// How far it is shown from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Exposure>,
    /// The rules from now on, in place of all that there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<BTreeSet<Rule>>,
    /// What it may cost from now on, in place of what there was; one without limits takes it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

impl TermsChange {
    /// Whether it can allow nothing more, whatever the terms were.
    pub fn only_narrows(&self) -> bool {
        self.rules.is_none()
            && self.budget.is_none()
            && self.expose.is_none_or(|tier| tier == Exposure::Broker)
    }

    /// The terms, so changed.
    pub fn of(&self, before: &Terms) -> Terms {
        Terms {
            expose: self.expose.or(before.expose),
            rules: self.rules.clone().unwrap_or_else(|| before.rules.clone()),
            budget: match &self.budget {
                Some(budget) => Some(budget.clone()).filter(|budget| !budget.is_none()),
                None => before.budget.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(rules: &[&str]) -> Terms {
        Terms {
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            ..Terms::default()
        }
    }

    fn asked(terms: &Terms, method: &str, target: &str) -> Result<Sendable, Unsent> {
        let guarded = ["deny /v1/keys*".parse().unwrap()];
        terms.allow(method, &Path::plain(target).unwrap(), &guarded)
    }

    #[test]
    fn deny_wins_and_what_is_not_named_beside_what_is_stays_out() {
        let some = terms(&["allow /v1/*", "deny DELETE /v1/*", "deny /v1/admin*"]);
        assert_eq!(asked(&some, "POST", "/v1/chat"), Ok(Sendable::AtOnce));
        assert!(matches!(asked(&some, "DELETE", "/v1/chat"), Err(Unsent::Denied(_))));
        assert!(matches!(asked(&some, "GET", "/v1/Admin/x"), Err(Unsent::Denied(_))));
        assert_eq!(asked(&some, "GET", "/v2/chat"), Err(Unsent::NotNamed));
        let only_denies = terms(&["deny DELETE /*"]);
        assert_eq!(asked(&only_denies, "GET", "/v2/chat"), Ok(Sendable::AtOnce));
    }

    #[test]
    fn what_asks_goes_before_what_allows_and_after_what_denies() {
        let some = terms(&["allow /v1/*", "ask POST /v1/charges*", "deny /v1/charges/admin"]);
        let asks = Ok(Sendable::Asked("ask POST /v1/charges*".parse().unwrap()));
        assert_eq!(asked(&some, "POST", "/v1/charges"), asks);
        assert_eq!(asked(&some, "POST", "/V1/Charges/"), asks);
        assert_eq!(asked(&some, "GET", "/v1/charges"), Ok(Sendable::AtOnce));
        assert!(matches!(asked(&some, "POST", "/v1/charges/admin"), Err(Unsent::Denied(_))));
        // It refuses nothing that it does not name, and names what makes keys.
        let only = terms(&["ask POST /v1/keys"]);
        assert_eq!(asked(&only, "POST", "/v1/chat"), Ok(Sendable::AtOnce));
        assert!(matches!(asked(&only, "POST", "/v1/keys"), Ok(Sendable::Asked(_))));
        assert!(only.within(&Terms::default()) && !Terms::default().within(&only));
    }

    #[test]
    fn what_makes_keys_is_denied_unless_it_is_named() {
        for target in ["/v1/keys", "/v1/Keys/", "/v1/organization/admin_api_keys", "/x/API_KEYS/1"]
        {
            assert_eq!(
                asked(&Terms::default(), "POST", target),
                Err(Unsent::MakesKeys),
                "{target}"
            );
        }
        assert_eq!(asked(&Terms::default(), "POST", "/v1/keynotes"), Ok(Sendable::AtOnce));
        assert_eq!(
            asked(&terms(&["allow POST /v1/keys"]), "POST", "/v1/keys"),
            Ok(Sendable::AtOnce)
        );
    }

    #[test]
    fn narrower_is_what_allows_less_or_denies_more() {
        let none = Terms::default();
        let deny = terms(&["deny /x"]);
        let (one, two) = (terms(&["allow /a"]), terms(&["allow /a", "allow /b"]));
        assert!(deny.within(&none) && !none.within(&deny) && none.within(&none));
        assert!(one.within(&two) && !two.within(&one) && !none.within(&one));
        // It may name what makes keys, which is denied where nothing is named.
        assert!(!one.within(&none));
        let broker = Terms { expose: Some(Exposure::Broker), ..Terms::default() };
        assert!(broker.within(&none) && !none.within(&broker));
        assert!(Terms { expose: Some(Exposure::Reveal), ..Terms::default() }.within(&none));
    }
}
