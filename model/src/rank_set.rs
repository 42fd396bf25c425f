//! Sets of ranks.

use std::fmt;

/// Ranks, shown as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RankSet {
    sorted: Vec<u32>,
}

impl From<u32> for RankSet {
    fn from(rank: u32) -> Self {
        Self { sorted: vec![rank] }
    }
}

impl RankSet {
    /// Adds a rank.
    pub fn insert(&mut self, rank: u32) {
        if self.sorted.last().is_some_and(|&last| last < rank) {
            self.sorted.push(rank);
        } else if let Err(at) = self.sorted.binary_search(&rank) {
            self.sorted.insert(at, rank);
        }
    }

    /// The ranks, rising.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.sorted
    }
}

impl fmt::Display for RankSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.sorted.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = (first..).zip(rest).take_while(|(a, b)| a == *b).count();
            match run {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", rest[run - 1])?,
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}
