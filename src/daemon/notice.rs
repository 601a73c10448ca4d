//! What a daemon tells the person at its terminal, or whoever reads its log.
use crate::core::auth_request::Kind;
use crate::core::holder::Waiting;
use crate::core::problem::Problem;
use crate::core::types::Timestamp;

/// What a kind of request asks of the master, in words.
const fn asks(kind: Kind) -> &'static str {
    match kind {
        Kind::Pair => "a session for a new agent",
        Kind::Recover => "going on as an agent that exists",
        Kind::ScopeChange => "another scope for the agent",
        Kind::HighValueRelease => "one act of high value",
        Kind::KeyRotate => "new keys for the agent's daemon",
    }
}

/// The code, the OTP, and what is to be done with them.
pub fn waiting(waiting: &Waiting, now: Timestamp) -> String {
    let left = waiting.expires_at.since_ms(now) / 1000;
    let because = match &waiting.because {
        Some(problem) => format!("{}\n  cause      {}\n", problem.detail, problem.cause),
        None => String::new(),
    };
    let existing = match waiting.kind {
        Kind::Pair => "with --as NAME, if this is to be an agent that you have keys for\n",
        _ => "",
    };
    format!(
        "{because}waiting for approval of {}\n\
         \n    pair code  {}\n    OTP        {}\n\n\
         whoever keeps the keys runs this on their own machine within {}:\n\
         \n    {}\n\n\
         {existing}it shows the same OTP; say yes only if it does\n",
        asks(waiting.kind),
        waiting.pair_code,
        waiting.otp,
        duration(left),
        waiting.command,
    )
}

/// Seconds as people say them.
fn duration(seconds: u64) -> String {
    match seconds {
        90.. => format!("{} minutes", (seconds + 30) / 60),
        60.. => "a minute".to_owned(),
        _ => format!("{seconds} seconds"),
    }
}

/// A problem, as the commands show it.
pub fn problem(problem: &Problem) -> String {
    let mut lines = problem.fix.lines();
    let mut text = format!("error: {}\n\n  cause  {}\n", problem.detail, problem.cause);
    if let Some(first) = lines.next() {
        text.push_str(&format!("  fix    {first}\n"));
    }
    for line in lines {
        text.push_str(&format!("         {line}\n"));
    }
    text.push_str(&format!("  docs   {}\n", problem.docs));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_code_otp_command_and_how_long() {
        let shown = waiting(
            &Waiting {
                kind: Kind::Pair,
                pair_code: "ABCD-EFGH".to_owned(),
                otp: "012345".to_owned(),
                expires_at: Timestamp(301_000),
                command: "agentkeys approve ABCD-EFGH".to_owned(),
                because: None,
            },
            Timestamp(1_000),
        );
        for part in ["ABCD-EFGH", "012345", "agentkeys approve ABCD-EFGH", "5 minutes"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("--yes"));
        assert_eq!(duration(59), "59 seconds");
        assert_eq!((duration(89), duration(299)), ("a minute".into(), "5 minutes".into()));
    }
}
