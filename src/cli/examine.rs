//! What `doctor` makes of what was found: how each thing stands, and what to do about it.
use super::daemon_facts;
use super::session::{Fact, SessionPlace};
use crate::client::connect;
use crate::client::doctor::{
    BackendFacts, BackendState, CertificateFacts, Clocks, Facts, IssuerFacts, KeyringState,
    LogFacts, RootKey,
};
use crate::client::heads::contradiction;
use crate::core::backend::WhoAmI;
use crate::core::pin::Fingerprint;
use crate::core::presence::Level;
use crate::core::problem::{Answer, Problem};
use crate::core::set_back;
use crate::core::types::Timestamp;
use crate::core::wire::WIRE_VERSION;
use crate::harden::{Mechanism, Need, Profile, Report, State};

/// What the private backend's log has at each start where its root key is in the clear.
const ROOT_KEY_WARNING: &str = "the root key lies in the clear";

/// Everything, in the order in which it is shown.
pub fn facts(found: &Facts, kernel: &Report, now: Timestamp) -> Vec<Fact> {
    let mut out = Vec::new();
    match &found.config {
        Ok(config) => {
            let files = [&config.user_file, &config.project_file];
            let files: Vec<String> =
                files.iter().copied().flatten().map(|file| file.display().to_string()).collect();
            let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
            out.push(Fact::good("configuration", files));
        }
        Err(problem) => out.push(broken("configuration", problem)),
    }
    out.push(backend(&found.backend));
    if let Some(found) = &found.backend.certificate {
        out.extend([certificate(found, now), pin(found)]);
    }
    if let BackendState::Answers { version, wire, .. } = &found.backend.state {
        out.push(self::version(version, *wire));
    }
    out.extend(found.backend.clocks.as_ref().map(clocks));
    out.extend(found.issuer.as_ref().map(issuer));
    out.push(keyring(&found.keyring));
    let place = match &found.session.place {
        connect::SessionPlace::Keyring => SessionPlace::Keyring,
        connect::SessionPlace::File(path) => SessionPlace::File(path.clone()),
    };
    match (&found.session.who, &found.session.stored) {
        (Some(Ok(me)), _) => {
            out.extend(session(me, &place));
            if found.backend.clocks.is_none() {
                out.push(clock(me, now));
            }
            out.extend(found.session.log.as_ref().map(|found| audit_log(me, found)));
        }
        (Some(Err(problem)), _) | (None, Err(problem)) => {
            // A private backend's is made anew by the next command.
            out.push(if found.backend.private {
                Fact::warning("session", problem.detail.clone(), "agentkeys init")
            } else {
                broken("session", problem)
            });
        }
        (None, Ok(_)) => {
            let text = if found.backend.private {
                "none yet; the next command makes one"
            } else {
                "not signed in"
            };
            out.push(if found.backend.private {
                Fact::good("session", text)
            } else if matches!(found.backend.state, BackendState::Fails(_)) {
                Fact::warning("session", "not looked at: the backend was not reached", "see above")
            } else {
                Fact::warning("session", text, "agentkeys init")
            });
        }
    }
    out.extend(found.root_key.as_ref().map(root_key));
    out.extend(kernel_facts(kernel));
    match &found.daemons {
        Ok(daemons) => out.extend(daemons.iter().flat_map(daemon_facts::facts)),
        Err(problem) => out.push(broken("daemon", problem)),
    }
    out.push(Fact::good("data", found.places.data().display().to_string()));
    out.push(Fact::good("state", found.places.state().display().to_string()));
    let log = found.places.log_file().display().to_string();
    // What the line on the root key says already is no news.
    let news = found.log_warnings.iter().rev().find(|line| !line.contains(ROOT_KEY_WARNING));
    out.push(match news {
        None => Fact::good("log", log),
        Some(last) => Fact::warning("log", format!("{log} ends with: {last}"), "read it"),
    });
    out
}

/// A problem as a line.
pub fn broken(name: &str, problem: &Problem) -> Fact {
    let found = format!("{}: {}", problem.detail, problem.cause.replace('\n', " "));
    Fact::broken(name, found, problem.fix.clone())
}

fn backend(found: &BackendFacts) -> Fact {
    let address = found.address.as_deref().unwrap_or("a private one");
    match &found.state {
        BackendState::Answers { took, .. } => {
            let pid = found.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
            let took = took.as_secs_f64() * 1e3;
            let by = found.chosen_by;
            Fact::good("backend", format!("{address}, by {by}{pid}, answers in {took:.1} ms"))
        }
        BackendState::NotStarted => {
            Fact::good("backend", "a private one, not running; the next command starts it")
        }
        BackendState::Fails(problem) => broken("backend", problem),
    }
}

