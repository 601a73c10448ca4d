//! Sign-in by OpenID Connect as both sides know it: the flows, what a client begins with, and the
//! ticket that ties an ID token to one begun sign-in.
//!
//! A ticket says all that the backend has to know again, under the backend's own keyed hash, so
//! that strangers who begin sign-ins fill neither its memory nor its disk. The nonce of the ID
//! token is the ticket's hash: without the ticket the token is worth nothing.
//! Must never hold a token of the issuer, nor decide who may sign in.
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::problem::{Code, Problem};
use super::types::{Malformed, Timestamp, from_hex, to_hex};

/// How long a ticket holds.
pub const TICKET_MS: u64 = 30 * 60 * 1000;
/// What is asked of the issuer: who it is, and the e-mail address as a label.
pub const SCOPE: &str = "openid email";

const PREFIX: &str = "agkt_";
const VERSION: u8 = 1;
/// Version, flow, end, random bits.
const BODY: usize = 1 + 1 + 8 + 16;
const MAC: usize = 16;

/// Tells the person what they have to do, a line at a time.
pub type Tell<'a> = &'a (dyn Fn(&str) + 'a);

/// How the person gets to the issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// In a browser on the same machine: authorization code with PKCE, answered on loopback.
    Code,
    /// On any device, by a code that is typed there (RFC 8628).
    Device,
}

/// What a ticket says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// For which flow it was made.
    pub flow: Flow,
    /// Until when it holds.
    pub until: Timestamp,
    /// 128 random bits.
    pub random: [u8; 16],
}

impl Ticket {
    /// When it was made.
    pub fn made_at(&self) -> Timestamp {
        Timestamp(self.until.0.saturating_sub(TICKET_MS))
    }

    fn body(&self) -> [u8; BODY] {
        let mut body = [0; BODY];
        body[0] = VERSION;
        body[1] = match self.flow {
            Flow::Code => b'c',
            Flow::Device => b'd',
        };
        body[2..10].copy_from_slice(&self.until.0.to_be_bytes());
        body[10..].copy_from_slice(&self.random);
        body
    }

    fn of_body(body: &[u8; BODY]) -> Option<Self> {
        let flow = match (body[0], body[1]) {
            (VERSION, b'c') => Flow::Code,
            (VERSION, b'd') => Flow::Device,
            _ => return None,
        };
        let (until, random) = (body[2..10].try_into().ok()?, body[10..].try_into().ok()?);
        Some(Self { flow, until: Timestamp(u64::from_be_bytes(until)), random })
    }
}

/// A ticket as it travels: `agkt_`, what it says, the backend's keyed hash, and a checksum.
pub struct SignInTicket {
    text: Zeroizing<String>,
    says: Ticket,
    mac: [u8; MAC],
}

impl SignInTicket {
    /// The ticket that says this, under the keyed hash of the backend that makes it.
    pub fn new(says: Ticket, mac: impl FnOnce(&[u8]) -> [u8; MAC]) -> Self {
        let body = says.body();
        let mac = mac(&body);
        Self { text: render(&body, &mac), says, mac }
    }

    /// Reads a ticket. Whose it is, only the keyed hash tells.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let wrong = Malformed::new("ticket", "is not one of ours, or was cut short");
        let parts = || {
            let hex = text.strip_prefix(PREFIX)?;
            let (body, rest) = hex.split_at_checked(BODY * 2)?;
            let (mac, _) = rest.split_at_checked(MAC * 2)?;
            Some((from_hex::<BODY>(body)?, from_hex::<MAC>(mac)?))
        };
        let (body, mac) = parts().ok_or(wrong.clone())?;
        let rendered = render(&body, &mac);
        let says = Ticket::of_body(&body).filter(|_| *rendered == text).ok_or(wrong)?;
        Ok(Self { text: rendered, says, mac })
    }

    /// The one way out: into an answer or a request.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What it says, to be believed only once the keyed hash was compared.
    pub fn says(&self) -> &Ticket {
        &self.says
    }

    /// The bytes that the keyed hash covers.
    pub fn covered(&self) -> [u8; BODY] {
        self.says.body()
    }

    /// The keyed hash that it carries.
    pub fn mac(&self) -> &[u8; MAC] {
        &self.mac
    }

    /// The nonce that the ID token has to carry.
    pub fn nonce(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.text.as_bytes()))
    }
}

