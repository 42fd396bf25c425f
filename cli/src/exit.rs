//! How a command ends: exit codes, and errors that carry one.

use std::fmt;
use std::io;

use crate::console::Console;

/// The exit codes; `--help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something could not be read or written.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The run, experiment or folder was not found.
    NotFound = 3,
    /// Done, but something was damaged and left out.
    Partial = 4,
}

/// An error with an exit code of its own, and perhaps a hint.
#[derive(Debug)]
pub struct Refusal {
    exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Refusal {
    /// Wrong usage that the parser could not see.
    pub fn usage(what: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            what: what.into(),
            hint: None,
        }
    }

    /// It can't be done as things are.
    pub fn failed(what: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            what: what.into(),
            hint: None,
        }
    }

    /// What was asked for is not there.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self {
            exit: Exit::NotFound,
            what: what.into(),
            hint: None,
        }
    }

    /// Says what to do instead.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Refusal {}

/// Tells an error on stderr and returns the code of how the command ended.
///
/// A reader that went away (`expman list | head`) is no error.
pub fn report(done: anyhow::Result<Exit>, console: &Console) -> Exit {
    let error = match done {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error
        .chain()
        .any(|e| e.downcast_ref().is_some_and(broken_pipe))
    {
        return Exit::Done;
    }
    let refusal = error.downcast_ref::<Refusal>();
    console.error(&whole_message(&error));
    if let Some(hint) = refusal.and_then(|r| r.hint.as_deref()) {
        console.hint(hint);
    }
    refusal.map_or(Exit::Failed, |r| r.exit)
}

/// The error and its causes; many messages have their cause in them already, and it is not told twice.
pub fn whole_message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::other("no space");
        let bare = anyhow::Error::from(cause()).context("write a");
        let told = anyhow::Error::from(cause()).context("write a: no space");
        assert_eq!(
            [&bare, &told].map(whole_message),
            ["write a: no space", "write a: no space"]
        );
    }
}