/// How long before its end a certificate is warned of, in milliseconds.
const CERTIFICATE_SOON: u64 = 14 * 86_400_000;

fn certificate(found: &CertificateFacts, now: Timestamp) -> Fact {
    let until = found.until.for_people();
    let says = format!("for {}, signed by {}, until {until}", found.whom, found.signer);
    if found.pinned {
        // The pin names the certificate itself, so its dates are not asked.
        return Fact::good("certificate", says);
    }
    if found.until.since_ms(now) < CERTIFICATE_SOON {
        let fix = "have the backend's operator renew it: clients refuse it from then on";
        return Fact::warning("certificate", says, fix);
    }
    Fact::good("certificate", says)
}

fn pin(found: &CertificateFacts) -> Fact {
    let fingerprint = &found.fingerprint;
    Fact::good(
        "pin",
        if found.pinned {
            format!("pinned, and it is the one: {fingerprint}")
        } else {
            format!("not pinned: whoever this machine trusts may sign for it; it is {fingerprint}")
        },
    )
}

/// From when on the clocks' difference is told, and from when on it breaks what depends on time.
const CLOCK_WARNING: u64 = 30_000;
const CLOCK_BROKEN: u64 = 5 * 60_000;

/// What the backend's clock said, to the second, against this machine's.
fn clocks(clocks: &Clocks) -> Fact {
    let (theirs, ours) = (clocks.theirs, clocks.ours);
    // Within that second it was any time.
    let behind = theirs.since_ms(ours);
    let ahead = ours.since_ms(theirs.plus_ms(999));
    let (by, way) = if behind > 0 { (behind, "behind") } else { (ahead, "ahead of") };
    if by < CLOCK_WARNING {
        return Fact::good("clock", format!("{}, as the backend's", ours.for_people()));
    }
    let found = format!(
        "this machine's clock is {} s {way} the backend's, which says {}",
        by / 1000,
        theirs.for_people()
    );
    let fix = "set the clock that is wrong, for example by timedatectl set-ntp true";
    if by < CLOCK_BROKEN {
        Fact::warning("clock", found, fix)
    } else {
        Fact::broken("clock", found, fix)
    }
}

fn version(theirs: &str, wire: u64) -> Fact {
    let ours = env!("CARGO_PKG_VERSION");
    if wire != WIRE_VERSION {
        let fix = "use the same version on both sides";
        let found = format!("the backend speaks wire {wire}, this program wire {WIRE_VERSION}");
        return Fact::broken("version", found, fix);
    }
    if theirs != ours {
        let fix = "start the backend again; for the private one: agentkeys serve --stop";
        return Fact::warning(
            "version",
            format!("the backend is {theirs}, this program {ours}"),
            fix,
        );
    }
    Fact::good("version", format!("both sides are {ours}, wire {wire}"))
}

fn issuer(found: &IssuerFacts) -> Fact {
    // Only signing in needs it: a daemon's machine has no way to it, and wants none.
    let by = match &found.flows {
        Err(problem) => {
            let found = format!("{}: {}", problem.detail, problem.cause.replace('\n', " "));
            let fix = format!("needed to sign in from here, and for nothing else: {}", problem.fix);
            return Fact::warning("issuer", found, fix);
        }
        Ok((true, true)) => "agentkeys init, with --device or without",
        Ok((true, false)) => "agentkeys init; it has no device flow",
        Ok((false, true)) => "agentkeys init --device; it has no flow for browsers",
        Ok((false, false)) => {
            let fix = "the backend's operator looks at serve --oidc-issuer";
            return Fact::broken(
                "issuer",
                format!("{} has no flow to sign in by", found.name),
                fix,
            );
        }
    };
    Fact::good("issuer", format!("{} answers; sign in by {by}", found.name))
}

fn keyring(state: &KeyringState) -> Fact {
    let fix = "install or start a Secret Service keyring, such as gnome-keyring or KWallet";
    match state {
        KeyringState::Usable => Fact::good("keyring", "there is one, and it is open"),
        KeyringState::Absent => {
            Fact::warning("keyring", "none: session and root key lie in files of mode 0600", fix)
        }
        KeyringState::Locked => {
            Fact::warning("keyring", "it is locked", "unlock it, and run the command again")
        }
        KeyringState::Unusable(why) => Fact::warning("keyring", why.clone(), fix),
    }
}