fn render(body: &[u8; BODY], mac: &[u8; MAC]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * (BODY + MAC) + 8));
    text.push_str(PREFIX);
    text.push_str(&to_hex(body));
    text.push_str(&Zeroizing::new(to_hex(mac)));
    let checksum = digest(&SHA256, text.as_bytes());
    text.push_str(&to_hex(&checksum.as_ref()[..4]));
    text
}

/// What a client begins a sign-in with.
pub struct SignInStart {
    /// The issuer, as its discovery document names itself.
    pub issuer: String,
    /// By what name the issuer knows this backend's clients.
    pub client_id: String,
    /// What some issuers want from installed programs beside; it is handed to everybody who
    /// asks, and is no secret.
    pub client_secret: Option<String>,
    /// See [`SCOPE`].
    pub scope: String,
    /// The nonce that the ID token has to carry.
    pub nonce: String,
    /// What goes back with the ID token.
    pub ticket: SignInTicket,
    /// How long the ticket holds, in seconds.
    pub expires_in: u64,
}

/// Where an issuer's discovery document is.
pub fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// Says that a backend knows its people by other proofs than an issuer's.
pub fn no_issuer() -> Problem {
    Problem::new(
        Code::NotFound,
        "this backend names no issuer to sign in by",
        "it was started without --oidc-issuer",
        "start it with agentkeys serve --oidc-issuer URL --oidc-client-id ID (docs/sign-in.md), \
         or sign in over its Unix socket",
    )
}

/// What a sign-in by an issuer told beside the session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SignInNews {
    /// The e-mail address that the issuer has verified: a label, by which nobody is known.
    pub email: Option<String>,
    /// Whether the backend had no owner, and belongs to this account from now on.
    pub owns_now: bool,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Device => "device",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> SignInTicket {
        let says = Ticket { flow: Flow::Device, until: Timestamp(TICKET_MS + 7), random: [9; 16] };
        SignInTicket::new(says, |body| {
            assert_eq!(body.len(), BODY);
            [3; 16]
        })
    }

    #[test]
    fn a_ticket_reads_back_and_a_changed_one_does_not() {
        let ticket = ticket();
        let read = SignInTicket::parse(ticket.expose()).unwrap();
        assert_eq!((read.says(), read.mac()), (ticket.says(), &[3; 16]));
        assert_eq!(read.says().made_at(), Timestamp(7));
        assert_eq!(read.nonce(), ticket.nonce());
        for at in 0..ticket.expose().len() {
            let mut bytes = ticket.expose().as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let text = std::str::from_utf8(&bytes).unwrap();
            assert!(SignInTicket::parse(text).is_err(), "at {at}");
        }
        for bad in ["", "agkt_", "agkt_é", &ticket.expose().to_uppercase()] {
            assert!(SignInTicket::parse(bad).is_err());
        }
        assert!(SignInTicket::parse(&format!("{}0", ticket.expose())).is_err());
    }

    #[test]
    fn every_bit_of_a_ticket_changes_its_nonce() {
        let nonce = |flow, until, random| {
            let says = Ticket { flow, until: Timestamp(until), random: [random; 16] };
            SignInTicket::new(says, |_| [0; 16]).nonce()
        };
        let one = nonce(Flow::Code, 1, 1);
        assert_eq!(one.len(), 43);
        for other in [nonce(Flow::Device, 1, 1), nonce(Flow::Code, 2, 1), nonce(Flow::Code, 1, 2)] {
            assert_ne!(one, other);
        }
    }
}
