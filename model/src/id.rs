//! Who wrote something, and in which epoch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names a run for ever: a UUID, version 7 when made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// A new id, ordered by its time of creation.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a run id (a UUID)")]
pub struct BadRunId(pub String);

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(s: &str) -> Result<Self, BadRunId> {
        s.parse().map(Self).map_err(|_bad| BadRunId(s.to_owned()))
    }
}

/// Tells two processes of one rank apart: random at every start (and in every forked child).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// A random one.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Incarnation {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(|_bad| {
            serde::de::Error::custom(format!("{text:?} is not an incarnation (16 hex digits)"))
        })
    }
}

/// One writer of a run: a process that holds one rank.
///
/// Its records are numbered 1, 2, 3 … (`seq`); nothing is ever deduplicated by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WriterId {
    /// Rank within the run, from 0.
    pub rank: u32,
    /// Random per process.
    pub incarnation: Incarnation,
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} ({})", self.rank, self.incarnation)
    }
}

/// A flush: the owner's epoch and the number within it, so that versions grow over an owner's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Grows by one with every owner process of the run.
    pub epoch: u64,
    /// Grows by one with every barrier of this owner.
    pub number: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.split_once('.')
            .and_then(|(e, n)| {
                Some(Self {
                    epoch: e.parse().ok()?,
                    number: n.parse().ok()?,
                })
            })
            .ok_or_else(|| {
                serde::de::Error::custom(format!("{text:?} is not a flush version (epoch.number)"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_prints_and_parses_back() {
        let id = RunId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("nope".parse::<RunId>().is_err());
    }

    #[test]
    fn versions_grow_over_epochs() {
        assert!(
            Version {
                epoch: 2,
                number: 1
            } > Version {
                epoch: 1,
                number: 900
            }
        );
    }
}