fn root_key(key: &RootKey) -> Fact {
    if !key.is_in_the_clear() {
        return Fact::good("root key", format!("kept by {}", key.kind));
    }
    let path = key.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let why = if key.automatic { ", for want of a keyring" } else { "" };
    Fact::warning(
        "root key",
        format!("in the clear in {path}{why}: whoever reads that disk has every key"),
        "keep the disk encrypted; a new data folder can have --root-key keyring or passphrase",
    )
}

/// How the audit log stands to what was seen of it.
fn audit_log(me: &WhoAmI, found: &Answer<LogFacts>) -> Fact {
    let name = "audit log";
    if let Some(on_record) = &me.set_back {
        return broken(name, &set_back::on_record(on_record));
    }
    let LogFacts { end, seen, has } = match found {
        Ok(found) => found,
        Err(problem) => return broken(name, problem),
    };
    let ends = format!("it ends at event {} now", end.seq);
    let Some(seen) = seen else {
        return Fact::good(name, format!("{ends}; this machine has not looked at it before"));
    };
    let before = format!("event {} was seen on {}", seen.head.seq, seen.seen_at.for_people());
    let accepted = end.set_backs > seen.head.set_backs;
    if accepted && !has {
        let fix = "agentkeys usage shows by whom and when";
        let found = format!("{before}; {ends}, and was accepted as set back since");
        return Fact::warning(name, found, fix);
    }
    if !has || seen.contradicted.is_some() {
        return broken(name, &contradiction(Some(end), seen));
    }
    Fact::good(name, format!("{before}; {ends}, and has that in it"))
}

/// How long a master session lives at most, in milliseconds.
const LONGEST_SESSION: u64 = 30 * 86_400_000;
/// By how much the clocks may differ before it is told, in milliseconds.
const SKEW: u64 = 60_000;

/// What a session that the backend accepts now says about the two clocks.
fn clock(me: &WhoAmI, now: Timestamp) -> Fact {
    let fix = "set this machine's clock, for example by timedatectl set-ntp true";
    if now.since_ms(me.expires_at) > SKEW {
        let ahead = "this machine's clock is ahead of the backend's: it says that the session, \
                     which the backend accepts, has ended";
        return Fact::warning("clock", ahead, fix);
    }
    if me.expires_at.since_ms(now) > LONGEST_SESSION + SKEW {
        let behind = "this machine's clock is behind the backend's: no session lives as long as \
                      it says that this one will";
        return Fact::warning("clock", behind, fix);
    }
    Fact::good("clock", format!("{}, which fits the backend's", now.for_people()))
}

fn session(me: &WhoAmI, place: &SessionPlace) -> Vec<Fact> {
    let until = me.expires_at.for_people();
    let who = format!("signed in as {}, until {until} unless used", me.identity);
    let kept = match place {
        SessionPlace::Keyring => Fact::good("session kept", "in the keyring"),
        SessionPlace::File(path) => Fact::warning(
            "session kept",
            format!("in {}, mode 0600, since no keyring answers", path.display()),
            "unlock or install a Secret Service keyring, then agentkeys init",
        ),
    };
    let presence = match &me.presence_reset {
        Some(reset) => Fact::warning(
            "presence",
            format!(
                "level {}, and a reset was asked for {} by {}",
                me.presence,
                reset.asked_at.for_people(),
                reset.by
            ),
            "if it was not you: agentkeys presence --cancel-reset",
        ),
        None if me.presence == Level::None.as_str() => Fact::warning(
            "presence",
            "level none: any program of your user can read and approve as you can",
            "agentkeys presence passphrase\n\
             or let agents run as another user or in a container",
        ),
        None => Fact::good("presence", format!("level {}", me.presence)),
    };
    let account = Fingerprint::of(me.account, &me.master_key);
    vec![Fact::good("session", who), Fact::good("account", account.to_string()), kept, presence]
}

