//! A session's holder over its socket: the same answers as in process, and no stranger, no noise
//! and no crowd that keeps an honest caller from them.
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentkeys::client::holder::{HolderClient, is_gone};
use agentkeys::core::holder::{Access, MAX_ASK, Refusal, SessionHolder};
use agentkeys::core::problem::{Code, Problem};
use agentkeys::daemon::socket::{Limits, serve};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::holder_support::{AGENT, Fake, SLOW, service, until, waiting};

struct Scene {
    fake: Arc<Fake>,
    socket: PathBuf,
    client: HolderClient,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let mode = PermissionsExt::from_mode(0o700);
        let folder = tempfile::Builder::new().permissions(mode).tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = Fake::new("one");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let serving = tokio::spawn(serve(fake.clone(), listener, limits, stopped));
        let client = HolderClient::new(socket.clone());
        Self { fake, socket, client, stop: Some(stop), serving, _folder: folder }
    }

    async fn who(&self) -> String {
        let Ok(found) = self.client.read(&service("who")).await else { panic!("no answer") };
        String::from_utf8(found.expose().to_vec()).unwrap()
    }
}

fn problem<T>(held: Result<T, Refusal>) -> Problem {
    match held {
        Err(Refusal::Problem(problem)) => problem,
        Err(Refusal::Waiting(waiting)) => panic!("waits: {waiting:?}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn what_the_holder_answers_comes_through_as_it_is() {
    let scene = Scene::new(Limits::default());
    let client = &scene.client;
    let standing = client.standing().await.unwrap();
    assert_eq!(standing, scene.fake.standing().await.unwrap());
    let Ok(key) = client.read(&service("binary")).await else { panic!("no key") };
    assert_eq!(key.expose(), [0xFF, 0, b'\n', b'"']);
    let Ok(all) = client.read_all().await else { panic!("no keys") };
    let all: Vec<_> = all.iter().map(|r| (r.service.as_str(), r.credential.expose())).collect();
    let binary = ("binary", &[0xFF, 0, b'\n', b'"'][..]);
    assert_eq!(all, [binary, ("openrouter", b"sk-or-v1-fake"), ("who", b"one")]);
    let listing = client.list().await.unwrap();
    assert_eq!((listing.agent, listing.credentials.len()), (AGENT, 3));
    let missing = problem(client.read(&service("github")).await);
    assert_eq!(missing.code, Code::NotFound);
    assert!(missing.detail.contains("github") && !is_gone(&missing));
    let reason = "the tests want it".parse().unwrap();
    let Access::Waiting(asked) =
        client.request_access(&service("github"), Some(&reason)).await.unwrap()
    else {
        panic!("it was allowed")
    };
    assert_eq!(asked.kind.as_str(), "ScopeChange");
    assert_eq!(client.request_access(&service("who"), None).await.unwrap(), Access::Allowed);
    let seen = scene.fake.asked.lock().unwrap().clone();
    let reason = Some("the tests want it".to_owned());
    assert_eq!(seen, [("github".to_owned(), reason), ("who".to_owned(), None)]);
    assert_eq!(client.rotate().await.unwrap().kind.as_str(), "KeyRotate");
    *scene.fake.waits.lock().unwrap() = Some(waiting());
    let Err(Refusal::Waiting(told)) = client.read_all().await else { panic!("it did not wait") };
    assert_eq!(told, waiting());
}

#[tokio::test]
async fn the_largest_credential_fits_and_too_many_of_them_are_refused_in_words() {
    let scene = Scene::new(Limits::default());
    let large = vec![b'x'; 65_536];
    scene.fake.credentials.lock().unwrap().insert("large".into(), large.clone());
    let Ok(key) = scene.client.read(&service("large")).await else { panic!("no key") };
    assert!(key.expose() == large);
    for n in 0..120 {
        scene.fake.credentials.lock().unwrap().insert(format!("large{n}"), large.clone());
    }
    let refused = problem(scene.client.read_all().await);
    assert_eq!(refused.code, Code::TooLarge);
    assert_eq!(scene.who().await, "one");
}

#[tokio::test]
async fn a_wait_for_a_change_ends_with_it_and_without_one_in_time() {
    let limits = Limits { change: Duration::from_millis(200), ..Limits::default() };
    let scene = Scene::new(limits);
    assert_eq!(scene.client.changed(3).await.unwrap(), 7);
    let begun = Instant::now();
    assert_eq!(scene.client.changed(7).await.unwrap(), 7);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let waits = tokio::spawn({
        let client = scene.client.clone();
        async move { client.changed(7).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    scene.fake.change();
    assert_eq!(waits.await.unwrap().unwrap(), 8);
}

#[tokio::test]
async fn a_holder_that_has_gone_is_told_from_one_that_refuses() {
    let mut scene = Scene::new(Limits::default());
    let nowhere = HolderClient::new(scene.socket.with_file_name("nowhere"));
    assert!(is_gone(&problem(nowhere.standing().await)));
    let reading = tokio::spawn({
        let client = scene.client.clone();
        async move { problem(client.read(&service(SLOW)).await) }
    });
    until("it is read", || scene.fake.slow_begun.load(Ordering::SeqCst) == 1).await;
    drop(scene.stop.take());
    let told = reading.await.unwrap();
    assert!(is_gone(&told) && told.code == Code::Unavailable, "{told:?}");
    (&mut scene.serving).await.unwrap();
    assert_eq!(scene.fake.slow_ended.load(Ordering::SeqCst), 1);
    assert!(is_gone(&problem(scene.client.list().await)));
}

#[tokio::test]
async fn another_process_than_the_recorded_one_is_not_asked() {
    let scene = Scene::new(Limits::default());
    let record = |pid| agentkeys::client::holder::Record { pid, socket: scene.socket.clone() };
    let other = HolderClient::of(record(1));
    assert!(!other.is_there().await.unwrap());
    assert!(is_gone(&problem(other.read(&service("who")).await)));
    assert!(HolderClient::of(record(std::process::id())).is_there().await.unwrap());
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_its_work() {
    let scene = Scene::new(Limits::default());
    let reading = tokio::spawn({
        let client = scene.client.clone();
        async move { client.read(&service(SLOW)).await.map(drop) }
    });
    until("it is read", || scene.fake.slow_begun.load(Ordering::SeqCst) == 1).await;
    assert_eq!(scene.fake.slow_ended.load(Ordering::SeqCst), 0);
    reading.abort();
    until("it is given up", || scene.fake.slow_ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_cut_off_in_words() {
    let limits = Limits { answer: Duration::from_millis(100), ..Limits::default() };
    let scene = Scene::new(limits);
    let late = problem(scene.client.read(&service(SLOW)).await);
    assert!(late.code == Code::Unavailable && !is_gone(&late), "{late:?}");
    assert_eq!(scene.fake.slow_ended.load(Ordering::SeqCst), 1);
}

/// Sends bytes, and gives all that comes back until the other side closes the connection.
async fn exchange(socket: &Path, sent: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // It may be closed before all of it was taken.
    let _ = stream.write_all(sent).await;
    let mut back = Vec::new();
    let read = stream.read_to_end(&mut back);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    let read = read.expect("the connection was not closed");
    // Bytes that nobody read make it a reset, behind the answer or in its place.
    drop(read);
    String::from_utf8(back).unwrap()
}

#[tokio::test]
async fn a_line_that_is_no_question_gets_a_refusal_that_repeats_nothing_and_ends_the_connection() {
    let scene = Scene::new(Limits::default());
    let deep = [b"[".repeat(3000), b"\n".to_vec()].concat();
    let cases: &[&[u8]] = &[
        b"SECRET\n",
        b"\n",
        b"{}\n",
        b"{\"id\":1}\n",
        b"{\"id\":1,\"ask\":{\"SECRET\":{}}}\n",
        b"{\"id\":1,\"ask\":{\"read\":{\"service\":\"SECRET/../x\"}}}\n",
        b"{\"id\":1,\"ask\":{\"read\":{\"service\":\"a\",\"SECRET\":1}}}\n",
        b"{\"id\":1,\"ask\":{\"list\":{}},\"SECRET\":1}\n",
        b"{\"id\":1,\"id\":1,\"ask\":{\"list\":{}}}\n",
        b"{\"id\":-1,\"ask\":{\"list\":{}}}\n",
        b"{\"id\":\"SECRET\",\"ask\":{\"list\":{}}}\n",
        b"\x00\xff\xfe SECRET\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &deep,
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(case);
        let back = exchange(&scene.socket, case).await;
        assert_eq!(back.lines().count(), 1, "{shown}: {back}");
        assert!(back.contains("\"refused\"") && back.contains("INVALID"), "{shown}: {back}");
        assert!(!back.contains("SECRET"), "{shown}: {back}");
    }
    // Exactly as long as a line may be, and one byte more.
    let padded = |length: usize| {
        let mut line = br#"{"id":1,"ask":{"list":{}}}"#.to_vec();
        line.resize(length, b' ');
        line
    };
    let mut fits = padded(MAX_ASK);
    fits.extend(b"\nbad\n");
    let back = exchange(&scene.socket, &fits).await;
    assert!(back.contains("\"ok\"") || back.contains("INVALID"), "{back}");
    let back = exchange(&scene.socket, &padded(MAX_ASK + 1)).await;
    assert!(back.contains("TOO_LARGE"), "{back}");
    // Half a line is no question, however it ends.
    let mut half = UnixStream::connect(&scene.socket).await.unwrap();
    half.write_all(br#"{"id":1,"ask":{"read":{"service":"slow"}}}"#).await.unwrap();
    half.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    half.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    assert_eq!(scene.fake.slow_begun.load(Ordering::SeqCst), 0);
    assert_eq!(scene.who().await, "one");
}

#[tokio::test]
async fn one_connection_may_ask_several_things_at_once_and_is_answered_in_any_order() {
    let scene = Scene::new(Limits::default());
    let mut stream = BufReader::new(UnixStream::connect(&scene.socket).await.unwrap());
    let asks = b"{\"id\":5,\"ask\":{\"changed\":{\"seen\":7}}}\n{\"id\":6,\"ask\":{\"list\":{}}}\n";
    stream.write_all(asks).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("{\"id\":6,\"ok\":{\"agent\""), "{line}");
    scene.fake.change();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "{\"id\":5,\"ok\":8}\n");
}

#[tokio::test]
async fn a_connection_asks_just_so_much() {
    let scene = Scene::new(Limits { questions: 3, ..Limits::default() });
    let ask = b"{\"id\":9,\"ask\":{\"list\":{}}}\n";
    let mut stream = BufReader::new(UnixStream::connect(&scene.socket).await.unwrap());
    let mut line = String::new();
    for _ in 0..3 {
        line.clear();
        stream.write_all(ask).await.unwrap();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.contains("\"id\":9,\"ok\""), "{line}");
    }
    line.clear();
    stream.write_all(ask).await.unwrap();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.contains("\"id\":0,\"refused\""), "{line}");
    assert_eq!(stream.read_line(&mut line).await.unwrap(), 0);
}

#[tokio::test]
async fn one_that_says_nothing_or_says_it_byte_by_byte_is_closed_in_time() {
    let scene = Scene::new(Limits { idle: Duration::from_millis(300), ..Limits::default() });
    let begun = Instant::now();
    let silent = exchange(&scene.socket, b"");
    let dripping = async {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "it was let go on");
        }
    };
    let (back, ()) = tokio::join!(silent, dripping);
    assert_eq!(back, "");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_thousand_connections_keep_no_honest_caller_out() {
    let scene = Scene::new(Limits { grace: Duration::from_millis(300), ..Limits::default() });
    let mut crowd = Vec::new();
    for n in 0..1000 {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        if n % 2 == 0 {
            // Turned away, it may be closed already.
            let _ = stream.write_all(b"{\"id\":1,").await;
        }
        crowd.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(scene.who().await, "one");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Many honest ones at once all get their answer.
    let all: Vec<_> = (0..200)
        .map(|_| {
            let client = scene.client.clone();
            tokio::spawn(async move { client.read(&service("who")).await.is_ok() })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    drop(crowd);
}

/// What `nobody` gets from a socket, by a program that knows nothing of us.
fn as_nobody(socket: &Path) -> (bool, String) {
    const ASK: &str = r#"
        use IO::Socket::UNIX;
        $| = 1;
        $SIG{PIPE} = "IGNORE";
        my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or do { print "closed: $!"; exit 0 };
        print "connected:";
        print $socket qq({"id":1,"ask":{"read":{"service":"who"}}}\n);
        $socket->flush;
        my $line = <$socket>;
        print $line // "";
    "#;
    let output = Command::new("/usr/bin/setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "/usr/bin/perl",
            "-e",
            ASK,
        ])
        .arg(socket)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (text.starts_with("connected:"), text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_is_not_answered_even_where_the_folder_lets_them_in() {
    if agentkeys::harden::effective_uid() != 0 {
        assert!(std::env::var_os("CI").is_none(), "needs to be root to become another user");
        eprintln!("SKIPPED: needs to be root to become another user");
        return;
    }
    let scene = Scene::new(Limits::default());
    // The folder's mode keeps them out in the first place.
    let (connected, text) = as_nobody(&scene.socket);
    assert!(!connected && text.contains("ermission denied"), "{text}");
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o777));
    open(scene.socket.parent().unwrap()).unwrap();
    open(&scene.socket).unwrap();
    let (connected, text) = as_nobody(&scene.socket);
    assert!(connected, "{text}");
    assert_eq!(text, "connected:");
    // The same words from ourselves are answered.
    let mut ours = StdStream::connect(&scene.socket).unwrap();
    ours.write_all(b"{\"id\":1,\"ask\":{\"read\":{\"service\":\"who\"}}}\n").unwrap();
    let mut back = [0; 64];
    let read = ours.read(&mut back).unwrap();
    assert_eq!(&back[..read], b"{\"id\":1,\"ok\":\"b25l\"}\n");
    // And our own client turns away from a folder that is open to others.
    let refused = problem(scene.client.read(&service("who")).await);
    assert!(refused.cause.contains("open to others"), "{refused:?}");
}
