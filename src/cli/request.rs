//! An auth request in words: what a person is to see before they decide, line by line.
//!
//! Must never let what a child claims be taken for what was seen: all of it goes through
//! [`super::claims`].
use super::agents::label;
use super::claims::{Line, claimed, like_another, quoted};
use super::clock::span;
use super::scopes::{difference, or_nothing};
use crate::core::auth_request::{Details, HighValueRelease, Kind, Pair};
use crate::core::backend::{AgentSummary, Daemon, Fetched, Grant, Lasts};
use crate::core::pin::Fingerprint;
use crate::core::scope::Scope;
use crate::core::types::{Hash32, Timestamp};

/// A request, and what its master is about to give.
pub struct View<'a> {
    /// As it was fetched.
    pub request: &'a Fetched,
    /// Its details.
    pub details: &'a Details,
    /// What the command line gives.
    pub grant: &'a Grant,
    /// The agent that `--as` names.
    pub existing: Option<&'a AgentSummary>,
    /// The account's agents; only looked at for a Pair.
    pub agents: &'a [AgentSummary],
    /// The account that answers.
    pub account: Fingerprint,
    /// This machine's time.
    pub now: Timestamp,
}

impl View<'_> {
    /// What the daemon may do after an approval; absent where no scope is given.
    pub fn given(&self) -> Option<Scope> {
        let asked = match (self.details, self.existing, &self.request.agent) {
            (Details::Pair(pair), Some(agent), _) => pair.scope.and(&agent.scope),
            (Details::Pair(pair), None, _) => pair.scope.clone(),
            (Details::ScopeChange(change), ..) => change.scope.clone(),
            (Details::Recover(_), _, Some(agent)) => agent.scope.clone(),
            _ => return None,
        };
        Some(match &self.grant.scope {
            Some(narrower) => asked.and(narrower),
            None => asked,
        })
    }

    /// The daemon that loses its access by an approval, in words; absent where none can.
    pub fn replaced(&self) -> Option<String> {
        let (agent, heard) = match (self.request.kind, self.existing, &self.request.agent) {
            (Kind::Pair, Some(agent), _) => (agent, false),
            (Kind::Recover, _, Some(agent)) => (agent, true),
            _ => return None,
        };
        Some(match &agent.daemon {
            None => "no daemon: none was paired with it so far".to_owned(),
            Some(daemon) => {
                let used = match daemon.last_used {
                    Some(at) => format!(", last used {} ago", span(self.now.since_ms(at))),
                    None if heard => ", never heard of since".to_owned(),
                    None => String::new(),
                };
                format!("{}{used}: it loses its access", since(daemon))
            }
        })
    }

    /// All that is to be seen, but for the OTP.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![("kind", kind_in_words(self.request.kind).to_owned())];
        if let Some(agent) = &self.request.agent {
            lines.push(("agent", format!("{} ({})", label(agent), agent.wallet)));
        }
        if let Some(why) = self.request.agent.as_ref().and_then(|agent| agent.revoked.as_ref()) {
            lines.push(("revoked", format!("{} by {}", why.at.for_people(), why.by)));
        }
        self.asked(&mut lines);
        if let Some(replaced) = self.replaced() {
            lines.push(("replaces", replaced));
        }
        let saw = &self.request.saw;
        let mut seen = saw.address.clone();
        if let Some(uid) = saw.uid {
            seen.push_str(&format!(", uid {uid}"));
        }
        if let Some(program) = &saw.program {
            seen.push_str(&format!(", program {program}"));
        }
        lines.push(("seen", seen));
        // What the gateway holds, no child has keys for.
        if self.request.held.is_none() {
            let key = if self.request.kind == Kind::KeyRotate { "new key" } else { "key" };
            lines.push((key, fingerprint(&self.request.child_pubkey.fingerprint())));
        }
        lines.push(("account", format!("{}, which is you", self.account)));
        lines.push(("age", span(self.now.since_ms(self.request.created_at))));
        lines.push(("answer in", span(self.request.expires_at.since_ms(self.now))));
        lines
    }

    fn asked(&self, lines: &mut Vec<Line>) {
        let agent = self.request.agent.as_ref();
        match self.details {
            Details::Pair(pair) => self.pair(pair, lines),
            Details::Recover(recover) => {
                lines.push((
                    "wants",
                    format!("to go on as \"{}\", with all that it may do", recover.agent),
                ));
                if let Some(agent) = agent {
                    lines.push(("it may", agent.scope.to_string()));
                }
                self.narrowed(lines);
                lines.push(claimed("host", recover.host.as_ref().map(|claim| claim.as_str())));
                lines.push(claimed("user", recover.user.as_ref().map(|claim| claim.as_str())));
            }
            Details::ScopeChange(change) => {
                lines.push(("wants", change.scope.to_string()));
                self.narrowed(lines);
                if let (Some(agent), Some(to)) = (agent, self.given()) {
                    let differ = difference(&agent.scope, &to);
                    lines.push(("has now", agent.scope.to_string()));
                    lines.push(("adds", or_nothing(&differ.added)));
                    lines.push(("takes away", or_nothing(&differ.taken)));
                }
                lines.push(claimed("reason", change.reason.as_ref().map(|reason| reason.as_str())));
            }
            Details::HighValueRelease(act) if self.request.held.is_some() => self.held(act, lines),
            Details::HighValueRelease(act) => {
                lines.push(("wants", format!("to use {} once", act.service)));
                let sum = format!("{} {}", act.amount, act.currency);
                lines.push(("claimed", format!("{} of the smallest unit", quoted(&sum))));
                let line = format!("{} {}{}", act.method, act.host, act.path);
                lines.push(("claimed", quoted(&line)));
                lines.push(("body", act.body.to_string()));
                lines.push(claimed("reason", act.reason.as_ref().map(|reason| reason.as_str())));
            }
            Details::KeyRotate(rotate) => {
                lines.push(("wants", "new keys for the same daemon".to_owned()));
                lines.push(("old key", fingerprint(&rotate.old)));
                lines.push(match agent.and_then(|agent| agent.daemon.as_ref()) {
                    Some(daemon) if daemon.fingerprint == rotate.old => {
                        ("known", format!("the old key is {}", since(daemon)))
                    }
                    Some(daemon) => (
                        "look out",
                        format!("the old key is not the agent's, which is {}", since(daemon)),
                    ),
                    None => ("look out", "the agent has no key on record".to_owned()),
                });
            }
        }
    }

    /// What the gateway itself saw, and nobody claimed.
    fn held(&self, act: &HighValueRelease, lines: &mut Vec<Line>) {
        lines.push(("service", act.service.to_string()));
        lines.push(("request", quoted(&format!("{} {}{}", act.method, act.host, act.path))));
        lines.push((
            "sum",
            match act.amount {
                0 => "its body names none that is known".to_owned(),
                sum => format!("{sum} {}, in its smallest unit, as its body says", act.currency),
            },
        ));
        lines.push(("body", format!("SHA-256 {}", act.body)));
        match self.request.held {
            Some(0) => lines.push(("held", "no more: it may be sent again, once".to_owned())),
            Some(1) | None => {}
            Some(count) => lines.push((
                "look out",
                format!("{count} such requests wait, each to the letter like this: all are sent"),
            )),
        }
        match self.grant.lasts {
            None => {}
            Some(Lasts::Seconds(seconds)) => lines.push((
                "you give",
                format!(
                    "others of that method, host and path for {seconds} s, whatever their body"
                ),
            )),
            Some(Lasts::Session) => lines.push((
                "you give",
                "others of that method, host and path while the run lasts, whatever their body"
                    .to_owned(),
            )),
        }
    }

    fn pair(&self, pair: &Pair, lines: &mut Vec<Line>) {
        lines.push(("wants", pair.scope.to_string()));
        if let Some(agent) = self.existing {
            lines.push((
                "as",
                format!("{} ({}), which may {}", label(agent), agent.wallet, agent.scope),
            ));
            if let Some(why) = &agent.revoked {
                lines.push(("revoked", format!("{} by {}", why.at.for_people(), why.by)));
            }
        }
        self.narrowed(lines);
        if let Some(name) = &self.grant.name {
            lines.push(("you name it", name.to_string()));
        }
        let wished = pair.name.as_ref().map(|name| name.shown());
        if wished.is_some() {
            lines.push(claimed("name", wished));
        }
        if let Some(wished) =
            wished.filter(|_| self.grant.name.is_none() && self.existing.is_none())
        {
            lines.extend(like_another(wished, self.agents).map(|text| ("look out", text)));
        }
        lines.push(claimed("host", pair.host.as_ref().map(|claim| claim.as_str())));
        lines.push(claimed("user", pair.user.as_ref().map(|claim| claim.as_str())));
    }

    fn narrowed(&self, lines: &mut Vec<Line>) {
        if let Some(given) = self.given()
            && (self.grant.scope.is_some() || self.existing.is_some())
        {
            lines.push(("you give", given.to_string()));
        }
    }
}

fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Pair => "Pair: a new daemon wants to be an agent of yours",
        Kind::Recover => "Recover: a daemon wants to take over an agent of yours",
        Kind::ScopeChange => "ScopeChange: an agent wants to be allowed other things",
        Kind::HighValueRelease => "HighValueRelease: an agent wants one act of high value",
        Kind::KeyRotate => "KeyRotate: a daemon wants to replace its keys",
    }
}

/// The first half of a fingerprint in groups of four, as people compare them.
pub fn fingerprint(hash: &Hash32) -> String {
    let hex = hash.to_string();
    let groups: Vec<&str> = (0..8).filter_map(|at| hex.get(at * 4..at * 4 + 4)).collect();
    groups.join(" ")
}

fn since(daemon: &Daemon) -> String {
    format!("{}, since {}", fingerprint(&daemon.fingerprint), daemon.since.for_people())
}

#[cfg(test)]
mod tests {
    use super::super::report::shown;
    use super::*;
    use crate::core::auth_request::{KeyRotate, Recover, ScopeChange};
    use crate::core::backend::Seen;
    use crate::core::types::{AccountId, ChildKeys, PublicKey, RequestId, WalletAddress};

    const NOW: Timestamp = Timestamp(1_775_745_127_000);

    fn scope(text: &str) -> Scope {
        super::super::scopes::short_form("--scope", text).unwrap()
    }

