//! Texts that strangers send: what is read is shown as a text that reads as the same.
#![no_main]
use std::fmt::Display;
use std::str::FromStr;

use agentkeys::client::http::Address;
use agentkeys::core::claim::{Claim, PlainPath, PlainWord, Reason};
use agentkeys::core::encoding::{from_base64, to_base64};
use agentkeys::core::identity::{AgentIdentity, Alias, Email, Ens, ServiceName};
use agentkeys::core::otp::{Otp, PairCode};
use agentkeys::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use agentkeys::core::types::{Hash32, Timestamp, WalletAddress};
use agentkeys::web::{Certificate, CertificatePin, Host, Url};
use libfuzzer_sys::fuzz_target;

fn reads_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        let again = shown.parse::<T>().ok().expect("what is shown is read");
        assert!(again == value && again.to_string() == shown);
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(certificate) = Certificate::read(&bytes.into()) {
        assert!(!certificate.whom().contains(char::is_control));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    reads_back::<Address>(text);
    reads_back::<CertificatePin>(text);
    if let Ok(host) = text.parse::<Host>() {
        assert!(host.to_string().parse() == Ok(host));
    }
    if let Ok(url) = text.parse::<Url>() {
        assert!(url.tls || url.host.is_loopback());
    }
    reads_back::<PairCode>(text);
    reads_back::<Otp>(text);
    reads_back::<AgentIdentity>(text);
    reads_back::<Alias>(text);
    reads_back::<Email>(text);
    reads_back::<Ens>(text);
    reads_back::<ServiceName>(text);
    reads_back::<Claim>(text);
    reads_back::<Reason>(text);
    reads_back::<PlainWord>(text);
    reads_back::<PlainPath>(text);
    reads_back::<WalletAddress>(text);
    reads_back::<Hash32>(text);
    reads_back::<Timestamp>(text);
    if let Ok(token) = SessionToken::parse(text) {
        assert_eq!(token.expose(), text);
    }
    let _ = (OpenToken::parse(text), RegistrationToken::parse(text), RenewalSecret::parse(text));
    if let Ok(bytes) = from_base64("x", text) {
        assert_eq!(to_base64(&bytes), text);
    }
});
