//! The service catalog: for each well-known service its environment variables, its hosts, how
//! the key is sent, and what a key looks like. The facts stand in `catalog.json`, nothing else
//! does.
//!
//! Must never hold a rule of access: a service that is not in it is as good as one that is.
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::budget::Price;
use super::identity::ServiceName;
use super::payment::Amount;
use super::rule::Rule;

/// One service.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name in this program, such as `openrouter`.
    pub name: ServiceName,
    /// Its name for people, such as `OpenRouter`.
    pub title: String,
    /// The environment variables that its programs read; the first is the one that is set.
    pub variables: Vec<String>,
    /// Hosts of its interface, without a scheme; `*.example.org` stands for all below that name.
    pub hosts: Vec<String>,
    /// The variables by which its programs are told another place for its interface, and the path
    /// that is theirs of it.
    #[serde(default)]
    pub bases: BTreeMap<String, String>,
    /// How the key travels in a request.
    pub sent: Sent,
    /// The user whose password it is in git's own requests, where those want it otherwise.
    #[serde(default)]
    pub git: Option<String>,
    /// Endpoints that make or show keys, which no request reaches unless a rule of the credential
    /// names it.
    #[serde(default)]
    pub guarded: Vec<Rule>,
    /// What a key looks like; absent where nobody promises anything.
    #[serde(default)]
    pub key: Option<KeyShape>,
    /// Where a key is a JSON object: its members, and the variables that each of them goes into.
    #[serde(default)]
    pub members: BTreeMap<String, String>,
    /// What its models are charged at; the one that is called `*` stands for those that are not
    /// known. Empty: nothing is counted, unless its master names a price.
    #[serde(default)]
    pub prices: Vec<ModelPrice>,
    /// What its own interface wants to make keys; absent where none is known.
    #[serde(default)]
    pub makes: Option<Makes>,
}

/// What a model is charged at, in millionths of a US dollar for a million tokens: the list price, as its
/// service's own page had it when this was written.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Its name.
    pub model: String,
    /// Sent.
    pub input: Amount,
    /// Answered.
    pub output: Amount,
    /// Sent, where the service had it before.
    #[serde(default)]
    pub cached: Option<Amount>,
}

impl ModelPrice {
    /// The price.
    pub const fn price(&self) -> Price {
        Price { input: self.input, output: self.output, cached: self.cached, request: 0 }
    }
}

/// What a service's own interface wants to make keys.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Makes {
    /// What the account's own secret there is.
    pub secret: String,
    /// The page that one is got from, without a scheme.
    pub from: String,
    /// What can be set.
    pub settings: Vec<Setting>,
}

/// Something that can be set.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// What it is, on one line.
    pub about: String,
    /// Whether there is no key without it.
    #[serde(default)]
    pub required: bool,
}

/// How a key travels in a request. `{}` stands for the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sent {
    /// In a header.
    Header {
        /// The header's name.
        name: String,
        /// Its value, with `{}` in it.
        value: String,
    },
    /// As a parameter of the query.
    Query {
        /// The parameter's name.
        name: String,
    },
    /// Inside the path.
    Path {
        /// The beginning of the path, with `{}` in it.
        begin: String,
    },
    /// As HTTP Basic authentication, with the key as the password.
    Basic {
        /// The user's name; absent where it differs by account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// Not at all: the request is signed with it, by the scheme of this name.
    Signed(String),
}

/// What a key looks like: how it begins and how long it is.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyShape {
    /// A key begins with one of these.
    pub prefixes: Vec<String>,
    /// The same in words, to end the sentence "a key of this service ...".
    pub looks: String,
    /// Least length in bytes.
    #[serde(default)]
    pub min: Option<usize>,
    /// Greatest length in bytes.
    #[serde(default)]
    pub max: Option<usize>,
}

impl Sent {
    /// What a service that is in no catalog is taken to want.
    pub fn bearer() -> Self {
        Self::Header { name: "Authorization".to_owned(), value: "Bearer {}".to_owned() }
    }
}

impl Service {
    /// How the key travels in a request to that path and query.
    pub fn sent_to(&self, target: &str) -> Sent {
        match &self.git {
            Some(user) if is_git(target) => Sent::Basic { user: Some(user.clone()) },
            _ => self.sent.clone(),
        }
    }
}