    fn account() -> Fingerprint {
        Fingerprint::of(AccountId([1; 16]), &PublicKey([2; 32]))
    }

    fn agent(name: &str, may: &str) -> AgentSummary {
        AgentSummary {
            wallet: WalletAddress([3; 20]),
            name: Some(name.to_owned()),
            identities: vec![name.parse().unwrap()],
            scope: scope(may),
            revoked: None,
            daemon: Some(Daemon {
                fingerprint: Hash32([0xAB; 32]),
                since: NOW,
                last_used: Some(Timestamp(NOW.0 - 180_000)),
            }),
            created_at: Timestamp(0),
        }
    }

    fn fetched(details: &Details, agent: Option<AgentSummary>) -> Fetched {
        Fetched {
            id: RequestId([1; 16]),
            kind: details.kind(),
            details: details.canonical().unwrap(),
            child_pubkey: ChildKeys([7; 64]),
            otp: "012345".parse().unwrap(),
            created_at: Timestamp(NOW.0 - 12_000),
            expires_at: NOW.plus_ms(48_000),
            saw: Seen {
                address: "unix socket".to_owned(),
                uid: Some(1000),
                program: Some("/bin/\x1b[2Jnode".to_owned()),
            },
            agent,
            held: None,
        }
    }

    fn lines(details: &Details, of: Option<AgentSummary>, agents: &[AgentSummary]) -> Vec<String> {
        let request = fetched(details, of);
        let grant = Grant::default();
        let view = View {
            request: &request,
            details,
            grant: &grant,
            existing: None,
            agents,
            account: account(),
            now: NOW,
        };
        view.lines().into_iter().map(|(word, text)| format!("{word}: {}", shown(&text))).collect()
    }

    #[track_caller]
    fn has(lines: &[String], line: &str) {
        assert!(lines.iter().any(|one| one == line), "no {line:?} in {lines:#?}");
    }

    #[test]
    fn what_is_claimed_and_what_was_seen_stand_apart() {
        let details = Details::Pair(Pair {
            host: Some("laptop".parse().unwrap()),
            name: Some("my-bot".parse().unwrap()),
            scope: scope("openrouter:ro"),
            user: None,
        });
        let key = fingerprint(&ChildKeys([7; 64]).fingerprint());
        assert_eq!(
            lines(&details, None, &[]),
            [
                "kind: Pair: a new daemon wants to be an agent of yours",
                "wants: read openrouter",
                "claimed: name \"my-bot\"",
                "claimed: host \"laptop\"",
                "claimed: no user",
                "seen: unix socket, uid 1000, program /bin/\\u{1b}[2Jnode",
                &format!("key: {key}"),
                &format!("account: {}, which is you", account()),
                "age: 12 seconds",
                "answer in: 48 seconds",
            ]
        );
        assert_eq!(key.len(), 39);
    }

    #[test]
    fn a_scope_change_says_what_is_added_and_what_is_taken_away() {
        let details = Details::ScopeChange(ScopeChange {
            agent: WalletAddress([3; 20]),
            reason: Some("to \"deploy\"".parse().unwrap()),
            scope: scope("github,stripe"),
        });
        let lines = lines(&details, Some(agent("bot", "github,brave:ro")), &[]);
        has(&lines, "wants: read and store github, stripe");
        has(&lines, "has now: read brave, github");
        has(&lines, "adds: stripe, to store");
        has(&lines, "takes away: brave");
        has(&lines, "claimed: reason \"to \\\"deploy\\\"\"");
    }

    #[test]
    fn a_recovery_says_which_daemon_loses_its_access() {
        let recover = Recover { agent: "bot".parse().unwrap(), host: None, user: None };
        let details = Details::Recover(recover);
        let old = "abab abab abab abab abab abab abab abab";
        let said = lines(&details, Some(agent("bot", "all")), &[]);
        has(
            &said,
            &format!(
                "replaces: {old}, since 2026-04-09 14:32:07 UTC, last used 3 minutes ago: it \
                 loses its access"
            ),
        );
        let mut alone = agent("bot", "all");
        alone.daemon = None;
        has(
            &lines(&details, Some(alone), &[]),
            "replaces: no daemon: none was paired with it so far",
        );
    }

    #[test]
    fn a_rotation_says_whether_the_old_key_is_the_agent_s() {
        let rotate = |byte| {
            Details::KeyRotate(KeyRotate { agent: WalletAddress([3; 20]), old: Hash32([byte; 32]) })
        };
        let old = "abab abab abab abab abab abab abab abab, since 2026-04-09 14:32:07 UTC";
        let said = lines(&rotate(0xAB), Some(agent("bot", "all")), &[]);
        has(&said, &format!("known: the old key is {old}"));
        let said = lines(&rotate(0xCD), Some(agent("bot", "all")), &[]);
        has(&said, &format!("look out: the old key is not the agent's, which is {old}"));
    }
}
