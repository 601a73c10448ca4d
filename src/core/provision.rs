//! Getting keys that an agent lacks: what an account sets up for a service, and what comes of a
//! wish for a key.
//!
//! A **provider** is what an account has set up for one service: the way, its settings, and a
//! secret of the account's own (an administrator's key, or a mailbox's password), which no agent
//! can read.
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::backend::CredentialSummary;
use super::identity::ServiceName;
use super::problem::{Code, Problem};
use super::secret::SecretBytes;
use super::types::{Malformed, Timestamp};

/// Most settings of one provider.
pub const MAX_SETTINGS: usize = 32;
/// Longest name of a setting, in bytes.
pub const MAX_SETTING_NAME: usize = 32;
/// Longest value of a setting, in bytes.
pub const MAX_SETTING: usize = 1024;
/// Largest secret of a provider, in bytes.
pub const MAX_PROVIDER_SECRET: usize = 16 * 1024;

/// How keys of a service are got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By the service's own interface; the backend asks it.
    Api,
    /// By a recipe that goes through the service's pages in a browser, beside the agent.
    Browser,
}

impl Way {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Browser => "browser",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Way {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "api" => Ok(Self::Api),
            "browser" => Ok(Self::Browser),
            _ => Err(Malformed::new("way", "is api or browser")),
        }
    }
}

/// A provider's settings: names of lower-case letters, digits and `_`, and one line of text each.
/// None of them is secret.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// What was set, if it is within the limits.
    ///
    /// # Errors
    /// A name or value that is none, or too many of them.
    pub fn new(values: BTreeMap<String, String>) -> Result<Self, Malformed> {
        let wrong = |why| Err(Malformed::new("settings", why));
        if values.len() > MAX_SETTINGS {
            return wrong("has too many: at most 32");
        }
        for (name, value) in &values {
            let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
            if name.is_empty() || name.len() > MAX_SETTING_NAME || !name.bytes().all(fits) {
                return wrong("has a name that is not 1 to 32 of a-z, 0-9 and _");
            }
            if value.len() > MAX_SETTING || value.chars().any(char::is_control) {
                return wrong("has a value that is not one line of at most 1,024 bytes");
            }
        }
        Ok(Self(values))
    }

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let values = BTreeMap::deserialize(d)?;
        Self::new(values).map_err(|wrong| serde::de::Error::custom(wrong.why))
    }
}

/// What an account has set up for a service, its secret apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// For which service.
    pub service: ServiceName,
    /// How.
    pub way: Way,
    /// With what.
    pub settings: Settings,
    /// When it was set up last.
    pub set_at: Timestamp,
    /// Keys that are there and were made by it.
    pub keys: u64,
    /// Keys that still have to be ended at the service.
    pub ending: u64,
    /// What the service answered when the last of them could not be ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What is to be set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewProvider {
    /// How.
    pub way: Way,
    /// With what.
    pub settings: Settings,
    /// The secret, sealed to the shielding key with [`super::seal::Purpose::provider`]; absent:
    /// the one that is there stays.
    pub sealed: Option<Vec<u8>>,
}

/// What comes of a wish for a key.
pub enum Provisioned {
    /// The agent has one already.
    Exists(CredentialSummary),
    /// The backend had one made.
    Made(CredentialSummary),
    /// A recipe is to be run beside the agent.
    Recipe(Recipe),
}

/// What a recipe beside the agent is given.
pub struct Recipe {
    /// The provider's settings.
    pub settings: Settings,
    /// The provider's secret.
    pub secret: Option<SecretBytes>,
}

/// That an account has no way to get keys of a service.
pub fn no_way(service: &ServiceName) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("no key of \"{service}\" can be got"),
        "its master has set up no way to get one",
        format!(
            "agentkeys provisioner set {service}\nor store one: agentkeys store <agent> {service}"
        ),
    )
}
