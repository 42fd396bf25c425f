//! How a run, or one rank of it, stands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a run; the words are those in `run.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Its folder stands, no rank has joined.
    #[default]
    Pending,
    /// A rank is live.
    Running,
    /// Every rank closed.
    Finished,
    /// A rank said that it failed.
    Failed,
    /// Stopped by its user through the API.
    Cancelled,
    /// A rank vanished without a word.
    Crashed,
    /// Ended by SIGTERM.
    Preempted,
    /// Ended by SIGINT.
    Interrupted,
}

/// A change of status that may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {from} can not become {to}")]
pub struct IllegalTransition {
    /// The status it has.
    pub from: RunStatus,
    /// The status asked for.
    pub to: RunStatus,
}

impl RunStatus {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
        Self::Crashed,
        Self::Preempted,
        Self::Interrupted,
    ];

    /// The word in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Crashed => "crashed",
            Self::Preempted => "preempted",
            Self::Interrupted => "interrupted",
        }
    }

    /// Reads the word back, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str().eq_ignore_ascii_case(text))
    }

    /// Whether nothing more is expected of the run.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// The status after a change.
    ///
    /// Pending becomes running or ends; running ends; an ended run only becomes running again, by resuming it.
    ///
    /// # Errors
    /// When the change is not one of these.
    pub const fn transition(self, to: Self) -> Result<Self, IllegalTransition> {
        let legal = match self {
            Self::Pending => !matches!(to, Self::Pending),
            Self::Running => to.is_finished(),
            _ => matches!(to, Self::Running),
        };
        if legal {
            Ok(to)
        } else {
            Err(IllegalTransition { from: self, to })
        }
    }

    /// How much a rank's end weighs in the end of the whole run; the heaviest one is the run's status.
    #[must_use]
    pub const fn weight(self) -> u8 {
        match self {
            Self::Pending | Self::Running => 0,
            Self::Finished => 1,
            Self::Cancelled => 2,
            Self::Interrupted => 3,
            Self::Preempted => 4,
            Self::Crashed => 5,
            Self::Failed => 6,
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_resume_leaves_an_end() {
        for from in RunStatus::ALL {
            for to in RunStatus::ALL {
                let legal = from.transition(to).is_ok();
                let want = match from {
                    RunStatus::Pending => to != RunStatus::Pending,
                    RunStatus::Running => to.is_finished(),
                    _ => to == RunStatus::Running,
                };
                assert_eq!(legal, want, "{from} to {to}");
            }
        }
    }

    #[test]
    fn every_status_parses_back() {
        for status in RunStatus::ALL {
            assert_eq!(RunStatus::parse(status.as_str()), Some(status));
        }
    }
}