/// Whether a request is one of git's (gitprotocol-http(5)) or of its large file storage.
fn is_git(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let ends = ["/info/refs", "/git-upload-pack", "/git-receive-pack"];
    ends.iter().any(|end| path.ends_with(end)) || path.contains("/info/lfs/")
}

static CATALOG: LazyLock<Vec<Service>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("catalog.json")).expect("a test parses the same text")
});

/// Every service, in the order of the file.
pub fn all() -> &'static [Service] {
    &CATALOG
}

/// The service of that name.
pub fn find(service: &ServiceName) -> Option<&'static Service> {
    CATALOG.iter().find(|entry| entry.name == *service)
}

/// What the names end with that `*.example.org` stands for: `.example.org`. `None` for one host.
pub fn ending(host: &str) -> Option<&str> {
    host.strip_prefix('*').filter(|ending| ending.starts_with('.'))
}

/// Whether a name in lower case, such as `a.example.org`, is one that `*.example.org` stands for.
pub fn is_below(name: &str, host: &str) -> bool {
    ending(host).is_some_and(|ending| {
        name.strip_suffix(ending).is_some_and(|rest| !rest.is_empty() && !rest.ends_with('.'))
    })
}

/// The variables by which programs are told where a service is, each with the path that they want
/// behind the host: the catalog's, or for other services one named as its key's is, ending in
/// `_BASE_URL`.
pub fn bases_for(service: &ServiceName) -> Vec<(String, String)> {
    let known = find(service).filter(|entry| !entry.bases.is_empty());
    if let Some(entry) = known {
        return entry.bases.iter().map(|(name, path)| (name.clone(), path.clone())).collect();
    }
    let variable = variable_for(service);
    let endings = ["_API_KEY", "_API_TOKEN", "_TOKEN", "_KEY"];
    let stem = endings.iter().find_map(|ending| variable.strip_suffix(ending));
    vec![(format!("{}_BASE_URL", stem.unwrap_or(&variable)), String::new())]
}

/// The environment variable that programs expect: the catalog's, or for other services the name
/// in upper case, with an underscore for what a variable cannot hold, and `_API_KEY`.
pub fn variable_for(service: &ServiceName) -> String {
    if let Some(entry) = find(service) {
        return entry.variables[0].clone();
    }
    let mut name = String::with_capacity(service.as_str().len() + 9);
    // A variable may not begin with a digit; a service may.
    if service.as_str().starts_with(|c: char| c.is_ascii_digit()) {
        name.push('_');
    }
    name.extend(
        service
            .as_str()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }),
    );
    name.push_str("_API_KEY");
    name
}

/// The environment variables that programs read a key from, the usual one first; of a key of
/// several parts, those of its parts.
pub fn variables_of(service: &ServiceName) -> Vec<String> {
    match find(service) {
        Some(entry) if !entry.members.is_empty() => entry.members.values().cloned().collect(),
        Some(entry) => entry.variables.clone(),
        None => vec![variable_for(service)],
    }
}

