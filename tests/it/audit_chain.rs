//! The audit chain: its bytes, its signed head, and that a walk names the first bad event.
use agentkeys::core::audit::{
    Action, Actor, Entry, Event, Fault, GENESIS, Head, Outcome, Role, Walk,
};
use agentkeys::core::cbor;
use agentkeys::core::types::{
    AccountId, BackendId, Hash32, PublicKey, RequestId, SessionId, Timestamp, WalletAddress, to_hex,
};
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use crate::vectors::{json as read, list, load, master, parse, text};

const BACKEND: BackendId = BackendId([1; 16]);
const ACCOUNT: AccountId = AccountId([2; 16]);

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn event(seq: u64, prev: Hash32) -> Event {
    Event {
        by: Actor {
            host: Some("laptop".into()),
            role: Role::Master,
            user: Some("ann".into()),
            session: Some(SessionId([3; 16])),
        },
        seq,
        prev,
        time: Timestamp(1_775_745_127_000 + seq),
        agent: Some(WalletAddress([4; 20])),
        action: Action::Read,
        detail: Some(format!("number {seq}")),
        account: ACCOUNT,
        outcome: Outcome::Allowed,
        request: Some(RequestId([5; 16])),
        service: Some("openrouter".parse().unwrap()),
        presence: "none".into(),
        set_backs: None,
        agent_name: Some("my-bot".into()),
    }
}

/// An honest log of `count` events.
fn log(count: u64) -> Vec<Event> {
    continued(Vec::new(), count)
}

fn continued(mut events: Vec<Event>, count: u64) -> Vec<Event> {
    while (events.len() as u64) < count {
        let prev = events.last().map_or(GENESIS, |last: &Event| last.hash(BACKEND));
        events.push(event(events.len() as u64 + 1, prev));
    }
    events
}

fn head_of(events: &[Event]) -> Head {
    let hash = events.last().map_or(GENESIS, |last| last.hash(BACKEND));
    Head::sign(BACKEND, ACCOUNT, events.len() as u64, hash, &key(7))
}

fn entries(events: &[Event]) -> Vec<Entry> {
    events.iter().cloned().map(|event| Entry::Event(Box::new(event))).collect()
}

fn walk(entries: &[Entry], head: &Head, seen: Option<&Head>) -> Result<u64, Fault> {
    let mut walk = Walk::new(BACKEND, ACCOUNT, seen);
    entries.iter().try_for_each(|entry| walk.step(entry))?;
    walk.finish(head)
}

/// The fault that a walk over the honest log of six events finds after `change`; the log is
/// walked untouched first.
fn after(change: impl FnOnce(&mut Vec<Entry>)) -> Result<u64, Fault> {
    let events = log(6);
    let (mut entries, head, seen) = (entries(&events), head_of(&events), head_of(&events[..3]));
    assert_eq!(walk(&entries, &head, Some(&seen)), Ok(6), "untouched");
    assert_eq!(walk(&entries, &head, None), Ok(6), "untouched, never looked before");
    change(&mut entries);
    walk(&entries, &head, Some(&seen))
}

fn of(entry: &mut Entry) -> &mut Event {
    match entry {
        Entry::Event(event) => event,
        Entry::Damaged { .. } => panic!("an event"),
    }
}

/// `hash` takes the plain encoding for the canonical one, so the fields must be declared in
/// canonical order; also those of the actor.
#[test]
fn the_plain_encoding_of_an_event_is_the_canonical_one() {
    let mut full = event(1, GENESIS);
    full.set_backs = Some(2);
    assert_eq!(cbor::to_row(&full).unwrap(), cbor::to_canonical(&full).unwrap());
    let shown = serde_json::to_value(&full).unwrap();
    assert_eq!(shown.as_object().unwrap().len(), 14, "every field is there in this test");
    assert_eq!(shown["by"].as_object().unwrap().len(), 4, "every field is there in this test");
    let mut bare = full;
    bare.by = Actor::default();
    (bare.agent, bare.detail, bare.request) = (None, None, None);
    (bare.service, bare.agent_name, bare.set_backs) = (None, None, None);
    assert_eq!(cbor::to_row(&bare).unwrap(), cbor::to_canonical(&bare).unwrap());
}

