//! What one command works with: its options, its streams, and its connection, which is made when
//! it is first needed and never twice.
use std::cell::Cell;
use std::ffi::OsString;

use tokio::sync::OnceCell;

use super::args::Global;
use super::output::Output;
use super::report::shown;
use super::session::{Link, Machine, SessionPlace, Wanted};
use crate::core::backend::AccountBackend;
use crate::core::problem::{Answer, Problem};
use crate::core::set_back;
use crate::core::token::SessionToken;

/// One command's surroundings.
pub struct Context<'a> {
    /// The global options.
    pub global: Global,
    /// What stood behind `--`, for commands that run a program.
    pub tail: Option<Vec<OsString>>,
    /// Its streams.
    pub out: Output,
    /// The machine.
    pub machine: &'a dyn Machine,
    link: OnceCell<Box<dyn Link>>,
    token: OnceCell<SessionToken>,
    /// Whether it was told already that something is wrong with the audit log.
    told: Cell<bool>,
}

/// A backend, and the session to talk to it with.
#[derive(Clone, Copy)]
pub struct Open<'a> {
    /// The backend.
    pub backend: &'a dyn AccountBackend,
    /// The master session.
    pub token: &'a SessionToken,
}

impl<'a> Context<'a> {
    /// The surroundings of one command.
    pub fn new(global: Global, tail: Option<Vec<OsString>>, machine: &'a dyn Machine) -> Self {
        let out = Output::new(global.json);
        Self {
            global,
            tail,
            out,
            machine,
            link: OnceCell::new(),
            token: OnceCell::new(),
            told: Cell::new(false),
        }
    }

    /// Says something under `--verbose`.
    pub fn verbose(&self, text: &str) {
        if self.global.verbose {
            self.out.say(&format!("agentkeys: {}", shown(text)));
        }
    }

    /// The connection.
    ///
    /// # Errors
    /// The backend is not there, or is not one that this version can talk to.
    pub async fn link(&self) -> Answer<&dyn Link> {
        let link = self
            .link
            .get_or_try_init(async || {
                let wanted =
                    Wanted { backend: self.global.backend.clone(), verbose: self.global.verbose };
                let link = self.machine.connect(&wanted).await?;
                for note in link.notes() {
                    self.verbose(&note);
                }
                Ok::<_, Problem>(link)
            })
            .await?;
        Ok(&**link)
    }

    /// The connection with its master session.
    ///
    /// # Errors
    /// As [`Self::link`], and where nobody is signed in.
    pub async fn open(&self) -> Answer<Open<'_>> {
        let link = self.link().await?;
        let token = self
            .token
            .get_or_try_init(async || {
                let token = link.session().await?;
                let place = match link.session_place() {
                    SessionPlace::Keyring => "the keyring".to_owned(),
                    SessionPlace::File(path) => path.display().to_string(),
                };
                self.verbose(&format!("session {}, kept in {place}", token.id()));
                // Before anything is done, so that a person who is asked knows it.
                self.look_at_head(link).await;
                if let Some(reset) = link.presence_reset() {
                    let (asked, from) = (reset.asked_at.for_people(), reset.from.for_people());
                    self.out.warn(&format!(
                        "a reset of your passphrase was asked for {asked} by {}; from {from} on \
                         the level may be lowered without it",
                        reset.by
                    ));
                    self.out.warn("if it was not you: agentkeys presence --cancel-reset");
                }
                Ok::<_, Problem>(token)
            })
            .await?;
        Ok(Open { backend: link.backend(), token })
    }

    /// Ends the command: compares and remembers the head of the audit log. A log that was cut
    /// off or forked is told, and does not undo what the command did.
    pub async fn close(&self) {
        if let Some(link) = self.link.get() {
            self.look_at_head(&**link).await;
        }
    }

    /// Compares and remembers the head of the audit log, and says once what is wrong with it.
    async fn look_at_head(&self, link: &dyn Link) {
        match link.remember_head().await {
            Ok(None) => {}
            Ok(Some(said)) => self.out.warn(&said),
            Err(_) if self.told.get() => {}
            Err(problem) => {
                self.told.set(true);
                self.out.warn(&problem.detail);
                self.out.warn(&problem.cause);
                let todo = if set_back::is_set_back(&problem) {
                    "what gives anybody more rights is refused until the log agrees again \
                     (agentkeys audit verify) or you accept the loss (agentkeys audit accept)"
                } else {
                    "compare with what you know: agentkeys audit verify"
                };
                self.out.warn(todo);
            }
        }
    }

    /// Says nothing more of what is wrong with the audit log: the command itself is about it.
    pub fn tells_of_the_log(&self) {
        self.told.set(true);
    }
}
