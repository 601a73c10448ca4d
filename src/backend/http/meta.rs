//! What needs no session: health, version, the description of the wire, the shielding key.
use super::call::Call;
use super::reply::Reply;
use crate::core::backend::AccountBackend;
use crate::core::problem::Answer;
use crate::core::wire::{self, WIRE_VERSION};

/// The description of the wire.
pub const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// What is asked for.
pub enum Action {
    /// Whether the server answers at all.
    Health,
    /// Versions of program and wire.
    Version,
    /// The description of the wire.
    OpenApi,
    /// The key to seal credentials to.
    ShieldingKey,
}

/// Each of the four: they take neither query nor body.
pub fn parse(call: &Call<'_>, action: Action) -> Answer<Action> {
    call.without_query().map(|()| action)
}

impl Action {
    /// Does it.
    pub async fn apply(self, backend: &dyn AccountBackend) -> Answer<Reply> {
        match self {
            Self::Health => Ok(Reply::fixed(r#"{"status":"ok"}"#)),
            Self::Version => Reply::json(&wire::Version {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                wire: WIRE_VERSION,
            }),
            Self::OpenApi => Ok(Reply::fixed(OPENAPI)),
            Self::ShieldingKey => Reply::json(&backend.shielding_key().await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::call;
    use super::*;

    #[test]
    fn a_query_is_refused_and_the_fixed_answer_is_the_wire_s() {
        assert!(parse(&call("", "", ""), Action::Health).is_ok());
        assert!(parse(&call("", "verbose=1", ""), Action::Health).is_err());
        let health: wire::Health = serde_json::from_str(r#"{"status":"ok"}"#).unwrap();
        assert_eq!(health.status, "ok");
    }
}