#[test]
fn another_implementation_hashes_and_signs_alike() {
    let file = load("audit_vectors.json");
    let backend: BackendId = parse(&file["backend_id"]);
    let head: Head = read(&file["head"]);
    let mut walk = Walk::new(backend, head.account, None);
    for vector in list(&file["events"]) {
        let event: Event = read(&vector["event"]);
        assert_eq!(to_hex(&cbor::to_canonical(&event).unwrap()), text(&vector["cbor"]));
        assert_eq!(event.hash(backend), parse(&vector["hash"]));
        let entry: Entry = read(&vector["event"]);
        walk.step(&entry).unwrap();
        assert_eq!(serde_json::to_value(&entry).unwrap(), vector["event"]);
    }
    assert!(head.is_authentic());
    let signed = Head::sign(backend, head.account, head.seq, head.hash, &master(&file));
    assert_eq!(signed, head);
    assert_eq!(walk.finish(&head), Ok(3));
}

#[test]
fn another_implementation_counts_set_backs_alike() {
    let file = load("audit_vectors.json");
    let backend: BackendId = parse(&file["backend_id"]);
    let head: Head = read(&file["set_back_head"]);
    let mut walk = Walk::new(backend, head.account, None);
    for vector in list(&file["events"]).iter().chain([&file["accepted"]]) {
        let event: Event = read(&vector["event"]);
        assert_eq!(to_hex(&cbor::to_canonical(&event).unwrap()), text(&vector["cbor"]));
        assert_eq!(event.hash(backend), parse(&vector["hash"]));
        walk.step(&read(&vector["event"])).unwrap();
    }
    assert!(head.is_authentic());
    let Head { account, seq, hash, set_backs, .. } = head;
    let signed = Head::sign_set_back(backend, account, seq, hash, set_backs, &master(&file));
    assert_eq!(signed, head);
    assert_eq!(serde_json::to_value(&signed).unwrap(), file["set_back_head"]);
    assert_eq!(walk.finish(&head), Ok(4));
}

#[test]
fn a_changed_event_is_found() {
    for at in 0..6usize {
        let changes: [fn(&mut Event); 8] = [
            |e| e.detail = Some("other".into()),
            |e| e.detail = None,
            |e| e.outcome = Outcome::Denied,
            |e| e.action = Action::Store,
            |e| e.time.0 += 1,
            |e| e.by.user = Some("bob".into()),
            |e| e.service = Some("github".parse().unwrap()),
            |e| e.agent = None,
        ];
        for change in changes {
            // It shows in the next event's link, in what was seen, or in the head.
            let expected = match at {
                2 => Fault::Forked(3),
                5 => Fault::Head(6),
                at => Fault::Chain(at as u64 + 2),
            };
            assert_eq!(after(|log| change(of(&mut log[at]))), Err(expected), "event {}", at + 1);
        }
        let number = at as u64 + 1;
        assert_eq!(after(|log| of(&mut log[at]).prev.0[0] ^= 1), Err(Fault::Chain(number)));
        let foreign = |log: &mut Vec<Entry>| of(&mut log[at]).account.0[0] ^= 1;
        assert_eq!(after(foreign), Err(Fault::Foreign(number)));
    }
}

#[test]
fn a_row_that_does_not_open_is_found() {
    for at in 0..6usize {
        let damaged = at as u64 + 1;
        let damage = |log: &mut Vec<Entry>| log[at] = Entry::Damaged { damaged };
        assert_eq!(after(damage), Err(Fault::Damaged(damaged)));
    }
    // One that stands elsewhere: the place where it should not be is what is wrong.
    assert_eq!(after(|log| log[1] = Entry::Damaged { damaged: 5 }), Err(Fault::Missing(2)));
}

#[test]
fn a_missing_event_is_found() {
    for at in 0..6usize {
        let missing = at as u64 + 1;
        assert_eq!(after(|log| drop(log.remove(at))), Err(Fault::Missing(missing)));
    }
    assert_eq!(after(Vec::clear), Err(Fault::Missing(1)));
}

