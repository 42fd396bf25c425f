//! Severity of messages.

use serde::{Deserialize, Serialize};

/// Severity of a message, with Python's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub u8);

impl Level {
    /// 10
    pub const DEBUG: Self = Self(10);
    /// 20
    pub const INFO: Self = Self(20);
    /// 30
    pub const WARN: Self = Self(30);
    /// 40
    pub const ERROR: Self = Self(40);
    /// 50
    pub const CRITICAL: Self = Self(50);

    /// The name in `run.log`; levels between two names carry their number.
    #[must_use]
    pub fn name(self) -> String {
        match self.0 {
            10 => "DEBUG".to_owned(),
            20 => "INFO".to_owned(),
            30 => "WARN".to_owned(),
            40 => "ERROR".to_owned(),
            50 => "CRITICAL".to_owned(),
            n => format!("LEVEL{n}"),
        }
    }

    /// Reads a level's name, in any case, or its number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "INFO" => return Some(Self::INFO),
            "DEBUG" => return Some(Self::DEBUG),
            "WARN" => return Some(Self::WARN),
            "ERROR" => return Some(Self::ERROR),
            _ => {}
        }
        Some(match text.to_ascii_uppercase().as_str() {
            "DEBUG" => Self::DEBUG,
            "INFO" => Self::INFO,
            "WARN" | "WARNING" => Self::WARN,
            "ERROR" => Self::ERROR,
            "CRITICAL" | "FATAL" => Self::CRITICAL,
            other => Self(other.strip_prefix("LEVEL").unwrap_or(other).parse().ok()?),
        })
    }
}
