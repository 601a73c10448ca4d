//! The wire: every endpoint's method, path and name, and the JSON shape of every request and
//! answer. Server and client are both written against this file, so they cannot disagree.
//!
//! Unknown fields are refused in both directions. Fields that hold secrets are of types that
//! serialize here and print nowhere.
mod answer;
mod request;

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

pub use self::answer::*;
pub use self::request::*;
use super::encoding::{from_base64, to_base64};
use super::secret::SecretBytes;
use super::sign_in::SignInTicket;
use super::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use super::types::Malformed;

/// The number of this wire; a change that an older client cannot read counts it up.
pub const WIRE_VERSION: u64 = 1;
/// Header of every answer: [`WIRE_VERSION`].
pub const WIRE_HEADER: &str = "agentkeys-wire";
/// Header of answers to masters and of renewals: base64 of the signed head's JSON.
pub const HEAD_HEADER: &str = "agentkeys-head";
/// Header of requests that raise what someone may do: the proof that its problem demanded.
pub const PRESENCE_HEADER: &str = "agentkeys-presence";
/// Header of answers that are problems: what the log calls this request.
pub const REQUEST_ID_HEADER: &str = "agentkeys-request-id";
/// How long a long poll waits unless its `wait` says otherwise, in seconds.
pub const DEFAULT_WAIT_SECONDS: u64 = 25;
/// Most characters of a debit's `reference`.
pub const MAX_REFERENCE: usize = 64;
/// Most movements that one answer of `/payment/history` holds.
pub const MAX_HISTORY: usize = 1_000;
/// What people call the payment rail behind this wire.
pub const RAIL_NAME: &str = "internal ledger";

/// Declares the endpoints once: variant, name in the logs, method, path.
macro_rules! routes {
    ($($(#[$doc:meta])* $route:ident $name:literal $method:literal $path:literal;)+) => {
        /// One endpoint of the wire.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Route {
            $($(#[$doc])* $route,)+
        }

        impl Route {
            /// Every endpoint.
            pub const ALL: &'static [Self] = &[$(Self::$route,)+];

            /// The endpoint of a method and a path, if there is one.
            pub fn find(method: &str, path: &str) -> Option<Self> {
                match (method, path) {
                    $(($method, $path) => Some(Self::$route),)+
                    _ => None,
                }
            }

            /// What logs and the OpenAPI document call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$route => $name,)+
                }
            }

            /// Its HTTP method.
            pub const fn method(self) -> &'static str {
                match self {
                    $(Self::$route => $method,)+
                }
            }

            /// Its path.
            pub const fn path(self) -> &'static str {
                match self {
                    $(Self::$route => $path,)+
                }
            }
        }
    };
}

routes! {
    /// Whether the server answers at all.
    Health "health" "GET" "/health";
    /// Its version and the wire's.
    Version "version" "GET" "/version";
    /// The description of the wire.
    OpenApi "openapi" "GET" "/openapi.json";
    /// The key to seal credentials to.
    ShieldingKey "shielding_key" "GET" "/shielding-key";
    /// Begins a sign-in by the backend's issuer.
    SignInBegin "sign_in_begin" "POST" "/sign-in/begin";
    /// Who the session is.
    SessionShow "session_show" "GET" "/session";
    /// Makes a master session.
    SessionCreate "session_create" "POST" "/session/create";
    /// Makes a child session.
    SessionChild "session_child" "POST" "/session/child";
    /// Trades a renewal secret for the next session.
    SessionRenew "session_renew" "POST" "/session/renew";
    /// Ends a session, or an agent's access.
    SessionRevoke "session_revoke" "POST" "/session/revoke";
    /// Makes an agent.
    AgentCreate "agent_create" "POST" "/agents";
    /// Lists the agents.
    AgentList "agent_list" "GET" "/agents";
    /// Sets what an agent may do.
    AgentScope "agent_scope" "POST" "/agent/scope";
    /// Gives a revoked agent its right back.
    AgentReinstate "agent_reinstate" "POST" "/agent/reinstate";
    /// Lists an agent's credentials, never their values.
    CredentialList "credential_list" "GET" "/credentials";
    /// Stores a sealed credential.
    CredentialStore "credential_store" "POST" "/credential/store";
    /// Hands out one credential.
    CredentialRead "credential_read" "GET" "/credential/read";
    /// Hands out one credential for a program's environment.
    CredentialInject "credential_inject" "GET" "/credential/inject";
    /// Hands out all of an agent's credentials.
    CredentialReadAll "credential_read_all" "GET" "/credential/read-all";
    /// Brings the version before back.
    CredentialRollBack "credential_roll_back" "POST" "/credential/roll-back";
    /// Sets on what terms an agent has a credential.
    CredentialTerms "credential_terms" "POST" "/credential/terms";
    /// Sets how far credentials are shown of which nobody said otherwise.
    CredentialDefault "credential_default" "POST" "/credential/default";
    /// Where an agent's services are, and how their keys travel.
    GatewayPlaces "gateway_places" "GET" "/gateway/places";
    /// Deletes a credential.
    CredentialDelete "credential_delete" "DELETE" "/credential";
    /// Deletes an agent and its credentials.
    CredentialTeardown "credential_teardown" "DELETE" "/credential/teardown";
    /// Reads the audit log.
    AuditQuery "audit_query" "GET" "/audit/query";
    /// Shows a head of the log that was seen before.
    AuditCompare "audit_compare" "POST" "/audit/compare";
    /// Accepts that the log was set back.
    AuditAccept "audit_accept" "POST" "/audit/accept";
    /// Sees to it that an agent has a key of a service.
    Provision "provision" "POST" "/provision";
    /// How keys are got, by service.
    ProviderList "provider_list" "GET" "/providers";
    /// Sets up how keys of a service are got.
    ProviderSet "provider_set" "POST" "/provider/set";
    /// Asks the service whether that still works.
    ProviderCheck "provider_check" "POST" "/provider/check";
    /// Forgets how keys of a service are got.
    ProviderRemove "provider_remove" "DELETE" "/provider";
    /// Registers a child at the rendezvous.
    RendezvousRegister "rendezvous_register" "POST" "/rendezvous/register";
    /// Waits for the payload.
    RendezvousPoll "rendezvous_poll" "GET" "/rendezvous/poll";
    /// Leaves a payload.
    RendezvousDeliver "rendezvous_deliver" "POST" "/rendezvous/deliver";
    /// Opens an auth request.
    AuthRequestOpen "auth_request_open" "POST" "/auth-request/open";
    /// Fetches an auth request to show it.
    AuthRequestFetch "auth_request_fetch" "GET" "/auth-request/fetch";
    /// Lists what waits for an answer.
    AuthRequestPending "auth_request_pending" "GET" "/auth-request/pending";
    /// Says yes.
    AuthRequestApprove "auth_request_approve" "POST" "/auth-request/approve";
    /// Says no.
    AuthRequestDeny "auth_request_deny" "POST" "/auth-request/deny";
    /// Waits for the signed decision.
    AuthRequestAwait "auth_request_await" "GET" "/auth-request/await";
    /// How it stands with the account's presence.
    PresenceShow "presence_show" "GET" "/presence";
    /// Sets the presence level.
    PresenceSet "presence_set" "POST" "/presence/set";
    /// Asks to be rid of a lost passphrase.
    PresenceReset "presence_reset" "POST" "/presence/reset";
    /// Takes that back.
    PresenceCancelReset "presence_cancel_reset" "POST" "/presence/cancel-reset";
    /// Links a human name to an agent.
    IdentityLink "identity_link" "POST" "/identity/link";
    /// Unlinks a human name.
    IdentityUnlink "identity_unlink" "POST" "/identity/unlink";
    /// Finds the agent that a name means.
    IdentityResolve "identity_resolve" "GET" "/identity/resolve";
    /// What an agent has on one layer.
    PaymentBalance "payment_balance" "GET" "/payment/balance";
    /// Gives an agent an amount.
    PaymentFund "payment_fund" "POST" "/payment/fund";
    /// Takes an amount.
    PaymentDebit "payment_debit" "POST" "/payment/debit";
    /// An agent's newest movements.
    PaymentHistory "payment_history" "GET" "/payment/history";
}