#[test]
fn a_repeated_or_reordered_event_is_found() {
    for at in 0..5usize {
        assert_eq!(after(|log| log.swap(at, at + 1)), Err(Fault::Missing(at as u64 + 1)));
    }
    assert_eq!(after(|log| log.reverse()), Err(Fault::Missing(1)));
    assert_eq!(after(|log| log.insert(2, log[1].clone())), Err(Fault::Missing(3)));
    // Numbered anew, the links give it away.
    let renumbered = |log: &mut Vec<Entry>| {
        log.swap(3, 4);
        of(&mut log[3]).seq = 4;
        of(&mut log[4]).seq = 5;
    };
    assert_eq!(after(renumbered), Err(Fault::Chain(4)));
}

#[test]
fn an_event_that_the_head_does_not_know_is_found() {
    let longer = |log: &mut Vec<Entry>| {
        let last = of(&mut log[5]).hash(BACKEND);
        log.push(Entry::Event(Box::new(event(7, last))));
    };
    assert_eq!(after(longer), Err(Fault::Head(7)));
}

/// Log and head both rolled back to an honest earlier state: only what the client remembers
/// tells.
#[test]
fn a_log_that_was_cut_off_is_found_by_who_saw_more() {
    let events = log(6);
    let seen = head_of(&events);
    for end in 0..6 {
        let (cut, head) = (entries(&events[..end]), head_of(&events[..end]));
        assert_eq!(walk(&cut, &head, None), Ok(end as u64), "whole by itself");
        assert_eq!(walk(&cut, &head, Some(&seen)), Err(Fault::CutOff(end as u64 + 1)));
    }
    assert_eq!(walk(&entries(&events), &seen, Some(&seen)), Ok(6));
}

/// Rewritten from some event on, and signed by the true master key.
#[test]
fn a_forked_log_is_found_by_who_saw_the_other() {
    let events = log(6);
    for from in 0..5usize {
        let mut other = events[..from].to_vec();
        let prev = other.last().map_or(GENESIS, |last| last.hash(BACKEND));
        let mut changed = event(from as u64 + 1, prev);
        changed.outcome = Outcome::Denied;
        other.push(changed);
        let other = continued(other, 8);
        let (fork, head) = (entries(&other), head_of(&other));
        assert_eq!(walk(&fork, &head, None), Ok(8), "whole by itself");
        assert_eq!(walk(&fork, &head, Some(&head_of(&events[..5]))), Err(Fault::Forked(5)));
        // Who saw only what both have in common cannot tell, and is not told so.
        assert_eq!(walk(&fork, &head, Some(&head_of(&events[..from]))), Ok(8));
    }
}

/// Whoever rewrites the log can sign it too, but not with the key that was seen before.
#[test]
fn a_head_by_another_key_is_refused() {
    let events = log(6);
    let (whole, seen) = (entries(&events), head_of(&events[..3]));
    let last = events[5].hash(BACKEND);
    let foreign = Head::sign(BACKEND, ACCOUNT, 6, last, &key(8));
    assert!(foreign.is_authentic());
    assert_eq!(walk(&whole, &head_of(&events), Some(&seen)), Ok(6));
    assert_eq!(walk(&whole, &foreign, Some(&seen)), Err(Fault::Signature(6)));
}

#[test]
fn a_changed_head_is_refused() {
    let events = log(6);
    let (whole, head) = (entries(&events), head_of(&events));
    assert!(head.is_authentic());
    assert_eq!(walk(&whole, &head, None), Ok(6));
    let changes: [fn(&mut Head); 6] = [
        |h| h.backend_id.0[0] ^= 1,
        |h| h.account.0[0] ^= 1,
        |h| h.seq = 5,
        |h| h.hash.0[0] ^= 1,
        |h| h.master_key.0[0] ^= 1,
        |h| h.signature.0[0] ^= 1,
    ];
    for change in changes {
        let mut changed = head.clone();
        change(&mut changed);
        assert!(!changed.is_authentic());
        let seq = changed.seq;
        assert_eq!(walk(&whole, &changed, None), Err(Fault::Signature(seq)));
    }
    // Honest heads of another backend or account are no heads of this one.
    let elsewhere = Head::sign(BackendId([9; 16]), ACCOUNT, 6, head.hash, &key(7));
    assert_eq!(walk(&whole, &elsewhere, None), Err(Fault::Signature(6)));
    let foreign = Head::sign(BACKEND, AccountId([9; 16]), 6, head.hash, &key(7));
    assert_eq!(walk(&whole, &foreign, None), Err(Fault::Signature(6)));
}

