//! Which text of a run's ranks is forwarded to its owner; one setting for all of them.

use serde::{Deserialize, Serialize};

use crate::level::Level;

/// The setting. Metrics and messages of direct calls do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forwarding {
    /// Counts the changes; of two settings that with the greater number holds.
    pub version: u64,
    /// Whether captured output and records of Python logging are forwarded at all.
    #[serde(rename = "enabled")]
    pub on: bool,
    /// The least level of Python logging that is.
    pub level: Level,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            version: 0,
            on: true,
            level: Level(0),
        }
    }
}

/// What somebody wants to be otherwise; what is none stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForwardingChange {
    /// See [`Forwarding::on`].
    pub on: Option<bool>,
    /// See [`Forwarding::level`].
    pub level: Option<Level>,
}

impl ForwardingChange {
    /// Whether a setting is as wanted.
    #[must_use]
    pub fn is_done(self, now: Forwarding) -> bool {
        self.on.is_none_or(|on| on == now.on) && self.level.is_none_or(|level| level == now.level)
    }

    /// The next setting.
    #[must_use]
    pub fn apply(self, now: Forwarding) -> Forwarding {
        Forwarding {
            version: now.version + 1,
            on: self.on.unwrap_or(now.on),
            level: self.level.unwrap_or(now.level),
        }
    }
}
