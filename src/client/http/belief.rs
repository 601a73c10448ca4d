//! A server that was not believed, as a problem that says what was seen. Nothing but the
//! handshake was sent to it, and nothing else will be: there is no way around but another
//! address.
use std::io;

use super::Address;
use super::connect::Failed;
use crate::core::problem::{Code, Problem};
use crate::core::types::Timestamp;
use crate::web::handshake::{Refused, Why};
use crate::web::{Certificate, TrustError};

const CERTIFICATE: &str = "docs/errors.md#certificate";

/// What a refusal means for the call: the end of it, or another try where the connection broke.
pub fn failed(address: &Address, refused: Refused, now: Timestamp) -> Failed {
    if let Why::Ended(why) = &refused.why {
        return Failed::Refused(io::Error::other(format!("{why} in the TLS handshake")));
    }
    Failed::Final(problem(address, &refused, now))
}

/// Certificates cannot be checked at all.
pub fn no_trust(address: &Address, error: &TrustError) -> Problem {
    let mut problem = Problem::new(
        Code::Unavailable,
        format!("the certificate of {} cannot be checked", address.origin()),
        format!("{error}; nothing was sent"),
        "install the package ca-certificates, or name a file of roots in SSL_CERT_FILE\n\
         or pin the backend's certificate: https://HOST#sha256:...",
    );
    problem.docs = CERTIFICATE.to_owned();
    problem
}

fn problem(address: &Address, refused: &Refused, now: Timestamp) -> Problem {
    let origin = address.origin();
    let host = match address {
        Address::Tls { host, .. } => host.to_string(),
        other => other.to_string(),
    };
    let seen = refused.certificate.as_deref();
    let shown = seen.map_or("one that cannot be read".to_owned(), describe);
    let pin_it = seen.map(|seen| format!("{origin}#{}", seen.pin)).unwrap_or_default();
    let (detail, cause, fix) = match (&refused.why, seen) {
        (Why::UnknownIssuer, Some(seen)) => unknown(&origin, seen, &shown, &pin_it),
        // A certificate of an authority that stands for itself is as unknown as any other.
        (Why::BadCertificate(_), Some(seen)) if seen.self_signed => {
            unknown(&origin, seen, &shown, &pin_it)
        }
        (Why::WrongName, Some(seen)) => (
            format!("the certificate of {origin} is for another name"),
            format!("it is for {}, and not for {host}; it is {shown}", seen.whom()),
            "use a name that the certificate is for, or have the backend's operator get one for \
             this name; if the address is right, somebody may stand between you and the backend"
                .to_owned(),
        ),
        (Why::Expired, Some(seen)) => (
            format!("the certificate of {origin} has expired"),
            format!(
                "it was valid until {}, and this machine's clock says {}; it is {shown}",
                seen.not_after.for_people(),
                now.for_people()
            ),
            "have the backend's operator renew it; if this machine's clock is wrong, set it"
                .to_owned(),
        ),
        (Why::NotYetValid, Some(seen)) => (
            format!("the certificate of {origin} is not valid yet"),
            format!(
                "it is valid from {} on, and this machine's clock says {}; it is {shown}",
                seen.not_before.for_people(),
                now.for_people()
            ),
            "if this machine's clock is wrong, set it; else ask the backend's operator".to_owned(),
        ),
        (Why::NotThePinned, _) => (
            format!("{origin} shows another certificate than the pinned one"),
            format!(
                "pinned: {}\ncame: {shown}",
                match address {
                    Address::Tls { pin: Some(pin), .. } => pin.to_string(),
                    _ => "none".to_owned(),
                },
            ),
            format!(
                "ask whoever runs the backend, by another way than this connection, whether it \
                 has a new certificate; only if it has this one:\n\
                 export AGENTKEYS_BACKEND={pin_it}\n\
                 (or --backend with that address, if you use it)\n\
                 if it has not, somebody stands between you and the backend: do not go on"
            ),
        ),
        (Why::NotTls, _) => (
            format!("{origin} does not speak TLS"),
            "what listens there answered in plain text".to_owned(),
            "correct the port, or have the backend started with --tls-cert or --tls-self-signed; \
             plain HTTP never leaves this machine"
                .to_owned(),
        ),
        (Why::Failed(why), _) => (
            format!("no TLS connection to {origin} came about"),
            why.clone(),
            "see what listens at that address: agentkeys doctor".to_owned(),
        ),
        (why @ Why::NoProtocol, _) => (
            format!("no TLS connection to {origin} came about"),
            why.to_string(),
            "see what listens at that address: agentkeys doctor".to_owned(),
        ),
        (why, _) => (
            format!("the certificate of {origin} was refused"),
            format!("{why}; it is {shown}"),
            "ask whoever runs the backend; if the address is right, somebody may stand between \
             you and it"
                .to_owned(),
        ),
    };
    let code = match refused.why {
        Why::Failed(_) | Why::NoProtocol => Code::Unavailable,
        _ => Code::Denied,
    };
    let mut problem = Problem::new(code, detail, format!("{cause}; nothing was sent"), fix);
    problem.docs = CERTIFICATE.to_owned();
    problem.title = "certificate refused".to_owned();
    problem
}

fn unknown(
    origin: &str,
    seen: &Certificate,
    shown: &str,
    pin_it: &str,
) -> (String, String, String) {
    let who = if seen.self_signed { "itself alone" } else { "nobody whom this machine trusts" };
    (
        format!("the certificate of {origin} is not one that this machine trusts"),
        format!("it was signed by {who}; it is {shown}"),
        format!(
            "compare its fingerprint with the one that the backend printed when it started; only \
             if they are the same:\n\
             export AGENTKEYS_BACKEND={pin_it}\n\
             (or --backend with that address, if you use it)\n\
             or, if an authority of your own signs for it, name its root in SSL_CERT_FILE"
        ),
    )
}

/// A certificate in one line.
fn describe(seen: &Certificate) -> String {
    format!(
        "{}, for {}, signed by {}, valid from {} to {}",
        seen.pin,
        seen.whom(),
        seen.signer(),
        seen.not_before.for_people(),
        seen.not_after.for_people()
    )
}