#[test]
fn an_empty_log_has_a_head_too() {
    let head = head_of(&[]);
    assert_eq!((head.seq, head.hash), (0, GENESIS));
    assert_eq!(walk(&[], &head, None), Ok(0));
    let wrong = Head::sign(BACKEND, ACCOUNT, 0, Hash32([1; 32]), &key(7));
    assert!(walk(&[], &wrong, None).is_err());
}

/// The same events in another backend's log hash to other values.
#[test]
fn a_chain_belongs_to_its_backend() {
    let first = event(1, GENESIS);
    assert_ne!(first.hash(BACKEND), first.hash(BackendId([9; 16])));
    let encoded = cbor::to_row(&first).unwrap();
    assert_eq!(Event::hash_encoded(BACKEND, &encoded), first.hash(BACKEND));
}

#[test]
fn the_json_forms_are_strict() {
    let whole = serde_json::to_value(event(1, GENESIS)).unwrap();
    let _: Entry = read(&whole);
    let with = |name: &str, value: Value| {
        let mut changed = whole.clone();
        changed.as_object_mut().unwrap().insert(name.to_owned(), value);
        serde_json::from_value::<Entry>(changed)
    };
    assert!(with("extra", json!(1)).is_err());
    assert!(with("damaged", json!(1)).is_err(), "neither an event nor a damaged row");
    assert!(with("seq", json!(-1)).is_err());
    assert!(with("seq", json!(1.5)).is_err());
    assert!(with("action", json!("Read")).is_err());
    assert!(with("agent", json!("my-bot")).is_err());
    assert_eq!(read::<Entry>(&json!({ "damaged": 3 })), Entry::Damaged { damaged: 3 });
    let key = PublicKey([0; 32]);
    assert!(serde_json::from_value::<Head>(json!({ "seq": 1, "master_key": key })).is_err());
}

/// An honest log in which the second event accepts a set-back.
fn accepted(count: u64) -> (Vec<Event>, Head) {
    let mut events = log(1);
    let mut accepts = event(2, events[0].hash(BACKEND));
    (accepts.action, accepts.set_backs) = (Action::HeadAccepted, Some(count));
    events.push(accepts);
    let events = continued(events, 4);
    let hash = events.last().unwrap().hash(BACKEND);
    let head = Head::sign_set_back(BACKEND, ACCOUNT, 4, hash, count, &key(7));
    (events, head)
}

#[test]
fn a_head_counts_the_set_backs_that_the_log_accepts_and_no_others() {
    let (events, head) = accepted(3);
    assert!(head.is_authentic());
    assert_eq!(walk(&entries(&events), &head, None), Ok(4));
    // Signed for another count: by the account's key, so the log itself has to tell.
    for count in [0, 2, 4] {
        let hash = events.last().unwrap().hash(BACKEND);
        let other = Head::sign_set_back(BACKEND, ACCOUNT, 4, hash, count, &key(7));
        assert_eq!(walk(&entries(&events), &other, None), Err(Fault::SetBacks(4)), "{count}");
    }
    let mut changed = head.clone();
    changed.set_backs = 0;
    assert!(!changed.is_authentic());
    // A count that goes back, one without an acceptance, an acceptance without one.
    let (events, _) = accepted(0);
    assert_eq!(walk(&entries(&events), &head, None), Err(Fault::SetBacks(2)));
    let mut events = log(2);
    events[1].set_backs = Some(1);
    assert_eq!(walk(&entries(&events), &head, None), Err(Fault::SetBacks(2)));
    (events[1].action, events[1].set_backs) = (Action::HeadAccepted, None);
    assert_eq!(walk(&entries(&events), &head, None), Err(Fault::SetBacks(2)));
}
