//! The latest rows and lines of a run that is followed: bounded, and read by position.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use expman_storage::Rows;

use crate::wire::Line;

/// Rows kept for readers that are behind; who is further behind fetches anew.
const ROWS_MAX: usize = 1 << 18;
/// Lines kept of each log …
const LINES_MAX: usize = 20_000;
/// … and bytes of their text.
const LINE_BYTES_MAX: usize = 8 << 20;

/// The position is not in the ring: too far behind, or not of this run at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfReach;

/// The latest rows, in order of arrival.
#[derive(Debug, Default)]
pub struct RowRing {
    chunks: VecDeque<(u64, Arc<Rows>)>,
    held: usize,
    lo: u64,
    end: u64,
}

/// Some rows of a chunk.
pub type Piece = (Arc<Rows>, Range<usize>);

impl RowRing {
    /// Number of rows of the run so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Forgets all and goes on from row `end`.
    pub fn restart(&mut self, end: u64) {
        *self = Self {
            lo: end,
            end,
            ..Self::default()
        };
    }

    /// Adds rows that reach up to row `end`.
    pub fn push(&mut self, rows: Rows, end: u64) {
        if rows.len() as u64 != end.saturating_sub(self.end) {
            // Rows went missing or came twice below us: nobody may count from here on.
            return self.restart(end);
        }
        if rows.is_empty() {
            return;
        }
        self.held += rows.len();
        self.chunks.push_back((self.end, Arc::new(rows)));
        self.end = end;
        while self.held > ROWS_MAX && self.chunks.len() > 1 {
            if let Some((lo, rows)) = self.chunks.pop_front() {
                self.held -= rows.len();
                self.lo = lo + rows.len() as u64;
            }
        }
    }

    /// Rows from position `from` on, at most `max`, and the position behind them.
    ///
    /// # Errors
    /// When the position is out of reach.
    pub fn since(&self, from: u64, max: usize) -> Result<(Vec<Piece>, u64), OutOfReach> {
        if from < self.lo || from > self.end {
            return Err(OutOfReach);
        }
        let (mut pieces, mut at, mut left) = (Vec::new(), from, max);
        for (lo, rows) in &self.chunks {
            let behind = usize::try_from(at.saturating_sub(*lo)).unwrap_or(usize::MAX);
            if left == 0 {
                break;
            }
            if behind >= rows.len() {
                continue;
            }
            let take = (rows.len() - behind).min(left);
            pieces.push((Arc::clone(rows), behind..behind + take));
            at += take as u64;
            left -= take;
        }
        Ok((pieces, at))
    }
}

/// The latest lines of one log.
#[derive(Debug, Default)]
pub struct LineRing {
    /// Each line with the byte behind it.
    lines: VecDeque<(Arc<Line>, u64)>,
    bytes: usize,
    lo: u64,
    end: u64,
}

impl LineRing {
    /// Byte behind the last line.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Forgets all and goes on from this byte.
    pub fn restart(&mut self, at: u64) {
        *self = Self {
            lo: at,
            end: at,
            ..Self::default()
        };
    }

    /// Adds lines that reach up to byte `end`.
    pub fn push(&mut self, lines: Vec<Line>, end: u64) {
        let mut starts: Vec<u64> = lines.iter().skip(1).map(|line| line.at).collect();
        starts.push(end);
        for (line, behind) in lines.into_iter().zip(starts) {
            self.bytes += line.text.len();
            self.lines.push_back((Arc::new(line), behind));
        }
        self.end = end;
        while (self.lines.len() > LINES_MAX || self.bytes > LINE_BYTES_MAX) && self.lines.len() > 1
        {
            if let Some((line, behind)) = self.lines.pop_front() {
                self.bytes -= line.text.len();
                self.lo = behind;
            }
        }
    }

