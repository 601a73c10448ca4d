//! The certificate authority of one run: it signs one certificate for each host that the run's proxy
//! answers for, all of them before the program starts, and its key is wiped then. Hosts that are named
//! by what they end with alone get theirs when they are asked, by an authority below it that may sign
//! for those names and no others.
//!
//! Must never write a key anywhere, or sign for another host than those.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use zeroize::Zeroize;

use crate::core::catalog::is_below;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{Timestamp, to_hex};
use crate::web::{Host, trust};

/// How long its certificates are valid: longer than a run should last.
const DAYS: i64 = 90;
/// Most certificates for hosts below a name that are kept.
const MOST_MADE: usize = 512;

/// What the proxy shows, and what the program is to trust for it.
pub struct Issued {
    /// The authority's certificate.
    pub root: CertificateDer<'static>,
    /// For each host, how TLS is spoken in its name.
    pub servers: BTreeMap<String, Arc<ServerConfig>>,
    /// How it is spoken in the name of hosts that are not known yet.
    pub below: Option<Below>,
}

/// An authority for all hosts whose names end so, in memory as long as the run lasts.
pub struct Below {
    endings: BTreeSet<String>,
    params: CertificateParams,
    certificate: CertificateDer<'static>,
    key: KeyPair,
    made: Mutex<BTreeMap<String, Arc<ServerConfig>>>,
}

impl Drop for Below {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Below {
    /// Below `root`, whose key is `issuer`'s.
    fn new(
        endings: BTreeSet<String>,
        mut params: CertificateParams,
        root: &Issuer<'_, &KeyPair>,
    ) -> Answer<Self> {
        params.distinguished_name = subject("AgentKeys run, hosts below a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(constraints(&named(&endings)?));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, root).map_err(failed)?.der().clone();
        Ok(Self { endings, params, certificate, key, made: Mutex::default() })
    }

    /// What the names end with.
    pub fn endings(&self) -> impl Iterator<Item = &str> {
        self.endings.iter().map(String::as_str)
    }

    /// Whether a host's name ends so.
    pub fn has(&self, host: &Host) -> bool {
        let is_below = |name: &str| self.endings().any(|end| is_below(name, &format!("*{end}")));
        matches!(host, Host::Name(name) if is_below(name))
    }

    /// How TLS is spoken in a host's name, if it ends so.
    pub fn server(&self, host: &Host) -> Option<Arc<ServerConfig>> {
        if !self.has(host) {
            return None;
        }
        let name = host.to_string();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = made.get(&name) {
            return Some(Arc::clone(server));
        }
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (self.params.not_before, self.params.not_after);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let server = server(host, params, &issuer, Some(&self.certificate)).ok()?;
        if made.len() >= MOST_MADE {
            made.clear();
        }
        made.insert(name, Arc::clone(&server));
        Some(server)
    }
}

/// The names that these end with, as hosts.
fn named(endings: &BTreeSet<String>) -> Answer<Vec<Host>> {
    let name = |ending: &String| ending.trim_start_matches('.').parse();
    endings.iter().map(|ending| name(ending).map_err(|()| Problem::internal())).collect()
}

/// Answers in the name of one host, and of no other that a client may ask for.
#[derive(Debug)]
struct Only {
    host: Host,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Only {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = match (&self.host, hello.server_name()) {
            (Host::Name(name), Some(asked)) => asked.eq_ignore_ascii_case(name),
            // An address is not named in the handshake (RFC 6066, section 3).
            (Host::Ip(_), None) => true,
            _ => false,
        };
        named.then(|| Arc::clone(&self.key))
    }
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::Internal,
        "the run's certificates cannot be made",
        error.to_string(),
        "run it with --broker and without --proxy",
    )
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// What the authority may sign for: these hosts. A kind of name that none of them is, it may sign for
/// none of.
fn constraints(hosts: &[Host]) -> NameConstraints {
    let mut of = NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: Vec::new() };
    for host in hosts {
        of.permitted_subtrees.push(match host {
            Host::Name(name) => GeneralSubtree::DnsName(name.clone()),
            Host::Ip(ip) => {
                let whole = if ip.is_ipv4() { 32 } else { 128 };
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*ip, whole))
            }
        });
    }
    if !hosts.iter().any(|host| matches!(host, Host::Name(_))) {
        of.excluded_subtrees.push(GeneralSubtree::DnsName(String::new()));
    }
    if !hosts.iter().any(|host| matches!(host, Host::Ip(_))) {
        of.excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        of.excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    of
}

/// Makes an authority for these hosts, has it sign for each of them, and for an authority below it if
/// there are `endings`, and forgets its key.
///
/// # Errors
/// The system has no randomness, or a name is none that a certificate can have.
pub fn issue(hosts: &[Host], endings: BTreeSet<String>, now: Timestamp) -> Answer<Issued> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(failed)?;
    let seconds = i64::try_from(now.0 / 1000).map_err(failed)?;
    let made = time::OffsetDateTime::from_unix_timestamp(seconds).map_err(failed)?;
    let dated = || {
        let mut params = CertificateParams::default();
        // An hour early, for a clock that is set back meanwhile.
        params.not_before = made - time::Duration::hours(1);
        params.not_after = made + time::Duration::days(DAYS);
        params
    };
    let mut own = dated();
    own.distinguished_name = subject(&format!("AgentKeys run {}", to_hex(&random)));
    own.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::from(!endings.is_empty())));
    own.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    own.name_constraints = Some(constraints(&[hosts, &named(&endings)?].concat()));
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let root = own.self_signed(&key).map_err(failed)?.der().clone();
    let mut servers = BTreeMap::new();
    let signed = hosts.iter().try_for_each(|host| {
        let server = server(host, dated(), &Issuer::from_params(&own, &key), None)?;
        servers.insert(host.to_string(), server);
        Answer::Ok(())
    });
    let below = match endings.is_empty() {
        true => Ok(None),
        false => Below::new(endings, dated(), &Issuer::from_params(&own, &key)).map(Some),
    };
    key.zeroize();
    drop(key);
    signed?;
    Ok(Issued { root, servers, below: below? })
}

