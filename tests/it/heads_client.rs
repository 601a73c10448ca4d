//! What a client does with the heads that it sees: an older or forked log is found, reported, and
//! not forgotten; answers that crossed each other are no cause for alarm.
use agentkeys::core::problem::Code;
use agentkeys::core::set_back::{Compared, is_set_back};

use crate::client_connect::{Home, list};
use crate::client_stand_in::{ACCOUNT, head};

const AGREES: Compared = Compared { agrees: true, accepted: false };
const CONTRADICTS: Compared = Compared { agrees: false, accepted: false };

#[tokio::test]
async fn an_older_head_is_a_problem_that_says_what_was_seen_and_stays_one() {
    let home = Home::new();
    home.stand_in.state().head = Some(head(9, 0));
    let connection = home.private().await;
    connection.remember_head().await.unwrap();
    assert_eq!(connection.seen_head(ACCOUNT), None);
    list(&connection).await.unwrap();
    assert_eq!(connection.remember_head().await, Ok(None));
    assert_eq!(home.private().await.seen_head(ACCOUNT).unwrap().head, head(9, 0));

    home.stand_in.state().compared = Some(CONTRADICTS);
    // Also once the log is further on than what was seen: nobody said that it was meant.
    for end in [head(8, 0), head(8, 0), head(9, 0), head(12, 0)] {
        home.stand_in.state().head = Some(end);
        let connection = home.private().await;
        list(&connection).await.unwrap();
        let older = connection.remember_head().await.unwrap_err();
        assert_eq!((older.code, is_set_back(&older)), (Code::Denied, true));
        assert!(older.detail.contains("older"), "{}", older.detail);
        assert!(older.cause.contains("event 8") && older.cause.contains("event 9"));
    }
    // The backend was told once; later commands know without asking it anything.
    let state = home.stand_in.state();
    assert_eq!((state.count("/audit/compare"), state.count("/audit/query")), (1, 1));
}

#[tokio::test]
async fn an_answer_that_another_command_overtook_is_no_cause_for_alarm() {
    let home = Home::new();
    let slow = home.private().await;
    home.stand_in.state().head = Some(head(8, 0));
    list(&slow).await.unwrap();
    let fast = home.private().await;
    home.stand_in.state().head = Some(head(9, 0));
    list(&fast).await.unwrap();
    assert_eq!(fast.remember_head().await, Ok(None));
    assert_eq!(slow.remember_head().await, Ok(None));
    assert_eq!(slow.seen_head(ACCOUNT).unwrap().head, head(9, 0));
    let state = home.stand_in.state();
    assert_eq!((state.count("/audit/query"), state.count("/audit/compare")), (1, 0));
}

#[tokio::test]
async fn a_log_that_goes_on_from_what_was_seen_is_asked_for_that_event_and_remembered() {
    let home = Home::new();
    for seq in [3, 9, 10] {
        home.stand_in.state().head = Some(head(seq, 0));
        let connection = home.private().await;
        list(&connection).await.unwrap();
        assert_eq!(connection.remember_head().await, Ok(None));
        // Once for each head.
        assert_eq!(connection.remember_head().await, Ok(None));
        assert_eq!(connection.seen_head(ACCOUNT).unwrap().head, head(seq, 0));
    }
    assert_eq!(home.stand_in.state().count("/audit/query"), 2);
}

#[tokio::test]
async fn a_forked_log_is_a_problem_however_it_is_found() {
    // By the head alone; by asking again; by the event that was seen, in a log that has grown
    // past it, though the backend says that it agrees.
    for (shown, current) in
        [(head(9, 1), None), (head(8, 1), Some(head(9, 1))), (head(12, 1), None)]
    {
        let home = Home::new();
        home.stand_in.state().head = Some(head(9, 0));
        let connection = home.private().await;
        list(&connection).await.unwrap();
        connection.remember_head().await.unwrap();
        {
            let mut state = home.stand_in.state();
            (state.head, state.current, state.fork) = (Some(shown), current, 1);
            state.compared = Some(AGREES);
        }
        let again = home.private().await;
        list(&again).await.unwrap();
        let forked = again.remember_head().await.unwrap_err();
        assert!(forked.detail.contains("forked") && is_set_back(&forked), "{}", forked.detail);
        let seen = again.seen_head(ACCOUNT).unwrap();
        assert_eq!(seen.head, head(9, 0));
        assert!(seen.contradicted.unwrap().reported);
    }
}

#[tokio::test]
async fn what_the_backend_could_not_be_told_is_told_by_the_next_command() {
    let home = Home::new();
    home.stand_in.state().head = Some(head(9, 0));
    let connection = home.private().await;
    list(&connection).await.unwrap();
    connection.remember_head().await.unwrap();
    home.stand_in.state().head = Some(head(8, 0));
    for (compared, told) in [(None, false), (Some(CONTRADICTS), true), (None, true)] {
        home.stand_in.state().compared = compared;
        let connection = home.private().await;
        list(&connection).await.unwrap();
        assert!(is_set_back(&connection.remember_head().await.unwrap_err()));
        let found = connection.seen_head(ACCOUNT).unwrap().contradicted.unwrap();
        assert_eq!(found.reported, told);
    }
    assert_eq!(home.stand_in.state().count("/audit/compare"), 2);
}
