//! The name or address of another machine, as one writes it in a URL.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// A host: a DNS name in lower case, or an IP address. Whatever a resolver would take for a
/// number in another notation (`127.1`, `0x7f000001`) is neither.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An address; in a URL, one of version 6 stands in brackets.
    Ip(IpAddr),
}

impl Host {
    /// Whether it is this machine whatever the resolver says: `localhost`, `127.0.0.0/8`, `[::1]`.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Ip(ip) => ip.is_loopback(),
        }
    }

    /// The addresses that it has without asking a resolver.
    pub fn known(&self) -> Option<Vec<IpAddr>> {
        match self {
            Self::Name(_) if self.is_loopback() => {
                Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
            }
            Self::Name(_) => None,
            Self::Ip(ip) => Some(vec![*ip]),
        }
    }

    /// What its certificate has to be for.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Name(name) => ServerName::try_from(name.clone()).ok(),
            Self::Ip(ip) => Some(ServerName::from(*ip)),
        }
    }
}

impl FromStr for Host {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(inner) = text.strip_prefix('[') {
            let ip: Ipv6Addr = inner.strip_suffix(']').and_then(|ip| ip.parse().ok()).ok_or(())?;
            return Ok(Self::Ip(ip.into()));
        }
        match ServerName::try_from(text) {
            Ok(ServerName::DnsName(name)) if numberless(text) => {
                let name = name.as_ref().to_ascii_lowercase();
                // The same name with and without the final dot would be two.
                Ok(Self::Name(name.strip_suffix('.').unwrap_or(&name).to_owned()))
            }
            Ok(ServerName::IpAddress(_)) => {
                text.parse::<Ipv4Addr>().map(|ip| Self::Ip(ip.into())).map_err(|_| ())
            }
            _ => Err(()),
        }
    }
}

/// Whether no resolver takes the name for an address: its last label is not a number.
fn numberless(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let digits = last.bytes().all(|c| c.is_ascii_digit());
    let hex = last.strip_prefix("0x").is_some_and(|d| d.bytes().all(|c| c.is_ascii_hexdigit()));
    !digits && !hex
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_hosts() {
        for (text, shown) in [
            ("Keys.Example.ORG", "keys.example.org"),
            ("keys.example.org.", "keys.example.org"),
            ("a_b.example", "a_b.example"),
            ("localhost", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_a_resolver_would_take_for_a_number_is_no_host() {
        for bad in [
            "",
            ".",
            "127.1",
            "2130706433",
            "0x7f000001",
            "127.0.0.0x1",
            "1.2.3.4.",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "[::1%25lo]",
            "a b",
            "a/b",
            "user@a",
            "a..b",
            "-a.org",
            "\u{e9}.org",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_needs_no_resolver_is_loopback() {
        let loopback = |text: &str| text.parse::<Host>().unwrap().is_loopback();
        assert!(["localhost", "LOCALHOST.", "127.8.9.1", "[::1]"].into_iter().all(loopback));
        let others = ["localhost.evil.org", "10.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"];
        assert!(!others.into_iter().any(loopback));
    }
}