    /// Lines that begin at byte `from` or behind it, at most `max_bytes` of text, and the byte behind them.
    ///
    /// # Errors
    /// When the position is out of reach.
    pub fn since(&self, from: u64, max_bytes: usize) -> Result<(Vec<Arc<Line>>, u64), OutOfReach> {
        if from < self.lo || from > self.end {
            return Err(OutOfReach);
        }
        let first = self.lines.partition_point(|(line, _)| line.at < from);
        let (mut found, mut at, mut bytes) = (Vec::new(), from, 0);
        for (line, behind) in self.lines.range(first..) {
            bytes += line.text.len();
            if bytes > max_bytes && !found.is_empty() {
                return Ok((found, at));
            }
            found.push(Arc::clone(line));
            at = *behind;
        }
        Ok((found, self.end))
    }
}

#[cfg(test)]
mod tests {
    use expman_model::record::ValueRef;
    use expman_storage::Row;

    use super::*;

    fn rows(range: Range<u64>) -> Rows {
        let mut rows = Rows::default();
        for seq in range {
            rows.push_row(&Row {
                key: "k",
                rank: 0,
                step: None,
                timestamp_us: 0,
                attempt: 0,
                seq,
                value: ValueRef::Bool(true),
            });
        }
        rows
    }

    fn seqs(pieces: &[Piece]) -> Vec<u64> {
        pieces
            .iter()
            .flat_map(|(rows, range)| range.clone().map(|i| rows.row(i).seq))
            .collect()
    }

    fn line(at: u64, text: &str) -> Line {
        Line {
            at,
            t: String::new(),
            rank: None,
            stream: None,
            level: None,
            logger: String::new(),
            more: false,
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_reader_gets_every_row_once_whatever_its_pace() {
        let mut ring = RowRing::default();
        ring.restart(100);
        for (lo, hi) in [(100, 103), (103, 110), (110, 111), (111, 150)] {
            ring.push(rows(lo..hi), hi);
        }
        for max in [1, 2, 7, 1000] {
            let (mut at, mut seen) = (101, Vec::new());
            while at < ring.end() {
                let (pieces, next) = ring.since(at, max).unwrap();
                seen.extend(seqs(&pieces));
                at = next;
            }
            assert_eq!(seen, (101..150).collect::<Vec<_>>(), "{max}");
        }
        assert!(ring.since(99, 10).is_err());
        assert!(ring.since(151, 10).is_err());
    }

    #[test]
    fn the_ring_of_rows_is_bounded_and_says_so() {
        let mut ring = RowRing::default();
        let step = 1 << 16;
        for n in 0..8u64 {
            ring.push(rows(n * step..(n + 1) * step), (n + 1) * step);
        }
        assert!(ring.held <= ROWS_MAX);
        assert!(ring.since(0, 1).is_err());
        assert_eq!(
            seqs(&ring.since(4 * step, 2).unwrap().0),
            [4 * step, 4 * step + 1]
        );
    }

    #[test]
    fn rows_that_do_not_add_up_are_never_counted_from() {
        let mut ring = RowRing::default();
        ring.push(rows(0..5), 5);
        ring.push(rows(0..2), 9);
        assert!(ring.since(5, 10).is_err());
        assert_eq!(ring.since(9, 10).unwrap().1, 9);
    }

    #[test]
    fn lines_are_cut_at_a_bound_and_resumed_without_a_gap() {
        let mut ring = LineRing::default();
        ring.restart(10);
        ring.push(
            vec![line(10, "aaaa"), line(20, "bbbb"), line(30, "cccc")],
            40,
        );
        let (first, at) = ring.since(10, 8).unwrap();
        assert_eq!((first.len(), at), (2, 30));
        let (rest, at) = ring.since(at, 8).unwrap();
        assert_eq!((rest[0].at, at), (30, 40));
        assert!(ring.since(9, 8).is_err());
        for n in 0..LINES_MAX as u64 {
            ring.push(vec![line(40 + n, "x")], 41 + n);
        }
        assert!(ring.since(10, 8).is_err());
    }
}
