//! Where a request to a service goes, and how the key travels there: what the catalog says, and
//! what the backend's operator said (`serve --service`), which goes before it.
//!
//! Must never lead to a host that neither of them names.
use std::collections::{BTreeMap, BTreeSet};

use super::oauth::Source;
use crate::core::catalog::{self, Sent};
use crate::core::gateway::{ServicePlace, is_hop_by_hop};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::web::{Host, Url, url};

/// The scheme's own port.
const HTTPS: u16 = 443;
/// Headers that the gateway writes itself, or that say how long a request is.
const NO_PLACE_FOR_A_KEY: [&str; 6] =
    ["host", "content-length", "content-type", "expect", "accept-encoding", "cookie"];

/// A service that the operator named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    url: Url,
    /// How its key travels; absent: as the catalog says, or as a bearer token.
    sent: Option<Sent>,
    /// Where its access tokens are got, if it is asked with such.
    oauth: Option<Source>,
}

/// Where one request goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host, and port unless that is 443.
    pub authority: String,
    /// The host that the program asked and that the request is for, where it is sent to another: the
    /// one that the operator named for all that are below a name.
    pub host: Option<String>,
    /// How the key travels.
    pub sent: Sent,
    /// Where the access token is got that stands for the key.
    pub oauth: Option<Source>,
}

impl Own {
    /// Reads `https://HOST[:PORT]`, and behind a comma how the key travels.
    ///
    /// # Errors
    /// What is wrong, in words; nothing of the text is in them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (url, how) = match text.split_once(',') {
            Some((url, how)) => (url, Some(how)),
            None => (text, None),
        };
        let url: Url = url.parse().map_err(|wrong: url::UrlError| wrong.to_string())?;
        if !url.tls || url.target != "/" {
            return Err(
                "it wants NAME=https://HOST[:PORT], without a path: a key is sent over TLS \
                        alone"
                    .to_owned(),
            );
        }
        if let Some(source) = how.and_then(|how| how.strip_prefix("oauth=")) {
            let oauth = Some(Source::parse(source)?);
            return Ok(Self { url, sent: Some(Sent::bearer()), oauth });
        }
        Ok(Self { url, sent: how.map(sent).transpose()?, oauth: None })
    }

    /// The same, with the key sent as the catalog says or as a bearer token.
    pub fn at(url: Url) -> Self {
        Self { url, sent: None, oauth: None }
    }
}

/// How a key travels, in the words of the option.
fn sent(how: &str) -> Result<Sent, String> {
    let (kind, value) = match how.split_once('=') {
        Some((kind, value)) => (kind, Some(value)),
        None => (how, None),
    };
    match (kind, value) {
        ("bearer", None) => Ok(Sent::bearer()),
        ("basic", None) => Ok(Sent::Basic { user: None }),
        ("basic", Some(user)) if is_plain(user) && !user.contains(':') => {
            Ok(Sent::Basic { user: Some(user.to_owned()) })
        }
        ("basic", Some(_)) => Err("basic= wants a user's name, without a colon".to_owned()),
        ("header", Some(header)) => {
            let (name, value) = header.split_once(':').unwrap_or((header, "{}"));
            let (name, value) = (name.trim(), value.trim());
            let is_name = !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
            let lower = name.to_ascii_lowercase();
            if !is_name || is_hop_by_hop(&lower) || NO_PLACE_FOR_A_KEY.contains(&&*lower) {
                return Err("header= wants the name of a header that a key can go into".to_owned());
            }
            if value.matches("{}").count() != 1 || !is_plain(value) {
                return Err(
                    "header=NAME: VALUE wants {} once in VALUE, where the key goes".to_owned()
                );
            }
            Ok(Sent::Header { name: name.to_owned(), value: value.to_owned() })
        }
        ("query", Some(name))
            if !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.~".contains(&c)) =>
        {
            Ok(Sent::Query { name: name.to_owned() })
        }
        ("query", Some(_)) => Err("query= wants the name of a parameter".to_owned()),
        ("path", Some(begin))
            if begin.starts_with('/')
                && !begin.contains("//")
                && begin.matches("{}").count() == 1
                && begin
                    .replace("{}", "")
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"/-_.~:".contains(&c)) =>
        {
            Ok(Sent::Path { begin: begin.to_owned() })
        }
        ("path", Some(_)) => {
            Err("path= wants how paths begin, with {} where the key goes: path=/bot{}".to_owned())
        }
        _ => Err("behind the comma stands how the key is sent: bearer, basic, basic=USER, \
                  header=NAME, header=NAME: VALUE, query=NAME, path=/BEGIN{} or oauth=TOKEN-URL"
            .to_owned()),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c == b' ' || c.is_ascii_graphic())
}

