//! What `doctor` makes of a daemon: whose it is, how its session stands, where its mirror is, and
//! which protections its process has, by its own word.
use super::examine::broken;
use super::session::Fact;
use crate::client::doctor::DaemonFacts;
use crate::core::holder::{Protection, SessionState, Standing, Waiting};

/// What a mirror's description says when no keyring seals it.
const IN_THE_CLEAR: &str = "in the clear";

/// One daemon's lines.
pub fn facts(found: &DaemonFacts) -> Vec<Fact> {
    // The name that this machine gave it stands in every line, as in its files' names.
    let name = match &found.name {
        Some(name) => format!("daemon@{name}"),
        None => "daemon".to_owned(),
    };
    let standing = match &found.standing {
        Ok(standing) => standing,
        Err(problem) => return vec![broken(&name, problem)],
    };
    let mut out = vec![who(&name, found, standing), session(&name, standing)];
    out.push(mirror(&name, &standing.mirror));
    out.extend(standing.protections.iter().map(|one| protection(&name, one)));
    out
}

fn who(name: &str, found: &DaemonFacts, standing: &Standing) -> Fact {
    let agent = standing.agent.map_or("of no agent yet".to_owned(), |a| format!("agent {a}"));
    let account = match &standing.account {
        Some(fingerprint) => format!(", pinned to account {fingerprint}"),
        None => String::new(),
    };
    let (pid, socket) = (standing.pid, found.socket.display());
    match &standing.backend {
        Some(backend) => Fact::good(
            name,
            format!("process {pid}, {agent}, backend {backend}{account}, listens at {socket}"),
        ),
        None => Fact::warning(
            name,
            format!("process {pid}, {agent}, no backend{account}, listens at {socket}"),
            "set AGENTKEYS_BACKEND where it is started, and start it again",
        ),
    }
}

fn session(name: &str, standing: &Standing) -> Fact {
    let name = format!("{name} session");
    let waits = |what: &str, waiting: &Waiting| {
        let Waiting { kind, pair_code, otp, expires_at, command, because: _ } = waiting;
        let (kind, until) = (kind.as_str(), expires_at.for_people());
        let found = format!("{what}: {kind}, pair code {pair_code}, OTP {otp}, until {until}");
        let fix = format!("whoever keeps the keys runs, on their own machine: {command}");
        Fact::warning(name.clone(), found, fix)
    };
    match &standing.session {
        SessionState::Unpaired => Fact::good(name, "none yet; the first call asks for one"),
        SessionState::Waiting(waiting) => waits("waits for an approval", waiting),
        SessionState::Paired { asks: Some(waiting), .. } => {
            waits("there is one, and asks", waiting)
        }
        SessionState::Paired { refused: Some(problem), .. } => {
            Fact::warning(name, format!("there is one; {}", problem.detail), problem.fix.clone())
        }
        SessionState::Paired { expires_at, asks: None, refused: None } => {
            let until = expires_at.for_people();
            Fact::good(name, format!("until {until}, and renews itself"))
        }
        SessionState::Ended(problem) => broken(&name, problem),
    }
}

fn mirror(name: &str, found: &str) -> Fact {
    let name = format!("{name} mirror");
    if !found.contains(IN_THE_CLEAR) {
        return Fact::good(name, found);
    }
    let fix = "keep the disk encrypted, or start a Secret Service keyring, and the daemon again;\n\
               if a copy got away, revoke the agent";
    Fact::warning(name, found, fix)
}

fn protection(name: &str, one: &Protection) -> Fact {
    let name = format!("{name} {}", one.name);
    let detail = one.detail.clone();
    if one.in_force {
        return Fact::good(name, detail);
    }
    if one.required {
        let fix = "end that daemon: it runs without what it may not run without";
        return Fact::broken(name, detail, fix);
    }
    Fact::warning(name, detail, format!("{}; the daemon runs all the same", meaning(&one.name)))
}

/// What it means that a protection is not there, by a word in its name.
fn meaning(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    let has = |word: &str| name.contains(word);
    if has("landlock") {
        "without it a program that took the daemon over could open all of this user's files"
    } else if has("memfd") || has("secret") {
        "without it root can read the session in the daemon's memory"
    } else if has("seccomp") {
        "without it a program that took the daemon over could use every system call"
    } else if has("capabilit") {
        "without it the daemon keeps rights that it does not need"
    } else {
        "without it one defence fewer stands between the session and other programs"
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Health;
    use super::*;
    use crate::core::problem::{Code, Problem};
    use crate::core::types::{Timestamp, WalletAddress};

    fn standing() -> Standing {
        Standing {
            pid: 42,
            backend: Some("http://127.0.0.1:1".into()),
            agent: Some(WalletAddress([7; 20])),
            account: None,
            pinned_by_first_approval: false,
            session: SessionState::Paired { expires_at: Timestamp(0), asks: None, refused: None },
            provisioning: Vec::new(),
            generation: 1,
            mirror: "/h/.agentkeys/session, sealed by the keyring".into(),
            protections: Vec::new(),
        }
    }

    fn of(standing: Standing) -> Vec<Fact> {
        let name = Some("my-bot".parse().unwrap());
        facts(&DaemonFacts { name, socket: "/s".into(), standing: Ok(standing) })
    }

    #[test]
    fn a_daemon_that_is_well_is_all_good_and_named() {
        let facts = of(standing());
        assert_eq!(facts.len(), 3);
        assert!(facts.iter().all(|fact| fact.health == Health::Good), "{facts:?}");
        assert!(facts.iter().all(|fact| fact.name.starts_with("daemon@my-bot")), "{facts:?}");
        assert!(facts[0].found.contains("process 42") && facts[0].found.contains("127.0.0.1:1"));
    }

    #[test]
    fn a_required_protection_that_is_not_there_is_broken_and_another_one_a_warning() {
        let mut it = standing();
        let one = |name: &str, in_force, required| Protection {
            name: name.into(),
            in_force,
            required,
            detail: "read back".into(),
        };
        it.protections = vec![
            one("seccomp", true, true),
            one("no core", false, true),
            one("Landlock", false, false),
        ];
        let facts = of(it);
        let health: Vec<Health> = facts[3..].iter().map(|fact| fact.health).collect();
        assert_eq!(health, [Health::Good, Health::Broken, Health::Warning]);
        assert!(facts[5].fix.as_ref().unwrap().contains("could open all of this user's files"));
    }

    #[test]
    fn a_mirror_in_the_clear_a_missing_backend_and_an_ended_session_are_told() {
        let mut it = standing();
        it.mirror = "/h/.agentkeys/session, in the clear: there is no keyring".into();
        it.backend = None;
        let ended = Problem::new(Code::Denied, "the agent was revoked", "by its master", "pair");
        it.session = SessionState::Ended(ended);
        let health: Vec<Health> = of(it).iter().map(|fact| fact.health).collect();
        assert_eq!(health, [Health::Warning, Health::Broken, Health::Warning]);
    }
}
