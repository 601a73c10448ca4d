//! Confines the daemon to what it needs, before there is a thread, a runtime or a secret, and
//! reads back from the kernel what holds.
//!
//! Must never go on without a mechanism that a daemon requires.
use std::path::{Path, PathBuf};

use super::seat::Seat;
use crate::client::config::Config;
use crate::client::files;
use crate::client::http::Address;
use crate::client::places::Places;
use crate::core::holder::Protection;
use crate::core::problem::{Answer, Code, Problem};
use crate::harden::{self, Confinement, HardenError, Need, Profile, State};
use crate::keyring::BusAddress;

/// What is read to find the backend's host, and whom to believe that signs its certificate.
const SYSTEM: [&str; 11] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
];
/// Where roots may lie as well.
const ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// The port of a resolver, for answers that are too long for UDP, which Landlock does not hold.
const RESOLVER: u16 = 53;

/// Applies every mechanism, in the order that [`crate::harden`] gives, and says what holds.
///
/// # Errors
/// `INTERNAL` when one that a daemon requires does not hold, naming it.
pub fn confine(places: &Places, seat: &Seat, config: Option<&Config>) -> Answer<Vec<Protection>> {
    let harden = || -> Result<(), HardenError> {
        harden::no_core_dumps()?;
        harden::not_dumpable()?;
        harden::no_new_privileges()?;
        harden::ignore_file_size_signal()
    };
    harden().map_err(|error| unprotected(&error.to_string()))?;
    harden::restrict_umask();
    harden::wipe_freed_memory();
    harden::secret_memory_kind().map_err(|error| unprotected(&error.to_string()))?;
    // What is not there now stays shut, also when it is made later.
    seat.prepare()?;
    files::make_folder(&places.heads())?;
    let allowed = allowed(places, seat, config);
    let confined = harden::landlock(&allowed)
        .and_then(|confined| {
            harden::drop_capabilities()?;
            harden::seccomp_filter()?;
            Ok(confined)
        })
        .map_err(|error| unprotected(&error.to_string()))?;
    tracing::debug!("{confined}");
    read_back()
}

/// What the kernel says of every mechanism, logged.
fn read_back() -> Answer<Vec<Protection>> {
    let report = harden::report();
    let protections: Vec<Protection> = report
        .of(Profile::Daemon)
        .map(|(finding, need)| Protection {
            name: finding.mechanism.to_string(),
            in_force: finding.state == State::InForce,
            required: need == Need::Required,
            detail: finding.detail.clone(),
        })
        .collect();
    for protection in &protections {
        let Protection { name, detail, .. } = protection;
        if protection.in_force {
            tracing::debug!("{name}: {detail}");
        } else {
            tracing::warn!("{name} is not in force: {detail}");
        }
    }
    let in_force = protections.iter().filter(|protection| protection.in_force);
    let names: Vec<&str> = in_force.map(|protection| protection.name.as_str()).collect();
    tracing::info!("in force, as the kernel says: {}", names.join(", "));
    match protections.iter().find(|protection| protection.required && !protection.in_force) {
        Some(missing) => Err(unprotected(&format!("{}: {}", missing.name, missing.detail))),
        None => Ok(protections),
    }
}

fn unprotected(why: &str) -> Problem {
    Problem::new(
        Code::Internal,
        "the daemon could not protect itself",
        why,
        "see what in this machine's set-up forbids it; the daemon does not run without",
    )
}

/// Its own folders, the backend, and the keyring.
fn allowed(places: &Places, seat: &Seat, config: Option<&Config>) -> Confinement {
    let folder = |path: &Path| path.parent().map(Path::to_path_buf);
    let mut write: Vec<PathBuf> = seat.folders().map(Path::to_path_buf).collect();
    write.push(places.heads());
    let backend = config.and_then(|config| config.backend.as_ref());
    let mut sockets: Vec<PathBuf> = match backend {
        Some(address) => address.socket().and_then(folder).into_iter().collect(),
        None => places.sockets().iter().filter_map(|socket| folder(socket)).collect(),
    };
    if let Ok(Some(bus)) = BusAddress::from_environment() {
        sockets.extend(bus.sockets());
    }
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    if backend.is_some_and(Address::wants_roots) {
        read.extend(roots());
    }
    let mut connect_ports = backend.map(|address| address.ports()).unwrap_or_default();
    if backend.is_some_and(Address::has_name) {
        connect_ports.push(RESOLVER);
    }
    Confinement { read, write, sockets, connect_ports }
}

/// The files and folders of roots that the environment names, and what links among them lead to.
fn roots() -> impl Iterator<Item = PathBuf> {
    let named = ROOTS.iter().filter_map(std::env::var_os);
    let named = named.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    named.filter(|path| path.is_absolute()).flat_map(|path| {
        let real = std::fs::canonicalize(&path).ok();
        [Some(path), real].into_iter().flatten()
    })
}
