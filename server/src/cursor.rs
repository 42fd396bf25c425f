//! Where a reader of a run stands: the id of every event in a stream.

use std::fmt;
use std::str::FromStr;

/// A place in a run's rows and in its two logs; digits and hyphens only, so that any client can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Tells the run from another one that had the same folder before.
    pub epoch: u32,
    /// Metric rows of the run that were seen.
    pub rows: u64,
    /// Bytes of `run.log` that were seen.
    pub run_log: u64,
    /// Bytes of `console.log` that were seen.
    pub console: u64,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor has four numbers: epoch-rows-run log-console log")]
pub struct BadCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-{}-{}",
            self.epoch, self.rows, self.run_log, self.console
        )
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let mut parts = text
            .split('-')
            .map(|part| part.parse::<u64>().map_err(|_not_a_number| BadCursor));
        let mut next = || parts.next().ok_or(BadCursor)?;
        let epoch = u32::try_from(next()?).map_err(|_too_large| BadCursor)?;
        let cursor = Self {
            epoch,
            rows: next()?,
            run_log: next()?,
            console: next()?,
        };
        if parts.next().is_some() {
            Err(BadCursor)
        } else {
            Ok(cursor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_reads() {
        let cursor = Cursor {
            epoch: u32::MAX,
            rows: u64::MAX,
            run_log: 0,
            console: 7,
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in [
            "",
            "1",
            "1-2-3",
            "1-2-3-4-5",
            "a-b-c-d",
            "-1-2-3-4",
            "4294967296-0-0-0",
            "1-2-3-4 ",
            "1-18446744073709551616-0-0",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad}");
        }
    }
}