fn server(
    host: &Host,
    mut params: CertificateParams,
    issuer: &Issuer<'_, &KeyPair>,
    between: Option<&CertificateDer<'static>>,
) -> Answer<Arc<ServerConfig>> {
    params.distinguished_name = subject("AgentKeys proxy");
    params.subject_alt_names = vec![match host {
        Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
        Host::Ip(ip) => SanType::IpAddress(IpAddr::clone(ip)),
    }];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let leaf = params.signed_by(&key, issuer).map_err(failed)?.der().clone();
    let mut der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    key.zeroize();
    let signing = any_supported_type(&der).map_err(failed);
    der.zeroize();
    let chain = [leaf].into_iter().chain(between.cloned()).collect();
    let key = Arc::new(CertifiedKey::new(chain, signing?));
    let mut config = ServerConfig::builder_with_provider(trust::provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Only { host: host.clone(), key }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Nothing is taken up again: every connection names its host.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn now() -> Timestamp {
        Timestamp(UnixTime::now().as_secs() * 1000)
    }

    /// Whether a client that trusts the authority, and asks for `name`, is answered by the server of
    /// `host`; in memory.
    fn is_believed(issued: &Issued, host: &str, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(issued.root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(trust::provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = ServerConnection::new(issued.servers[host].clone()).unwrap();
        for _ in 0..6 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        !client.is_handshaking() && !server.is_handshaking()
    }

    #[test]
    fn each_host_is_answered_for_by_its_own_name_alone() {
        let issued =
            issue(&hosts(&["a.example", "b.example", "127.0.0.1"]), BTreeSet::new(), now())
                .unwrap();
        assert!(is_believed(&issued, "a.example", "a.example"));
        assert!(is_believed(&issued, "a.example", "A.Example"));
        assert!(is_believed(&issued, "127.0.0.1", "127.0.0.1"));
        for (host, name) in [
            ("a.example", "b.example"),
            ("a.example", "x.a.example"),
            ("a.example", "127.0.0.1"),
            ("127.0.0.1", "a.example"),
            ("127.0.0.1", "127.0.0.2"),
        ] {
            assert!(!is_believed(&issued, host, name), "{name} by {host}");
        }
    }

    #[test]
    fn hosts_below_a_name_are_answered_for_when_they_are_asked() {
        let endings = BTreeSet::from([".amazonaws.com".to_owned()]);
        let mut issued = issue(&hosts(&["a.example"]), endings, now()).unwrap();
        let below = issued.below.take().unwrap();
        let asked = ["sts.amazonaws.com", "b.c.s3.eu-central-1.amazonaws.com"];
        for name in asked {
            let server = below.server(&name.parse().unwrap()).unwrap();
            assert!(Arc::ptr_eq(&server, &below.server(&name.parse().unwrap()).unwrap()));
            issued.servers.insert(name.to_owned(), server);
            assert!(is_believed(&issued, name, name), "{name}");
            assert!(!is_believed(&issued, name, "iam.amazonaws.com"), "{name}");
        }
        assert!(is_believed(&issued, "a.example", "a.example"));
        for other in ["amazonaws.com", "a.example", "evil.example", "127.0.0.1"] {
            assert!(below.server(&other.parse().unwrap()).is_none(), "{other}");
        }
        // What its key could sign beyond that would not be believed.
        let stolen = Issuer::from_params(&below.params, &below.key);
        for other in ["evil.example", "127.0.0.1"] {
            let host = &hosts(&[other])[0];
            let params = CertificateParams::default();
            let server = server(host, params, &stolen, Some(&below.certificate)).unwrap();
            issued.servers.insert(other.to_owned(), server);
            assert!(!is_believed(&issued, other, other), "{other}");
        }
    }

    #[test]
    fn without_hosts_it_is_one_that_signs_for_nobody() {
        let issued = issue(&[], BTreeSet::new(), now()).unwrap();
        assert!(issued.servers.is_empty());
        assert_eq!(constraints(&[]).excluded_subtrees.len(), 3);
    }

    #[test]
    fn another_authority_of_another_run_is_not_believed() {
        let one = issue(&hosts(&["a.example"]), BTreeSet::new(), now()).unwrap();
        let other = issue(&hosts(&["a.example"]), BTreeSet::new(), now()).unwrap();
        let mixed = Issued { root: other.root, servers: one.servers, below: None };
        assert!(!is_believed(&mixed, "a.example", "a.example"));
    }

    #[test]
    fn what_it_signed_outside_its_constraints_would_not_be_believed() {
        for (constrained, host) in
            [("a.example", "b.example"), ("a.example", "127.0.0.1"), ("127.0.0.1", "b.example")]
        {
            let mut own = CertificateParams::default();
            own.distinguished_name = subject("stolen");
            own.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            own.name_constraints = Some(constraints(&hosts(&[constrained])));
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let root = own.self_signed(&key).unwrap().der().clone();
            let of = &hosts(&[host])[0];
            let issuer = Issuer::from_params(&own, &key);
            let server = server(of, CertificateParams::default(), &issuer, None).unwrap();
            let issued =
                Issued { root, servers: BTreeMap::from([(host.to_owned(), server)]), below: None };
            assert!(!is_believed(&issued, host, host), "{host} under {constrained}");
        }
    }
}