impl Route {
    /// Whether the request has a JSON body.
    pub fn has_body(self) -> bool {
        self.method() != "GET"
    }

    /// Whether it may wait for something to happen; such a wait ends at shutdown.
    pub const fn may_wait(self) -> bool {
        matches!(self, Self::RendezvousPoll | Self::AuthRequestAwait | Self::AuditQuery)
    }
}

/// A secret at the one place where it is to be seen: in a body of the wire. It serializes;
/// there is no `Debug`, `Display` or `Clone`.
pub struct Shown<T>(pub T);

/// What [`Shown`] can carry.
pub trait AsText: Sized {
    /// What a wrong value's error says is wanted.
    const WANTED: &'static str;
    /// Hands the text to `write`; an intermediate copy is wiped.
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R;
    /// Reads the text.
    fn from_text(text: &str) -> Result<Self, Malformed>;
}

impl<T: AsText> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.with_text(|text| s.serialize_str(text))
    }
}

impl<'de, T: AsText> Deserialize<'de> for Shown<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);
        impl<T: AsText> Visitor<'_> for Text<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(T::WANTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(|e| E::custom(e.why))
            }
        }
        d.deserialize_str(Text(std::marker::PhantomData)).map(Shown)
    }
}

macro_rules! token_as_text {
    ($($token:ty, $wanted:literal;)+) => {$(
        impl AsText for $token {
            const WANTED: &'static str = $wanted;
            fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
                write(self.expose())
            }
            fn from_text(text: &str) -> Result<Self, Malformed> {
                Self::parse(text)
            }
        }
    )+};
}
token_as_text! {
    SessionToken, "a session token";
    OpenToken, "an open token";
    RegistrationToken, "a registration token";
    RenewalSecret, "a renewal secret";
    SignInTicket, "a ticket of POST /sign-in/begin";
}

/// A credential's bytes travel as base64.
impl AsText for SecretBytes {
    const WANTED: &'static str = "standard base64, with padding";
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
        write(&Zeroizing::new(to_base64(self.expose())))
    }
    fn from_text(text: &str) -> Result<Self, Malformed> {
        from_base64("credential", text)
            .map(Self::new)
            .map_err(|_| Malformed::new("credential", "wants standard base64, with padding"))
    }
}

/// What proves an identity: a text, as it was given.
pub struct AuthToken(pub SecretBytes);

impl AsText for AuthToken {
    const WANTED: &'static str = "a text";
    fn with_text<R>(&self, write: impl FnOnce(&str) -> R) -> R {
        write(std::str::from_utf8(self.0.expose()).unwrap_or_default())
    }
    fn from_text(text: &str) -> Result<Self, Malformed> {
        Ok(Self(SecretBytes::new(text.as_bytes().to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_found_by_its_own_method_and_path_and_no_two_share_one() {
        for route in Route::ALL {
            assert_eq!(Route::find(route.method(), route.path()), Some(*route));
            let named = Route::ALL.iter().filter(|other| other.name() == route.name());
            assert_eq!(named.count(), 1, "{}", route.name());
        }
        assert_eq!(Route::find("PUT", "/agents"), None);
        assert_eq!(Route::find("GET", "/agents/"), None);
    }
}