/// Where services are.
pub struct Destinations(BTreeMap<ServiceName, Own>);

impl Destinations {
    /// The catalog's, and before them the operator's.
    pub fn new(own: BTreeMap<ServiceName, Own>) -> Self {
        Self(own)
    }

    /// Hosts that the operator named, each with its port.
    pub fn named(&self) -> BTreeSet<String> {
        self.0.values().map(|own| format!("{}:{}", own.url.host, own.url.port)).collect()
    }

    /// Where a request to `service` goes, to that path and query. `host` is the one of its hosts that
    /// the program asked; what the operator named stands for each of them.
    ///
    /// # Errors
    /// `INVALID` for a service that nobody knows the place of, `DENIED` for a host that is not one of
    /// the service's.
    pub fn find(
        &self,
        service: &ServiceName,
        host: Option<&str>,
        target: &str,
    ) -> Answer<Destination> {
        let known = catalog::find(service);
        let own = self.0.get(service);
        let hosts = known.map_or(&[][..], |entry| &entry.hosts);
        let sent = match (own.and_then(|own| own.sent.clone()), known) {
            (Some(sent), _) => sent,
            (None, Some(entry)) => entry.sent_to(target),
            (None, None) => Sent::bearer(),
        };
        let is_one = |host: &&String| catalog::ending(host).is_none();
        let (asked, below) = match host {
            None => (hosts.iter().find(is_one).cloned(), None),
            Some(host) => {
                let asked = url::split(host).map(|(host, port)| (host, port.unwrap_or(HTTPS)));
                let is_own = own.is_some_and(|own| {
                    asked
                        .as_ref()
                        .is_some_and(|(host, port)| *host == own.url.host && *port == own.url.port)
                });
                let found = hosts.iter().filter(is_one).find(|one| {
                    let named = one.parse::<Host>().ok().map(|host| (host, HTTPS));
                    named.is_some() && named == asked
                });
                let below = match &asked {
                    Some((Host::Name(name), HTTPS)) => {
                        hosts.iter().any(|one| catalog::is_below(name, one)).then(|| name.clone())
                    }
                    _ => None,
                };
                if found.is_none() && below.is_none() && !is_own {
                    return Err(Problem::new(
                        Code::Denied,
                        format!("access denied: that host is not one of {service}'s"),
                        "its key goes to the hosts that the catalog or the backend's operator names",
                        format!("agentkeys serve --service {service}=https://HOST"),
                    ));
                }
                (found.cloned(), below)
            }
        };
        match (own, asked.or_else(|| below.clone())) {
            (Some(own), _) => {
                let oauth = own.oauth.clone();
                Ok(Destination { authority: own.url.authority(), host: below, sent, oauth })
            }
            (None, Some(host)) => {
                Ok(Destination { authority: host, host: None, sent, oauth: None })
            }
            (None, None) if !hosts.is_empty() => Err(Problem::invalid(
                "host",
                format!("{service} has many hosts, and the request names none of them"),
            )),
            (None, None) => Err(Problem::new(
                Code::Invalid,
                format!("the gateway does not know where {service} is"),
                "it is not in the catalog, and this backend's operator gave it no address",
                format!("agentkeys serve --service {service}=https://HOST"),
            )),
        }
    }

