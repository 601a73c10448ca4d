//! What `agentkeys run --proxy` puts into a program's environment: the proxy's address, and lists of
//! certificates to believe it by.
//!
//! Must never take away what a program trusted before, or have it trust more than that and the run's
//! own authority.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::output::Output;
use super::report::shown;
use super::room::Temporary;
use crate::client::bundle::{self, Certificate};
use crate::client::relay::{Host, Proxy};
use crate::core::problem::{Answer, Code, Problem};

/// Variables that name the proxy; programs read one spelling or the other.
const PROXY: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// Variables that name a list which a program takes in place of the machine's.
const IN_PLACE: [&str; 14] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "BUNDLE_SSL_CA_CERT",
    "JULIA_SSL_CA_ROOTS_PATH",
    "HEX_CACERTS_PATH",
];
/// Variables that name a list which a program takes besides its own.
const BESIDES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// Hosts of this machine, which programs ask without a proxy.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Has the command's program use the proxy. The lists of certificates are there as long as what is
/// returned.
///
/// # Errors
/// They cannot be written.
pub fn have(command: &mut Command, proxy: &Proxy, port: u16, out: Output) -> Answer<Temporary> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if PROXY.iter().any(|name| set(name).is_some()) {
        out.warn(
            "a proxy was set before (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY): the run's own takes its \
             place, and does not ask it",
        );
    }
    let address = proxy.address(port);
    for name in PROXY {
        command.env(name, &address);
    }
    // Node 22.21 and 24.5 on take the proxy from the environment, if they are told to.
    command.env("NODE_USE_ENV_PROXY", "1");
    let hosts: Vec<&Host> = proxy.hosts().collect();
    let endings: Vec<&str> = proxy.endings().collect();
    for name in super::broker::NO_PROXY {
        let before = std::env::var(name).unwrap_or_default();
        command.env(name, without_proxy(&before, &hosts, &endings));
    }
    let folder = Temporary::make("agentkeys-proxy")?;
    let mut lists = Lists { folder: &folder, root: proxy.root(), written: BTreeMap::new(), out };
    for name in IN_PLACE {
        let list = match set(name) {
            Some(path) => lists.extending(name, &path)?,
            None => lists.of_machine()?,
        };
        command.env(name, list);
    }
    for name in BESIDES {
        let list = match set(name) {
            Some(path) => lists.extending(name, &path)?,
            None => lists.write(OsString::new(), &[])?,
        };
        command.env(name, list);
    }
    Ok(folder)
}

/// The run's lists of certificates, by what they extend.
struct Lists<'a> {
    folder: &'a Temporary,
    root: &'a Certificate,
    written: BTreeMap<OsString, PathBuf>,
    out: Output,
}

impl Lists<'_> {
    fn of_machine(&mut self) -> Answer<PathBuf> {
        const KEY: &str = "machine";
        if let Some(there) = self.written.get(&OsString::from(KEY)) {
            return Ok(there.clone());
        }
        let found = bundle::of_machine();
        if found.is_empty() {
            self.out.warn(
                "this machine has no list of root certificates: the program believes the \
                           proxy, and nobody else",
            );
        }
        self.write(KEY.into(), &found)
    }

    /// What a person had set, and ours.
    fn extending(&mut self, name: &str, path: &OsString) -> Answer<PathBuf> {
        // A path by which no list of ours is known.
        let mut key = OsString::from("/");
        key.push(path);
        if let Some(there) = self.written.get(&key) {
            return Ok(there.clone());
        }
        let found = bundle::of_path(Path::new(path)).unwrap_or_else(|| {
            let path = shown(&path.to_string_lossy());
            self.out.warn(&format!("{name} names {path}, which cannot be read"));
            Vec::new()
        });
        self.write(key, &found)
    }

    fn write(&mut self, key: OsString, certificates: &[Certificate]) -> Answer<PathBuf> {
        if let Some(there) = self.written.get(&key) {
            return Ok(there.clone());
        }
        let path = self.folder.path().join(format!("certificates-{}.pem", self.written.len()));
        let text = bundle::pem(certificates.iter().chain([self.root]));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o400).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
            let detail = "the list of certificates for the program cannot be written";
            let fix = "see whether the folder for temporary files has room (TMPDIR)";
            Problem::new(Code::Internal, detail, error.to_string(), fix)
        })?;
        self.written.insert(key, path.clone());
        Ok(path)
    }
}

