//! What a certificate says, for errors, for doctor, and for the server's check of `Host`.
//!
//! It checks nothing: a certificate that is only read may be anybody's. Its texts are a
//! stranger's, so they are cut short and hold nothing that could play with a terminal.
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::time::ASN1Time;

use super::{CertificatePin, Host};
use crate::core::types::Timestamp;

/// Longest subject or issuer that is shown.
const MOST_TEXT: usize = 128;
/// Most names that are kept.
const MOST_NAMES: usize = 100;

/// What an end-entity certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Whom it is about, as `CN=example.org`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The DNS names that it is for, in lower case; the first label may be `*`.
    pub names: Vec<String>,
    /// The addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Whether it names itself as its issuer.
    pub self_signed: bool,
    /// Its fingerprint.
    pub pin: CertificatePin,
}

impl Certificate {
    /// Reads a certificate; `None` for bytes that are none.
    pub fn read(der: &CertificateDer) -> Option<Self> {
        let (rest, read) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let mut names = Vec::new();
        let mut addresses = Vec::new();
        let alternative = read.subject_alternative_name().ok()?;
        let general = alternative.iter().flat_map(|names| &names.value.general_names);
        for name in general.take(MOST_NAMES) {
            match name {
                GeneralName::DNSName(name) => names.push(clean(name).to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(Self {
            subject: text(read.subject()),
            issuer: text(read.issuer()),
            names,
            addresses,
            not_before: moment(read.validity().not_before),
            not_after: moment(read.validity().not_after),
            self_signed: read.subject().as_raw() == read.issuer().as_raw(),
            pin: CertificatePin::of(der),
        })
    }

    /// Whether it is for that host. A `*` stands for exactly one label, the first (RFC 6125,
    /// section 6.4.3).
    pub fn is_for(&self, host: &Host) -> bool {
        match host {
            Host::Ip(ip) => self.addresses.contains(ip),
            Host::Name(host) => self.names.iter().any(|name| match name.strip_prefix("*.") {
                Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
                    !label.is_empty() && rest == parent && parent.contains('.')
                }),
                None => name == host,
            }),
        }
    }

    /// The names and addresses that it is for, or its subject where it has none.
    pub fn whom(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let all: Vec<_> = self.names.iter().cloned().chain(addresses).collect();
        match all.len() {
            0 => self.subject.clone(),
            1..=4 => all.join(", "),
            more => format!("{} and {} more", all[..3].join(", "), more - 3),
        }
    }

    /// Who signed it, in words: `itself`, or the issuer.
    pub fn signer(&self) -> &str {
        if self.self_signed { "itself" } else { &self.issuer }
    }
}

fn text(name: &X509Name) -> String {
    let text = clean(&name.to_string());
    if text.is_empty() { "nobody".to_owned() } else { text }
}

/// A stranger's text, cut short, and with a dot for whatever is not plain to see.
fn clean(text: &str) -> String {
    let plain =
        |c: char| if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '.' };
    let mut clean: String = text.chars().take(MOST_TEXT).map(plain).collect();
    if text.chars().nth(MOST_TEXT).is_some() {
        clean.push_str("...");
    }
    clean
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn moment(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str], subject: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        params.not_before = rcgen::date_time_ymd(2026, 4, 9);
        params.not_after = rcgen::date_time_ymd(2027, 4, 9);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn is_for(names: &[&str], host: &str) -> bool {
        Certificate::read(&certificate(names, "any")).unwrap().is_for(&host.parse().unwrap())
    }

    #[test]
    fn it_says_who_and_when() {
        let der = certificate(&["Example.org", "10.0.0.1", "2001:db8::1"], "keys");
        let read = Certificate::read(&der).unwrap();
        assert_eq!((read.subject.as_str(), read.signer()), ("CN=keys", "itself"));
        assert_eq!(read.whom(), "example.org, 10.0.0.1, 2001:db8::1");
        assert_eq!(read.not_before.to_string(), "2026-04-09T00:00:00.000Z");
        assert_eq!(read.not_after.to_string(), "2027-04-09T00:00:00.000Z");
        assert_eq!(read.pin, CertificatePin::of(&der));
    }

    #[test]
    fn it_is_for_its_names_alone_and_a_star_is_one_label() {
        let names = ["example.org", "*.keys.org", "10.0.0.1"];
        for yes in ["example.org", "EXAMPLE.org.", "a.keys.org", "10.0.0.1"] {
            assert!(is_for(&names, yes), "{yes}");
        }
        for no in ["keys.org", "a.b.keys.org", "a.example.org", "10.0.0.2", "a-keys.org", "org"] {
            assert!(!is_for(&names, no), "{no}");
        }
        assert!(!is_for(&["*.org"], "example.org"));
    }

    #[test]
    fn a_strangers_text_is_short_and_plain() {
        let long = format!("a\u{1b}[2J\u{202e}{}", "b".repeat(500));
        let read = Certificate::read(&certificate(&[], &long)).unwrap();
        assert!(read.subject.starts_with("CN=a.[2J.bbb"), "{}", read.subject);
        assert!(read.subject.chars().count() <= MOST_TEXT + 3);
        assert_eq!(read.whom(), read.subject);
    }

    #[test]
    fn what_is_no_certificate_is_not_read() {
        let der = certificate(&[], "any");
        let longer = CertificateDer::from([der.as_ref(), b"0"].concat());
        assert!(Certificate::read(&longer).is_none());
        assert!(Certificate::read(&CertificateDer::from(der[..der.len() - 1].to_vec())).is_none());
        assert!(Certificate::read(&CertificateDer::from(Vec::new())).is_none());
    }
}
