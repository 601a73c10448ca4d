//! Stage 5, mail: how a recipe finds its code in a mailbox, against a real IMAP server. The finer
//! cases are in `scripts/provisioner/test/email.test.ts`.
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::recipe_support::{Program, are_built};

/// Delivers a mail by LMTP (RFC 2033).
fn deliver(lmtp: &str, to: &str, text: &str) {
    let mut stream = TcpStream::connect(lmtp).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut answer = |wanted: &str| loop {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert!(line.starts_with(wanted), "{line}");
        if line.as_bytes()[3] == b' ' {
            return;
        }
    };
    answer("220");
    let mail = format!(
        "From: codes@service.test\r\nTo: {to}\r\nSubject: Your code\r\n\r\n{text}\r\n.\r\n"
    );
    let said = [
        ("LHLO test\r\n", "250"),
        ("MAIL FROM:<codes@service.test>\r\n", "250"),
        (&format!("RCPT TO:<{to}>\r\n"), "250"),
        ("DATA\r\n", "354"),
        (&mail, "250"),
        ("QUIT\r\n", "221"),
    ];
    for (line, wanted) in said {
        stream.write_all(line.as_bytes()).unwrap();
        answer(wanted);
    }
}

/// What a search for a code gives when these mails come after the mailbox was marked, and this one
/// before.
fn found(before: Option<(&str, &str)>, mails: &[(&str, &str)], seconds: u64) -> Value {
    let mut dovecot = Program::start("dovecot.js", &[]);
    let server = dovecot.says();
    let lmtp = server["lmtp"].as_str().unwrap().to_owned();
    if let Some((to, text)) = before {
        deliver(&lmtp, to, text);
    }
    let mut search = Program::start("fetch-code.js", &[]);
    search.tell(&json!({
        "imap": server["imap"],
        "user": server["user"],
        "password": server["password"],
        "recipient": "ada+agentkeys-1@service.test",
        "from": "codes@service.test",
        "seconds": seconds,
    }));
    assert_eq!(search.says(), json!({ "ready": true }));
    for (to, text) in mails {
        deliver(&lmtp, to, text);
    }
    search.says()
}

#[test]
fn fetch_code_plus_address() {
    if !are_built() {
        return;
    }
    let others = [
        ("ada+another@service.test", "your code is 111111"),
        ("ada@service.test", "your code is 222222"),
        ("ada+agentkeys-1@service.test", "your code is 333333"),
    ];
    let before = ("ada+agentkeys-1@service.test", "your code is 444444");
    assert_eq!(found(Some(before), &others, 30), json!({ "code": "333333" }));
}

#[test]
fn fetch_code_timeout() {
    if !are_built() {
        return;
    }
    let before = ("ada+agentkeys-1@service.test", "your code is 444444");
    let got = found(Some(before), &[], 2);
    assert_eq!(got["error"]["reason"], "mail_timeout", "{got}");
    let message = got["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("within ") && message.ends_with("no mail came"), "{message}");
}

#[test]
fn fetch_code_wrong_pattern() {
    if !are_built() {
        return;
    }
    let mails = [
        ("ada+agentkeys-1@service.test", "your code is 12345"),
        ("ada+agentkeys-1@service.test", "your code is 123456 or 654321"),
    ];
    let got = found(None, &mails, 3);
    assert_eq!(got["error"]["reason"], "mail_timeout", "{got}");
    let message = got["error"]["message"].as_str().unwrap();
    assert!(message.contains("2 with another pattern of codes"), "{message}");
}