/// Whether `name` is a variable that a shell can set.
pub fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && name.len() <= 128
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// Says how a key of `service` looks when `key` does not look so; `None` when it does, or when
/// nothing is known.
pub fn looks_wrong(service: &ServiceName, key: &[u8]) -> Option<&'static str> {
    let shape = find(service)?.key.as_ref()?;
    let begins = shape.prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()));
    let long_enough = shape.min.is_none_or(|min| key.len() >= min);
    let short_enough = shape.max.is_none_or(|max| key.len() <= max);
    if begins && long_enough && short_enough { None } else { Some(&shape.looks) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[test]
    fn the_catalog_parses_and_names_nothing_twice() {
        let mut names = HashSet::new();
        assert!(all().len() >= 40, "{} services", all().len());
        for entry in all() {
            assert!(names.insert(entry.name.as_str()), "{} twice", entry.name);
            assert!(!entry.title.is_empty(), "{}", entry.name);
        }
    }

    #[test]
    fn two_services_never_share_the_variable_that_is_set() {
        let mut main = HashSet::new();
        for entry in all() {
            assert!(main.insert(&entry.variables[0]), "{} of {}", entry.variables[0], entry.name);
        }
    }

    #[test]
    fn every_entry_is_usable_as_it_stands() {
        for entry in all() {
            for variable in &entry.variables {
                assert!(is_variable(variable), "{variable}");
                assert!(!variable.starts_with("AGENTKEYS_"), "{variable} is ours");
            }
            assert!(!entry.hosts.is_empty(), "{}", entry.name);
            for host in &entry.hosts {
                let host = ending(host).map_or(host.as_str(), |ending| &ending[1..]);
                assert!(
                    host.contains('.')
                        && host.bytes().all(|c| c.is_ascii_lowercase()
                            || c.is_ascii_digit()
                            || b".-".contains(&c)),
                    "{host}"
                );
            }
            match &entry.sent {
                Sent::Header { name, value } => {
                    assert!(name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'));
                    assert_eq!(value.matches("{}").count(), 1, "{}", entry.name);
                }
                Sent::Query { name } => assert!(!name.is_empty()),
                Sent::Path { begin } => {
                    assert!(begin.starts_with('/') && begin.matches("{}").count() == 1);
                }
                Sent::Basic { .. } => {}
                Sent::Signed(scheme) => assert!(!scheme.is_empty()),
            }
            for (member, variable) in &entry.members {
                assert!(is_variable(variable) && !member.is_empty(), "{member}: {variable}");
            }
            for setting in entry.makes.iter().flat_map(|makes| &makes.settings) {
                let fits = |c: u8| c.is_ascii_lowercase() || c == b'_';
                assert!(setting.name.bytes().all(fits) && setting.name != "url");
                assert!(!setting.about.is_empty(), "{}", setting.name);
            }
            if let Some(shape) = &entry.key {
                assert!(!shape.prefixes.is_empty() && !shape.looks.is_empty(), "{}", entry.name);
                assert!(shape.prefixes.iter().all(|prefix| prefix.len() >= 2), "{}", entry.name);
            }
        }
    }

    #[test]
    fn services_map_to_what_programs_expect() {
        for (name, variable) in [
            ("openrouter", "OPENROUTER_API_KEY"),
            ("OpenRouter", "OPENROUTER_API_KEY"),
            ("github", "GITHUB_TOKEN"),
            ("brave", "BRAVE_API_KEY"),
            ("notion", "NOTION_API_KEY"),
            ("my-own.thing", "MY_OWN_THING_API_KEY"),
            ("2captcha", "_2CAPTCHA_API_KEY"),
        ] {
            assert_eq!(variable_for(&service(name)), variable);
            assert!(is_variable(variable));
        }
    }

    #[test]
    fn gits_own_requests_carry_the_key_as_a_password() {
        let github = find(&service("github")).unwrap();
        let basic = Sent::Basic { user: Some("x-access-token".to_owned()) };
        for target in [
            "/a/b.git/info/refs?service=git-upload-pack",
            "/a/b/git-upload-pack",
            "/a/b.git/git-receive-pack",
            "/a/b.git/info/lfs/objects/batch",
        ] {
            assert_eq!(github.sent_to(target), basic, "{target}");
        }
        for target in ["/user", "/repos/a/b?x=/info/refs", "/a/b/git-upload-packs"] {
            assert_eq!(github.sent_to(target), github.sent, "{target}");
        }
        let openai = find(&service("openai")).unwrap();
        assert_eq!(openai.sent_to("/a/b/info/refs"), openai.sent);
    }

    #[test]
    fn a_star_stands_for_what_is_below_a_name_and_nothing_else() {
        let all = "*.amazonaws.com";
        for name in ["sts.amazonaws.com", "b.s3.eu-central-1.amazonaws.com"] {
            assert!(is_below(name, all), "{name}");
        }
        for name in [
            "amazonaws.com",
            ".amazonaws.com",
            "xamazonaws.com",
            "a.amazonaws.com.evil.example",
            "",
        ] {
            assert!(!is_below(name, all), "{name}");
        }
        assert!(!is_below("a.example.org", "example.org"));
        assert!(!is_below("a.example.org", "*example.org"));
    }

    #[test]
    fn a_key_of_another_service_looks_wrong() {
        assert!(looks_wrong(&service("openrouter"), b"ghp_0123456789").is_some());
        assert!(looks_wrong(&service("openrouter"), b"").is_some());
        assert_eq!(looks_wrong(&service("openrouter"), b"sk-or-v1-test"), None);
        assert_eq!(looks_wrong(&service("github"), b"github_pat_11AA"), None);
        assert_eq!(looks_wrong(&service("unheard-of"), b"anything"), None);
    }

    #[test]
    fn what_a_shell_cannot_set_is_no_variable() {
        for bad in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\0"] {
            assert!(!is_variable(bad), "{bad:?}");
        }
        assert!(is_variable("_A1"));
    }
}