/// What the kernel gives this process. The backend reads its own back, and does not start
/// without the ones that it needs.
fn kernel_facts(report: &Report) -> Vec<Fact> {
    report
        .of(Profile::Backend)
        .filter_map(|(finding, need)| {
            let fix = match finding.mechanism {
                Mechanism::NotDumpable => "see what in this machine's set-up forbids it",
                Mechanism::SecretMemory => "raise the limit of locked memory: ulimit -l",
                Mechanism::MemfdSecret => {
                    "needs Linux 5.14 with secretmem (before 6.5: secretmem.enable=1); \
                     without it root can read keys in the backend's memory"
                }
                // These are the backend's or the daemon's alone: here they would bind the programs
                // of `run`.
                Mechanism::NoCoreDumps
                | Mechanism::NoNewPrivileges
                | Mechanism::FileSizeSignalIgnored
                | Mechanism::RestrictedUmask
                | Mechanism::WipedMemory
                | Mechanism::EmptyCapabilities
                | Mechanism::SystemCallFilter
                | Mechanism::Landlock => return None,
            };
            let name = finding.mechanism.to_string();
            Some(match (finding.state, need) {
                (State::InForce, _) => Fact::good(name, finding.detail.clone()),
                (_, Need::BestEffort) => Fact::warning(name, finding.detail.clone(), fix),
                (_, Need::Required) => Fact::broken(name, finding.detail.clone(), fix),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::session::Health;
    use super::*;
    use crate::core::types::{AccountId, PublicKey, SessionId, WalletAddress};

    fn me(expires_at: u64) -> WhoAmI {
        WhoAmI {
            session_id: SessionId([0; 16]),
            account: AccountId([1; 16]),
            master_key: PublicKey([0; 32]),
            identity: "unix:1000".into(),
            presence: "none".into(),
            set_back: None,
            presence_reset: None,
            wallet: WalletAddress([0; 20]),
            child: false,
            expires_at: Timestamp(expires_at),
        }
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_told() {
        let day = 86_400_000;
        let now = Timestamp(1_800_000_000_000);
        assert_eq!(clock(&me(now.0 + day), now).health, Health::Good);
        assert_eq!(clock(&me(now.0 - day), now).health, Health::Warning);
        assert_eq!(clock(&me(now.0 + 40 * day), now).health, Health::Warning);
    }

    #[test]
    fn clocks_that_differ_are_told_and_from_five_minutes_on_it_is_broken() {
        let theirs = Timestamp(1_800_000_000_000);
        let at = |ours: u64| clocks(&Clocks { theirs, ours: Timestamp(ours) });
        for (ours, health) in [
            (theirs.0, Health::Good),
            (theirs.0 + 30_900, Health::Good),
            (theirs.0 - 29_000, Health::Good),
            (theirs.0 + 31_500, Health::Warning),
            (theirs.0 - 30_000, Health::Warning),
            (theirs.0 + 301_500, Health::Broken),
            (theirs.0 - 300_000, Health::Broken),
        ] {
            assert_eq!(at(ours).health, health, "{ours}: {}", at(ours).found);
        }
        assert!(at(theirs.0 + 60_999).found.contains("60 s ahead of the backend's"));
        assert!(at(theirs.0 - 60_000).found.contains("60 s behind the backend's"));
    }

    #[test]
    fn a_certificate_that_ends_soon_is_warned_of_unless_it_is_pinned() {
        let now = Timestamp(1_800_000_000_000);
        let mut found = CertificateFacts {
            whom: "keys.example.org".into(),
            signer: "CN=some authority".into(),
            until: now.plus_ms(15 * 86_400_000),
            fingerprint: "sha256:0a".into(),
            pinned: false,
        };
        assert_eq!(certificate(&found, now).health, Health::Good);
        for days in [13, 0] {
            found.until = now.plus_ms(days * 86_400_000);
            assert_eq!(certificate(&found, now).health, Health::Warning);
        }
        assert!(pin(&found).found.starts_with("not pinned"));
        found.pinned = true;
        assert_eq!(certificate(&found, now).health, Health::Good);
        assert!(pin(&found).found.contains("it is the one: sha256:0a"));
    }

    #[test]
    fn a_session_file_and_no_presence_are_warned_of_with_what_to_do() {
        let facts = session(&me(0), &SessionPlace::File("/home/x/session".into()));
        let warned: Vec<_> = facts.iter().filter(|fact| fact.health == Health::Warning).collect();
        assert_eq!(warned.len(), 2);
        assert!(warned.iter().all(|fact| fact.fix.is_some()));
        assert_eq!(session(&me(0), &SessionPlace::Keyring)[1].health, Health::Good);
    }

    #[test]
    fn a_root_key_on_the_disk_and_another_wire_are_told() {
        let mut key = RootKey { kind: "keyring".into(), path: None, automatic: false };
        assert_eq!(root_key(&key).health, Health::Good);
        key.kind = "file".into();
        assert_eq!(root_key(&key).health, Health::Warning);
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(version(ours, WIRE_VERSION).health, Health::Good);
        assert_eq!(version("0.0.1", WIRE_VERSION).health, Health::Warning);
        assert_eq!(version(ours, WIRE_VERSION + 1).health, Health::Broken);
    }
}
