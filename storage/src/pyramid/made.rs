//! Sums of files that have none beside them, kept in memory as long as the files stay as they are.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::sum::Sum;
use crate::error::Result;

/// Sums kept …
const SUMS_MAX: usize = 64;
/// … and their buckets together.
const BUCKETS_MAX: usize = 1 << 21;

/// What a file is known by: another content has another stamp.
pub type Stamp = Vec<(u64, u64, u64, i64, i64)>;

/// The stamp of one file.
#[must_use]
pub fn stamp(meta: &Metadata) -> (u64, u64, u64, i64, i64) {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    )
}

/// A sum that was made by reading all rows, and what was found damaged on the way.
#[derive(Debug, Default)]
pub struct Made {
    /// The sum.
    pub sum: Sum,
    /// In words.
    pub problems: Vec<String>,
    buckets: usize,
}

impl Made {
    /// A sum that was just made.
    #[must_use]
    pub fn new(sum: Sum, problems: Vec<String>) -> Self {
        let buckets = sum.iter().map(|(_, _, s)| s.buckets().len() + 1).sum();
        Self {
            sum,
            problems,
            buckets,
        }
    }
}

/// The latest sums that were made.
#[derive(Debug, Default)]
pub struct MadeSums {
    kept: Mutex<VecDeque<(Stamp, Arc<Made>)>>,
}

impl MadeSums {
    /// The sum of what has this stamp, made if it is not known yet.
    ///
    /// # Errors
    /// When making it fails.
    pub fn get(
        &self,
        stamp: Stamp,
        make: impl FnOnce() -> Result<(Sum, Vec<String>)>,
    ) -> Result<Arc<Made>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| *known == stamp)
            && let Some((stamp, made)) = kept.remove(at)
        {
            kept.push_back((stamp, Arc::clone(&made)));
            return Ok(made);
        }
        // Others need not wait meanwhile.
        drop(kept);
        let (sum, problems) = make()?;
        let made = Arc::new(Made::new(sum, problems));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((stamp, Arc::clone(&made)));
        let held = |kept: &VecDeque<(Stamp, Arc<Made>)>| -> usize {
            kept.iter().map(|(_, made)| made.buckets).sum()
        };
        while kept.len() > SUMS_MAX || held(&kept) > BUCKETS_MAX && kept.len() > 1 {
            kept.pop_front();
        }
        Ok(made)
    }
}
