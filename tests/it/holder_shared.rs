//! Several daemons of one agent on one machine: one holds the session, whoever it is.
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentkeys::client::holder::{Record, recorded};
use agentkeys::core::holder::{Refusal, SessionHolder};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::daemon::shared::{MakeKeeper, Part, Shared};

use crate::holder_support::{Fake, SLOW, making, places, seat, service, until};

async fn who(shared: &Shared) -> String {
    match shared.read(&service("who")).await {
        Ok(found) => String::from_utf8(found.expose().to_vec()).unwrap(),
        Err(refusal) => panic!("{refusal:?}"),
    }
}

fn start(home: &Path, fake: &Arc<Fake>) -> (Arc<Shared>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = Shared::start(seat(home, None), making(fake.clone(), count.clone()));
    (shared, count)
}

#[tokio::test]
async fn the_first_holds_the_session_and_the_later_ones_relay_to_it() {
    let home = tempfile::tempdir().unwrap();
    let (one, made) = start(home.path(), &Fake::new("one"));
    assert_eq!(one.part().await.unwrap(), Part::Holder { unreachable: None });
    let (two, other) = start(home.path(), &Fake::new("two"));
    assert_eq!(two.part().await.unwrap(), Part::Relay { pid: Some(std::process::id()) });
    assert_eq!((who(&one).await, who(&two).await), ("one".into(), "one".into()));
    until("it is built", || made.load(Ordering::SeqCst) == 1).await;
    assert_eq!(other.load(Ordering::SeqCst), 0);
    // Another agent's daemon is none of them.
    let count = Arc::new(AtomicUsize::new(0));
    let named = Shared::start(seat(home.path(), Some("bot")), making(Fake::new("bot"), count));
    assert_eq!(who(&named).await, "bot");
    assert_eq!(recorded(&places(home.path())).unwrap().len(), 2);
}

#[tokio::test]
async fn of_those_that_start_at_once_just_one_holds_it() {
    for _ in 0..10 {
        let home = tempfile::tempdir().unwrap();
        let fakes: Vec<_> = (0..8).map(|n| Fake::new(&n.to_string())).collect();
        let all: Vec<_> = fakes.iter().map(|fake| start(home.path(), fake)).collect();
        let mut answers = Vec::new();
        for (shared, _) in &all {
            answers.push(who(shared).await);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let made: usize = all.iter().map(|(_, made)| made.load(Ordering::SeqCst)).sum();
        assert_eq!(made, 1);
        for (shared, _) in &all {
            shared.shutdown().await;
        }
    }
}

#[tokio::test]
async fn when_the_holder_ends_another_takes_over_though_nobody_asks_and_says_that_it_changed() {
    let home = tempfile::tempdir().unwrap();
    let (one, _) = start(home.path(), &Fake::new("one"));
    assert_eq!(who(&one).await, "one");
    let (two, made) = start(home.path(), &Fake::new("two"));
    assert_eq!(who(&two).await, "one");
    let seen = two.standing().await.unwrap().generation;
    // Until the relay knows where the holder stands, it may count once more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let settled = two.standing().await.unwrap().generation;
    assert!(settled <= seen + 1, "{seen} {settled}");
    let waits = tokio::spawn({
        let two = two.clone();
        async move { two.changed(settled).await }
    });
    tokio::task::yield_now().await;
    let begun = Instant::now();
    one.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    until("it takes over", || made.load(Ordering::SeqCst) == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(waits.await.unwrap().unwrap() > settled);
    assert_eq!(who(&two).await, "two");
    assert_eq!(two.part().await.unwrap(), Part::Holder { unreachable: None });
    let Err(Refusal::Problem(ending)) = one.read(&service("who")).await else { panic!("it read") };
    assert_eq!(ending.code, Code::Unavailable);
    two.shutdown().await;
    assert!(!seat(home.path(), None).socket().exists());
    assert!(recorded(&places(home.path())).unwrap().is_empty());
    assert!(seat(home.path(), None).take().await.unwrap().is_some());
}

#[tokio::test]
async fn a_change_at_the_holder_is_told_by_those_who_relay() {
    let home = tempfile::tempdir().unwrap();
    let fake = Fake::new("one");
    let (one, _) = start(home.path(), &fake);
    assert_eq!(who(&one).await, "one");
    let (two, _) = start(home.path(), &Fake::new("two"));
    assert_eq!(who(&two).await, "one");
    for shared in [&one, &two] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let seen = shared.standing().await.unwrap().generation;
        let waits = shared.changed(seen);
        let change = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fake.change();
        };
        let told = tokio::time::timeout(Duration::from_secs(5), async {
            tokio::join!(waits, change).0.unwrap()
        });
        assert!(told.await.unwrap() > seen);
    }
}

