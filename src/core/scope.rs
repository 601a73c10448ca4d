//! What an agent's session may do.
use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::identity::ServiceName;
use super::terms::Exposure;

/// Most services one scope may name.
pub const MAX_SERVICES: usize = 256;

/// Which services, for which of them it may get keys of its own, and whether it may also store.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Scope {
    /// Absent: all that the agent has, later ones too. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "bounded")]
    pub services: Option<BTreeSet<ServiceName>>,
    /// For which services it may have a key made that it lacks. Absent: for none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "names")]
    pub provision: BTreeSet<ServiceName>,
    /// Whether storing is refused.
    #[serde(default)]
    pub read_only: bool,
    /// How far its credentials are shown at most, whatever their own terms say: `broker` or
    /// `inject`. Absent, and only so: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ceiling")]
    pub expose: Option<Exposure>,
}

impl Scope {
    /// Every service that the agent has, reading and storing. Getting keys is not in it: that
    /// can cost money, so each service is named.
    pub const fn everything() -> Self {
        Self { services: None, provision: BTreeSet::new(), read_only: false, expose: None }
    }

    /// Whether credentials of `service` are inside this scope.
    pub fn allows(&self, service: &ServiceName) -> bool {
        self.services.as_ref().is_none_or(|services| services.contains(service))
    }

    /// How far credentials are shown at most.
    pub fn exposure(&self) -> Exposure {
        self.expose.unwrap_or(Exposure::Reveal)
    }

    /// Whether a key of `service` may be made for who has this scope.
    pub fn may_provision(&self, service: &ServiceName) -> bool {
        self.allows(service) && self.provision.contains(service)
    }

    /// This scope and, in it, that keys of `service` may be made.
    pub fn provisioning(&self, service: &ServiceName) -> Self {
        let mut wider = self.with(service);
        wider.provision.insert(service.clone());
        wider
    }

    /// This scope and one service more.
    pub fn with(&self, service: &ServiceName) -> Self {
        let mut wider = self.clone();
        if let Some(services) = &mut wider.services {
            services.insert(service.clone());
        }
        wider
    }

    /// What both scopes allow.
    pub fn and(&self, other: &Self) -> Self {
        let services = match (&self.services, &other.services) {
            (None, any) | (any, None) => any.clone(),
            (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect()),
        };
        let provision = self.provision.intersection(&other.provision).cloned().collect();
        let expose = match (self.expose, other.expose) {
            (None, any) | (any, None) => any,
            (Some(a), Some(b)) => Some(a.min(b)),
        };
        Self { services, provision, read_only: self.read_only || other.read_only, expose }
    }

    /// Whether this scope allows nothing that `wider` does not.
    pub fn within(&self, wider: &Self) -> bool {
        let services = match (&self.services, &wider.services) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => a.is_subset(b),
        };
        let provision = self.provision.is_subset(&wider.provision);
        let expose = self.exposure() <= wider.exposure();
        services && provision && expose && (self.read_only || !wider.read_only)
    }

    /// Whether each of its lists names no more than [`MAX_SERVICES`]. What was read is; what a
    /// program put together may not be.
    pub fn is_bounded(&self) -> bool {
        self.services.as_ref().is_none_or(|services| services.len() <= MAX_SERVICES)
            && self.provision.len() <= MAX_SERVICES
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for Scope {
    /// From a map alone. What serde derives also reads `[]`, as a scope whose every member is
    /// at its default: everything, where somebody meant nothing.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Scope;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of services and read_only")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scope, A::Error> {
                Scope::deserialize(MapAccessDeserializer::new(map))
            }
        }

        d.deserialize_map(Map)
    }
}

/// Reads the list when there is one. `null` is refused: only an absent list means everything,
/// so a program that meant "none" is not given all.
fn bounded<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BTreeSet<ServiceName>>, D::Error> {
    names(d).map(Some)
}

/// Reads a limit. One that is none is refused, so that a scope is written in one way only.
fn ceiling<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Exposure>, D::Error> {
    match Exposure::deserialize(d)? {
        Exposure::Reveal => Err(D::Error::custom("a scope without a limit has no expose")),
        tier => Ok(Some(tier)),
    }
}

/// Reads a list of at most [`MAX_SERVICES`] names, none twice.
fn names<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeSet<ServiceName>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = BTreeSet<ServiceName>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {MAX_SERVICES} services")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Self::Value, A::Error> {
            let mut set = BTreeSet::new();
            while let Some(name) = names.next_element()? {
                if set.len() == MAX_SERVICES {
                    return Err(A::Error::custom(format_args!(
                        "a scope names at most {MAX_SERVICES} services"
                    )));
                }
                if !set.insert(name) {
                    return Err(A::Error::custom("a scope names each service once"));
                }
            }
            Ok(set)
        }
    }

    d.deserialize_seq(Names)
}

impl fmt::Display for Scope {
    /// In words, as a person is asked to approve it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let verb = if self.read_only { "read" } else { "read and store" };
        let list = |names: &BTreeSet<ServiceName>| {
            names.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ")
        };
        match &self.services {
            None => write!(f, "{verb} all of the agent's services, later ones too")?,
            Some(services) if services.is_empty() => f.write_str("no service")?,
            Some(services) => write!(f, "{verb} {}", list(services))?,
        }
        match self.exposure() {
            Exposure::Reveal => {}
            Exposure::Inject => f.write_str("; no key as plaintext, only by run")?,
            Exposure::Broker => f.write_str("; no key to be seen, only used by the gateway")?,
        }
        if self.provision.is_empty() {
            return Ok(());
        }
        write!(f, "; have keys made for {}", list(&self.provision))
    }
}
