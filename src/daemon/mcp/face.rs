//! How the session's state shows in the list of tools, and who is told when it changes.
//!
//! Must never show a pair code or an OTP: a list is kept by clients long after they have run out.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::core::holder::{Held, SessionHolder, SessionState, Standing};

/// How long the holder may take to say how it stands before a list goes out without it.
const PATIENCE: Duration = Duration::from_secs(1);
/// First and longest wait after the holder could not be asked.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Least time between two looks at a holder that returns early.
const PAUSE: Duration = Duration::from_millis(50);

/// What of a session's state a client sees in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Face {
    /// There is a session.
    Ready,
    /// A person has to approve first.
    Unpaired,
    /// The session was ended.
    Ended,
    /// The holder does not say.
    Unknown,
}

impl Face {
    fn of(standing: &Held<Standing>) -> Self {
        match standing {
            Ok(Standing { session, .. }) => match session {
                SessionState::Paired { .. } => Self::Ready,
                SessionState::Unpaired | SessionState::Waiting(_) => Self::Unpaired,
                SessionState::Ended(_) => Self::Ended,
            },
            Err(_) => Self::Unknown,
        }
    }

    /// What every tool's description begins with in this state.
    pub const fn notice(self) -> &'static str {
        match self {
            Self::Ready | Self::Unknown => "",
            Self::Unpaired => {
                "NOT PAIRED YET: a call answers with a pair code and a command for your user, who \
                 has to approve this agent once. "
            }
            Self::Ended => {
                "ACCESS HAS ENDED: a call says when, by whom, and what your user can do. "
            }
        }
    }
}

/// The face as it is, and as the client knows it.
pub struct Faces {
    current: watch::Sender<Option<Face>>,
    listed: watch::Sender<Option<Face>>,
}

impl Faces {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        let (current, listed) = (watch::Sender::new(None), watch::Sender::new(None));
        Arc::new(Self { current, listed })
    }

    /// The face for a list that goes out now.
    pub async fn list(&self, holder: &dyn SessionHolder) -> Face {
        let standing = tokio::time::timeout(PATIENCE, holder.standing()).await;
        let face = standing.map_or(Face::Unknown, |standing| Face::of(&standing));
        self.listed.send_replace(Some(face));
        face
    }

    /// Follows the holder for ever.
    pub async fn follow(&self, holder: &dyn SessionHolder) {
        let mut wait = RETRY.0;
        loop {
            let standing = holder.standing().await;
            let face = Face::of(&standing);
            self.current.send_if_modified(|current| current.replace(face) != Some(face));
            let Ok(Standing { generation, .. }) = standing else {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
                continue;
            };
            wait = RETRY.0;
            match holder.changed(generation).await {
                Ok(new) if new != generation => {}
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(_) => tokio::time::sleep(RETRY.0).await,
            }
        }
    }

    /// Calls `tell` each time that the face is another than the client knows from its last list,
    /// or, where it has asked for none, from the time when this began. Ends when `tell` says so
    /// by `false`.
    pub async fn tell<F: Future<Output = bool>>(&self, mut tell: impl FnMut() -> F) {
        let (mut current, mut listed) = (self.current.subscribe(), self.listed.subscribe());
        let (mut first, mut told) = (None, None);
        loop {
            let now = *current.borrow_and_update();
            let known = *listed.borrow_and_update();
            first = first.or(now);
            let known = known.or(first);
            if now == known {
                told = None;
            } else if now.is_some() && now != told {
                told = now;
                if !tell().await {
                    return;
                }
                continue;
            }
            // Both senders live as long as `self`.
            tokio::select! {
                _ = current.changed() => {}
                _ = listed.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn times(faces: &Faces, wanted: usize) -> usize {
        let mut count = 0;
        let counting = faces.tell(|| {
            count += 1;
            let more = count < wanted;
            async move { more }
        });
        let _ = tokio::time::timeout(Duration::from_millis(50), counting).await;
        count
    }

    #[tokio::test]
    async fn a_client_that_knows_the_face_is_told_nothing() {
        let faces = Faces::new();
        assert_eq!(times(&faces, 1).await, 0);
        faces.current.send_replace(Some(Face::Ready));
        assert_eq!(times(&faces, 1).await, 0);
        faces.listed.send_replace(Some(Face::Ready));
        assert_eq!(times(&faces, 1).await, 0);
    }

    #[tokio::test]
    async fn a_client_that_listed_before_the_change_is_told_once() {
        let faces = Faces::new();
        faces.listed.send_replace(Some(Face::Unpaired));
        faces.current.send_replace(Some(Face::Ready));
        assert_eq!(times(&faces, 2).await, 1);
    }

    #[tokio::test]
    async fn a_change_after_it_was_told_is_told_again() {
        let faces = Faces::new();
        faces.listed.send_replace(Some(Face::Unpaired));
        faces.current.send_replace(Some(Face::Ready));
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let telling = faces.tell(|| {
            let told = told.clone();
            async move { told.send(()).is_ok() }
        });
        let script = async {
            tells.recv().await.unwrap();
            faces.listed.send_replace(Some(Face::Ready));
            tokio::task::yield_now().await;
            faces.current.send_replace(Some(Face::Ended));
            tells.recv().await.unwrap();
        };
        tokio::select! {
            () = telling => panic!("it goes on"),
            () = script => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("not told"),
        }
    }
}