    /// What stands beside a program has to know of a service.
    pub fn place(&self, service: &ServiceName) -> ServicePlace {
        let (known, own) = (catalog::find(service), self.0.get(service));
        let mut hosts = known.map_or_else(Vec::new, |entry| entry.hosts.clone());
        if let Some(own) = own {
            let authority = own.url.authority();
            if !hosts.contains(&authority) {
                hosts.push(authority);
            }
        }
        let sent = own.and_then(|own| own.sent.clone());
        let sent = sent.or_else(|| known.map(|entry| entry.sent.clone()));
        let sent = sent.unwrap_or_else(Sent::bearer);
        ServicePlace { service: service.clone(), hosts, sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destinations(own: &[(&str, &str)]) -> Destinations {
        let own = own.iter().map(|(name, at)| (name.parse().unwrap(), Own::parse(at).unwrap()));
        Destinations::new(own.collect())
    }

    fn authority(of: &Destinations, service: &str, host: Option<&str>) -> Answer<String> {
        of.find(&service.parse().unwrap(), host, "/").map(|found| found.authority)
    }

    #[test]
    fn a_host_is_one_of_the_services_however_it_is_written_and_no_other() {
        let all = destinations(&[]);
        assert_eq!(authority(&all, "github", None).unwrap(), "api.github.com");
        for (host, goes) in [
            ("github.com", "github.com"),
            ("GitHub.com.", "github.com"),
            ("api.github.com:443", "api.github.com"),
        ] {
            assert_eq!(authority(&all, "github", Some(host)).unwrap(), goes);
        }
        for host in [
            "",
            "api.openai.com",
            "github.com:8443",
            "evil.github.com",
            "github.com.evil.example",
            "x@github.com",
            "github.com/",
            "127.0.0.1",
        ] {
            assert_eq!(authority(&all, "github", Some(host)).unwrap_err().code, Code::Denied);
        }
        assert_eq!(authority(&all, "mine", None).unwrap_err().code, Code::Invalid);
        assert_eq!(authority(&all, "mine", Some("a.example")).unwrap_err().code, Code::Denied);
    }

    #[test]
    fn below_a_name_it_is_the_host_that_was_asked() {
        let all = destinations(&[]);
        let host = "b.s3.eu-central-1.amazonaws.com";
        assert_eq!(authority(&all, "aws", Some(host)).unwrap(), host);
        assert_eq!(authority(&all, "aws", None).unwrap_err().code, Code::Invalid);
        for wrong in ["amazonaws.com", "sts.amazonaws.com:8443", "sts.amazonaws.com.evil.example"] {
            assert_eq!(authority(&all, "aws", Some(wrong)).unwrap_err().code, Code::Denied);
        }
        let own = destinations(&[("aws", "https://aws.example:8443")]);
        let found = own.find(&"aws".parse().unwrap(), Some("STS.amazonaws.com"), "/").unwrap();
        assert_eq!(found.authority, "aws.example:8443");
        assert_eq!(found.host.as_deref(), Some("sts.amazonaws.com"));
        let found = own.find(&"aws".parse().unwrap(), Some("aws.example:8443"), "/").unwrap();
        assert_eq!(found.host, None);
    }

    #[test]
    fn what_the_operator_named_stands_for_every_host_of_the_service() {
        let all = destinations(&[
            ("github", "https://ghe.example.org:8443"),
            ("mine", "https://a.example,header=X-Own"),
        ]);
        for host in [None, Some("github.com"), Some("ghe.example.org:8443")] {
            assert_eq!(authority(&all, "github", host).unwrap(), "ghe.example.org:8443");
        }
        assert!(authority(&all, "github", Some("ghe.example.org")).is_err());
        assert_eq!(all.named().len(), 2);
        let github = all.place(&"github".parse().unwrap());
        assert_eq!(github.hosts, ["api.github.com", "github.com", "ghe.example.org:8443"]);
        let mine = all.place(&"mine".parse().unwrap());
        assert_eq!(mine.hosts, ["a.example"]);
        assert_eq!(mine.sent, Sent::Header { name: "X-Own".into(), value: "{}".into() });
        assert!(all.place(&"nobodys".parse().unwrap()).hosts.is_empty());
    }

    #[test]
    fn the_operator_says_how_a_key_is_sent() {
        let read = |how: &str| Own::parse(&format!("https://a.example{how}")).map(|own| own.sent);
        let header = |name: &str, value: &str| Sent::Header {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        for (how, sent) in [
            (",bearer", Sent::bearer()),
            (",header=X-Api-Key", header("X-Api-Key", "{}")),
            (",header=Authorization: Token token={}", header("Authorization", "Token token={}")),
            (",basic", Sent::Basic { user: None }),
            (",basic=git", Sent::Basic { user: Some("git".into()) }),
            (",query=api_key", Sent::Query { name: "api_key".into() }),
            (",path=/bot{}", Sent::Path { begin: "/bot{}".into() }),
        ] {
            assert_eq!(read(how), Ok(Some(sent)), "{how}");
        }
        assert_eq!(read(""), Ok(None));
        let oauth =
            Own::parse("https://a.example,oauth=https://b.example/token?a=b,c read").unwrap();
        assert_eq!(oauth.sent, Some(Sent::bearer()));
        assert!(oauth.oauth.is_some());
        for wrong in [
            ",oauth",
            ",oauth=",
            ",oauth=http://127.0.0.1/token",
            ",",
            ",x",
            ",bearer=x",
            ",header",
            ",header=",
            ",header=Host",
            ",header=Transfer-Encoding",
            ",header=X Y",
            ",header=X: y",
            ",header=X: {}{}",
            ",header=X: {}\r\ny",
            ",basic=",
            ",basic=a:b",
            ",query=",
            ",query=a&b",
            ",path=bot{}",
            ",path=/bot",
            ",path=//{}",
            ",path=/{}?x",
            "/v1,bearer",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(Own::parse("http://127.0.0.1").is_err());
    }
}