#[tokio::test]
async fn a_call_under_way_when_the_holder_ends_is_answered_by_the_next_one() {
    let home = tempfile::tempdir().unwrap();
    let (hangs, answers) = (Fake::new("one"), Fake::new("two"));
    answers.credentials.lock().unwrap().insert(SLOW.into(), b"here".to_vec());
    let (one, _) = start(home.path(), &hangs);
    assert_eq!(who(&one).await, "one");
    let (two, _) = start(home.path(), &answers);
    let reading = tokio::spawn({
        let two = two.clone();
        async move { two.read(&service(SLOW)).await.map(|key| key.expose().to_vec()) }
    });
    until("it is read", || hangs.slow_begun.load(Ordering::SeqCst) == 1).await;
    one.shutdown().await;
    assert_eq!(reading.await.unwrap().unwrap(), b"here");
    assert_eq!(hangs.slow_ended.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_keeper_that_cannot_be_built_is_told_to_all_and_tried_again_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(true));
    let make: MakeKeeper = Box::new({
        let broken = broken.clone();
        move || {
            let answer: Result<Arc<dyn SessionHolder>, _> = match broken.load(Ordering::SeqCst) {
                true => Err(Problem::new(Code::Internal, "the mirror does not read", "", "")),
                false => Ok(Fake::new("one")),
            };
            Box::pin(async move { answer })
        }
    });
    let one = Shared::start(seat(home.path(), None), make);
    assert_eq!(one.part().await.unwrap(), Part::Holder { unreachable: None });
    let (two, other) = start(home.path(), &Fake::new("two"));
    for shared in [&one, &two] {
        let Err(Refusal::Problem(told)) = shared.read(&service("who")).await else {
            panic!("it read")
        };
        assert_eq!(told.detail, "the mirror does not read");
    }
    broken.store(false, Ordering::SeqCst);
    assert_eq!((who(&two).await, who(&one).await), ("one".into(), "one".into()));
    assert_eq!(other.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn one_that_has_the_lock_and_does_not_listen_is_waited_for_and_not_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let lock = seat(home.path(), None).take().await.unwrap().unwrap();
    let (one, _) = start(home.path(), &Fake::new("one"));
    let begun = Instant::now();
    let Err(Refusal::Problem(told)) = one.read(&service("who")).await else { panic!("it read") };
    assert!(told.code == Code::Unavailable && told.cause.contains("has the lock"), "{told:?}");
    assert!((4..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // It ends while somebody waits: as when its socket is closed, and it is not gone yet.
    let reading = tokio::spawn({
        let one = one.clone();
        async move { who(&one).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!reading.is_finished());
    drop(lock);
    assert_eq!(reading.await.unwrap(), "one");
}

#[tokio::test]
async fn one_whose_socket_s_place_is_taken_serves_its_own_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let place = seat(home.path(), None);
    place.prepare().unwrap();
    let _other = tokio::net::UnixListener::bind(place.socket()).unwrap();
    let (one, _) = start(home.path(), &Fake::new("one"));
    let Part::Holder { unreachable: Some(why) } = one.part().await.unwrap() else {
        panic!("it listens")
    };
    assert!(why.cause.contains("another program listens") && why.fix.contains("--socket"));
    assert_eq!(who(&one).await, "one");
    one.shutdown().await;
    assert!(place.socket().exists());
}

const PART: &str = "AGENTKEYS_TEST_DAEMON_HOME";

/// A daemon in a process of its own: says what it reads as `who`, a line for each line.
struct Process {
    child: Child,
    ask: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Process {
    fn start(home: &Path) -> Self {
        let test = "holder_shared::when_a_process_is_killed_one_of_the_others_takes_over";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, ask, said: BufReader::new(said) }
    }

    fn who(&mut self) -> String {
        self.ask.write_all(b"who\n").unwrap();
        let mut line = String::new();
        // Before its first line the test harness says its own.
        while !line.contains("WHO ") {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the process ended");
        }
        line.split("WHO ").nth(1).unwrap().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn play(home: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (shared, _) = {
        let _inside = runtime.enter();
        start(home, &Fake::new(&std::process::id().to_string()))
    };
    for line in std::io::stdin().lines() {
        line.unwrap();
        println!("WHO {}", runtime.block_on(who(&shared)));
    }
}

#[test]
fn when_a_process_is_killed_one_of_the_others_takes_over() {
    if let Some(home) = std::env::var_os(PART) {
        return play(Path::new(&home));
    }
    let home = tempfile::tempdir().unwrap();
    let record = places(home.path()).holder_record(None).unwrap();
    let mut all: Vec<Process> = (0..4).map(|_| Process::start(home.path())).collect();
    while !all.is_empty() {
        // Asked one after the other at once, right after the last holder was killed.
        let answers: Vec<String> = all.iter_mut().map(Process::who).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        let at = all.iter().position(|one| one.child.id().to_string() == answers[0]);
        let at = at.unwrap_or_else(|| panic!("a dead one holds it: {answers:?}"));
        let written = Record::read(&record).unwrap().unwrap();
        assert_eq!(written.pid.to_string(), answers[0]);
        drop(all.remove(at));
    }
}