/// `NO_PROXY` without what would lead past the proxy to a host that it answers for; hosts of this
/// machine are asked without it, unless it answers for one.
fn without_proxy(before: &str, hosts: &[&Host], endings: &[&str]) -> String {
    let entries = before.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
    let mut kept: Vec<&str> =
        entries.filter(|entry| !hosts.iter().any(|host| leads_past(entry, host))).collect();
    kept.retain(|entry| !endings.iter().any(|ending| leads_below(entry, ending)));
    if !hosts.iter().any(|host| host.is_loopback()) {
        kept.extend(HERE.iter().filter(|here| !before.split(',').any(|entry| entry == **here)));
    }
    kept.join(",")
}

/// Whether an entry names some host whose name ends so, or all.
fn leads_below(entry: &str, ending: &str) -> bool {
    let entry = entry.split(':').next().unwrap_or_default().trim_start_matches('*');
    let entry = entry.trim_matches('.').to_ascii_lowercase();
    let dotted = format!(".{entry}");
    entry.is_empty() || dotted.ends_with(ending) || ending.ends_with(&dotted)
}

/// Whether an entry of `NO_PROXY` names a host, in any of the ways that programs read it.
fn leads_past(entry: &str, host: &Host) -> bool {
    if entry.starts_with('*') && !entry.starts_with("*.") {
        return true;
    }
    match host {
        Host::Name(name) => {
            let entry = entry.split(':').next().unwrap_or_default();
            let entry = entry.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
            !entry.is_empty() && (*name == entry || name.ends_with(&format!(".{entry}")))
        }
        Host::Ip(ip) => match entry.split_once('/') {
            Some((network, bits)) => is_within(*ip, network, bits),
            None => {
                let entry = entry.trim_start_matches('[');
                let plain = entry.parse::<IpAddr>().ok();
                let with_port = entry.rsplit_once(':').map(|(host, _)| host.trim_end_matches(']'));
                plain == Some(*ip) || with_port.is_some_and(|host| host.parse() == Ok(*ip))
            }
        },
    }
}

fn is_within(ip: IpAddr, network: &str, bits: &str) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    let masked = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip).checked_shr(32 - bits.min(32)).unwrap_or(0)),
        IpAddr::V6(ip) => u128::from(ip).checked_shr(128 - bits.min(128)).unwrap_or(0),
    };
    network
        .parse::<IpAddr>()
        .is_ok_and(|network| network.is_ipv4() == ip.is_ipv4() && masked(network) == masked(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_past_the_proxy_to_a_host_that_it_answers_for() {
        let hosts: Vec<Host> =
            ["api.openai.com", "10.1.2.3"].iter().map(|host| host.parse().unwrap()).collect();
        let hosts: Vec<&Host> = hosts.iter().collect();
        for entry in [
            "*",
            "api.openai.com",
            "API.OpenAI.com",
            ".openai.com",
            "*.openai.com",
            "openai.com",
            "com",
            "api.openai.com:443",
            "api.openai.com.",
            "10.1.2.3",
            "10.1.2.3:443",
            "10.0.0.0/8",
            "0.0.0.0/0",
        ] {
            let kept = without_proxy(&format!("{entry},corp.example"), &hosts, &[]);
            assert_eq!(kept, "corp.example,localhost,127.0.0.1,::1", "{entry}");
        }
        for entry in ["penai.com", "x.api.openai.com", "10.2.0.0/16", "10.1.2.4", "fe80::/10"] {
            assert!(without_proxy(entry, &hosts, &[]).starts_with(entry), "{entry}");
        }
        assert_eq!(without_proxy("localhost, a.b", &hosts, &[]), "localhost,a.b,127.0.0.1,::1");
    }

    #[test]
    fn no_host_below_a_name_is_asked_without_it() {
        let endings = [".amazonaws.com"];
        for entry in ["*", "amazonaws.com", ".com", "S3.amazonaws.com:443", "*.amazonaws.com"] {
            let kept = without_proxy(&format!("{entry},corp.example"), &[], &endings);
            assert!(kept.starts_with("corp.example"), "{entry}: {kept}");
        }
        let kept = without_proxy("aws.com,10.0.0.0/8", &[], &endings);
        assert!(kept.starts_with("aws.com,10.0.0.0/8"), "{kept}");
    }

    #[test]
    fn a_service_on_this_machine_is_asked_by_the_proxy() {
        let host: Host = "127.0.0.1".parse().unwrap();
        assert_eq!(without_proxy("127.0.0.0/8,127.0.0.1,a.b", &[&host], &[]), "a.b");
    }
}
