//! Folding alike lines of many ranks into one: a view, the lines themselves are always stored.
//!
//! Lines of one kind that differ only in their numbers are told once, with the ranks that said them, how often,
//! and the least and the greatest of each number, so that an outlier stays in sight.
//! Words never fold into each other: `loss=nan` stands apart from `loss=0.5`, and a traceback only from its equal.
//! The work is linear in the bytes of the lines.
//!
//! ```
//! use expman_model::fold::{Fold, Line};
//!
//! let mut fold = Fold::new(3_000_000);
//! for (rank, text) in [(0, "loss=0.50"), (1, "loss=0.75"), (2, "loss=nan")] {
//!     fold.push(&Line { at_us: 0, rank, kind: 0, text: text.as_bytes() });
//! }
//! let told: Vec<_> = fold.close().iter().map(|f| format!("[{}] {}", f.ranks, f.text())).collect();
//! assert_eq!(told, ["[0-1] loss=0.50..0.75", "[2] loss=nan"]);
//! ```

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::mem::take;
use std::ops::Range;

use crate::rank_set::RankSet;

/// Different lines that one window may hold; more end it early.
pub const LINES_MAX: usize = 10_000;
/// Bytes of them; more end it early.
pub const BYTES_MAX: usize = 8 << 20;
/// What opens a traceback.
const TRACEBACK: &[u8] = b"Traceback (most recent call last):";
/// Lines of one traceback that are gathered.
const TRACEBACK_LINES_MAX: usize = 1000;

/// One line of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Microseconds since 1970 UTC.
    pub at_us: i64,
    /// Who said it.
    pub rank: u32,
    /// Its stream or level: lines of different kinds never fold.
    pub kind: u16,
    /// The line, raw and without its end.
    pub text: &'a [u8],
}

/// Alike lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// When the first of them came.
    pub at_us: i64,
    /// See [`Line::kind`].
    pub kind: u16,
    /// How many there were.
    pub count: u64,
    /// Who said them.
    pub ranks: RankSet,
    first: Vec<u8>,
    numbers: Vec<Spread>,
}

/// A number of alike lines: where it stands in the first of them, its least and its greatest value, as written.
#[derive(Debug, Clone, PartialEq)]
struct Spread {
    at: Range<usize>,
    min: (f64, Box<[u8]>),
    max: (f64, Box<[u8]>),
}

/// Gathers lines for a window of time.
#[derive(Debug)]
pub struct Fold {
    window_us: i64,
    began_us: Option<i64>,
    groups: Vec<Folded>,
    bytes: usize,
    by_form: HashMap<Box<[u8]>, usize>,
    /// Tracebacks that are still being said.
    open: HashMap<(u32, u16), Open>,
    /// The form of the line at hand and where its numbers stand, kept for their room.
    form: Vec<u8>,
    spans: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Open {
    at_us: i64,
    text: Vec<u8>,
    lines: usize,
}

impl Fold {
    /// Folds what lies within `window_us` microseconds of the first line.
    #[must_use]
    pub fn new(window_us: i64) -> Self {
        Self {
            window_us,
            began_us: None,
            groups: Vec::new(),
            bytes: 0,
            by_form: HashMap::new(),
            open: HashMap::new(),
            form: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Takes in a line; returns the window in front of it when the line opens a new one.
    pub fn push(&mut self, line: &Line<'_>) -> Vec<Folded> {
        let began = *self.began_us.get_or_insert(line.at_us);
        let full = self.groups.len() >= LINES_MAX || self.bytes >= BYTES_MAX;
        let done = if full || line.at_us.saturating_sub(began) >= self.window_us {
            let done = self.close();
            self.began_us = Some(line.at_us);
            done
        } else {
            Vec::new()
        };
        if !self.gather(line) {
            self.add(line, false);
        }
        done
    }

    /// Ends the window: everything in it, in the order in which it was first said.
    pub fn close(&mut self) -> Vec<Folded> {
        let mut open: Vec<_> = self.open.drain().collect();
        open.sort_by_key(|((rank, kind), open)| (open.at_us, *rank, *kind));
        for ((rank, kind), open) in open {
            self.add_traceback(rank, kind, &open);
        }
        self.by_form.clear();
        self.began_us = None;
        self.bytes = 0;
        take(&mut self.groups)
    }

    /// Ends the window when its time is over, though no further line came.
    pub fn close_due(&mut self, now_us: i64) -> Vec<Folded> {
        match self.began_us {
            Some(began) if now_us - began > self.window_us => self.close(),
            _ => Vec::new(),
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.open.is_empty()
    }

    /// Puts the lines of a traceback together; whether the line was part of one.
    fn gather(&mut self, line: &Line<'_>) -> bool {
        if self.open.is_empty() && !line.text.starts_with(TRACEBACK) {
            return false;
        }
        let key = (line.rank, line.kind);
        let Some(open) = self.open.get_mut(&key) else {
            let opens = line.text.starts_with(TRACEBACK);
            if opens {
                let (at_us, text) = (line.at_us, line.text.to_vec());
                self.open.insert(
                    key,
                    Open {
                        at_us,
                        text,
                        lines: 1,
                    },
                );
                self.bytes += line.text.len();
            }
            return opens;
        };
        open.text.push(b'\n');
        open.text.extend_from_slice(line.text);
        open.lines += 1;
        self.bytes += line.text.len();
        // Its last line, the error itself, is the first that is not indented.
        let goes_on = line.text.first().is_none_or(|c| matches!(c, b' ' | b'\t'));
        if (!goes_on || open.lines >= TRACEBACK_LINES_MAX)
            && let Some(open) = self.open.remove(&key)
        {
            self.add_traceback(line.rank, line.kind, &open);
        }
        true
    }

    fn add_traceback(&mut self, rank: u32, kind: u16, open: &Open) {
        let line = Line {
            at_us: open.at_us,
            rank,
            kind,
            text: &open.text,
        };
        self.add(&line, true);
    }

    /// Adds a line to its group; an `exact` one only to its equals.
    fn add(&mut self, line: &Line<'_>, exact: bool) {
        self.form.clear();
        self.spans.clear();
        self.form.extend_from_slice(&line.kind.to_le_bytes());
        self.form.push(u8::from(exact));
        if exact {
            self.form.extend_from_slice(line.text);
        } else {
            put_form(line.text, &mut self.form, &mut self.spans);
        }
        if let Some(&at) = self.by_form.get(self.form.as_slice()) {
            let group = &mut self.groups[at];
            group.count += 1;
            group.ranks.insert(line.rank);
            for (spread, span) in group.numbers.iter_mut().zip(&self.spans) {
                spread.widen(&line.text[span.clone()]);
            }
            return;
        }
        self.by_form
            .insert(self.form.as_slice().into(), self.groups.len());
        self.bytes += 2 * line.text.len();
        let numbers = self
            .spans
            .iter()
            .map(|span| Spread::new(span.clone(), &line.text[span.clone()]))
            .collect();
        self.groups.push(Folded {
            at_us: line.at_us,
            kind: line.kind,
            count: 1,
            ranks: RankSet::from(line.rank),
            first: line.text.to_vec(),
            numbers,
        });
    }
}

impl Folded {
    /// The line, its numbers as `least..greatest` where they differ; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        if self.numbers.iter().all(|n| n.min.1 == n.max.1) {
            return String::from_utf8_lossy(&self.first);
        }
        let mut out = Vec::with_capacity(self.first.len() + 16 * self.numbers.len());
        let mut done = 0;
        for number in &self.numbers {
            out.extend_from_slice(&self.first[done..number.at.start]);
            out.extend_from_slice(&number.min.1);
            if number.min.1 != number.max.1 {
                out.extend_from_slice(b"..");
                out.extend_from_slice(&number.max.1);
            }
            done = number.at.end;
        }
        out.extend_from_slice(&self.first[done..]);
        Cow::Owned(String::from_utf8_lossy(&out).into_owned())
    }
}

impl Spread {
    fn new(at: Range<usize>, text: &[u8]) -> Self {
        let number = (parse(text), text.into());
        Self {
            at,
            min: number.clone(),
            max: number,
        }
    }

    fn widen(&mut self, text: &[u8]) {
        if *text == *self.min.1 || *text == *self.max.1 {
            return;
        }
        let value = parse(text);
        // Numbers that are equal as floats and written otherwise are told apart as text.
        let order = |known: &(f64, Box<[u8]>)| {
            value
                .total_cmp(&known.0)
                .then_with(|| text.len().cmp(&known.1.len()))
                .then_with(|| text.cmp(&known.1))
        };
        if order(&self.min) == Ordering::Less {
            self.min = (value, text.into());
        } else if order(&self.max) == Ordering::Greater {
            self.max = (value, text.into());
        }
    }
}

fn parse(number: &[u8]) -> f64 {
    // Only digits, signs, a point and an exponent are here, so it always is one.
    std::str::from_utf8(number)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}

/// Bytes with which a number may begin, and the one that is marked.
const BEGINS_NUMBER: [bool; 256] = {
    let mut table = [false; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        table[digit as usize] = true;
        digit += 1;
    }
    table[b'-' as usize] = true;
    table[b'+' as usize] = true;
    table[0] = true;
    table
};

/// Appends the text with a mark for each number, and tells where those stand.
fn put_form(text: &[u8], form: &mut Vec<u8>, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while at < text.len() {
        let plain = text[at..].iter().position(|&b| BEGINS_NUMBER[b as usize]);
        let plain = plain.map_or(text.len(), |n| at + n);
        if plain > at {
            form.extend_from_slice(&text[at..plain]);
            at = plain;
            continue;
        }
        let end = number_end(text, at);
        if end > at {
            form.extend_from_slice(&[0, 1]);
            spans.push(at..end);
            at = end;
            continue;
        }
        match text[at] {
            // So that no text looks like the mark.
            0 => form.extend_from_slice(&[0, 2]),
            byte => form.push(byte),
        }
        at += 1;
    }
}

/// Where the number that begins at `at` ends; `at` itself when none does.
fn number_end(text: &[u8], at: usize) -> usize {
    let digits = |mut i: usize| {
        while text.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        i
    };
    // A sign belongs to the number unless it joins two words: `-1` and `a=-1`, but `1-1` and `top-1` have none.
    let signed = matches!(text[at], b'-' | b'+')
        && !at
            .checked_sub(1)
            .is_some_and(|i| text[i].is_ascii_alphanumeric());
    let start = at + usize::from(signed);
    let mut end = digits(start);
    if end == start {
        return at;
    }
    if text.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
        end = digits(end + 1);
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fold(lines: &[(u32, u16, &str)]) -> Vec<String> {
        let mut fold = Fold::new(1_000_000);
        for (at_us, (rank, kind, text)) in (0..).zip(lines) {
            let text = text.as_bytes();
            let line = Line {
                at_us,
                rank: *rank,
                kind: *kind,
                text,
            };
            assert!(fold.push(&line).is_empty());
        }
        let told = fold.close();
        assert!(fold.is_empty());
        told.iter()
            .map(|f| format!("[{}] x{} {}", f.ranks, f.count, f.text()))
            .collect()
    }

    #[test]
    fn what_differs_in_numbers_is_told_once_with_their_spread() {
        let lines = [
            (0, 0, "step 10 loss=0.5 lr=1e-3"),
            (2, 0, "step 10 loss=-0.25 lr=1e-3"),
            (1, 0, "step 12 loss=12 lr=1e-3"),
            (1, 0, "done"),
        ];
        assert_eq!(
            fold(&lines),
            ["[0-2] x3 step 10..12 loss=-0.25..12 lr=1e-3", "[1] x1 done"]
        );
    }

    #[test]
    fn a_nan_stands_apart_and_so_does_another_kind() {
        let lines = [
            (0, 0, "loss=0.5"),
            (1, 0, "loss=nan"),
            (2, 1, "loss=0.5"),
            (3, 0, "loss=0.7"),
            (4, 0, "loss=inf"),
        ];
        assert_eq!(
            fold(&lines),
            [
                "[0,3] x2 loss=0.5..0.7",
                "[1] x1 loss=nan",
                "[2] x1 loss=0.5",
                "[4] x1 loss=inf"
            ]
        );
    }

    #[test]
    fn an_outlier_of_any_number_stays_in_sight() {
        let mut fold = Fold::new(i64::MAX);
        for rank in 0..1000 {
            let text = if rank == 617 {
                "grad 9e30".to_owned()
            } else {
                format!("grad {}", rank % 7)
            };
            let line = Line {
                at_us: 0,
                rank,
                kind: 0,
                text: text.as_bytes(),
            };
            fold.push(&line);
        }
        let told = fold.close();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].text(), "grad 0..9e30");
        assert_eq!(told[0].ranks.to_string(), "0-999");
    }

    #[test]
    fn tracebacks_fold_only_into_their_equals() {
        let traceback = |rank, line: &'static str| {
            [
                (rank, 1, "Traceback (most recent call last):"),
                (rank, 1, line),
                (rank, 1, "    train()"),
                (rank, 1, "ValueError: bad"),
            ]
        };
        let mut lines = Vec::new();
        for (a, b) in traceback(0, "  File \"a.py\", line 3")
            .into_iter()
            .zip(traceback(1, "  File \"a.py\", line 3"))
        {
            lines.extend([a, b]); // the two ranks speak at the same time
        }
        lines.extend(traceback(2, "  File \"a.py\", line 4"));
        lines.push((2, 1, "after"));
        let told = fold(&lines);
        assert_eq!(
            told,
            [
                "[0-1] x2 Traceback (most recent call last):\n  File \"a.py\", line 3\n    train()\nValueError: bad",
                "[2] x1 Traceback (most recent call last):\n  File \"a.py\", line 4\n    train()\nValueError: bad",
                "[2] x1 after"
            ]
        );
    }

    #[test]
    fn a_line_outside_of_the_window_opens_the_next() {
        let mut fold = Fold::new(1000);
        let mut at = |at_us| {
            fold.push(&Line {
                at_us,
                rank: 0,
                kind: 0,
                text: b"x",
            })
            .len()
        };
        assert_eq!(
            [at(5000), at(5999), at(6000), at(7000), at(6500)],
            [0, 0, 1, 1, 0]
        );
    }

    #[test]
    fn a_flood_of_different_lines_ends_the_window_early() {
        let mut fold = Fold::new(i64::MAX);
        let mut told = 0;
        for n in 0..2 * LINES_MAX {
            let mut text = Vec::new();
            for bit in 0..20 {
                text.push(if n >> bit & 1 == 1 { b'b' } else { b'a' });
            }
            let line = Line {
                at_us: 0,
                rank: 0,
                kind: 0,
                text: &text,
            };
            told += fold.push(&line).len();
        }
        assert_eq!(told, LINES_MAX);
        assert_eq!(told + fold.close().len(), 2 * LINES_MAX);
    }

    proptest! {
        #[test]
        fn no_line_is_lost_and_no_word_is_changed(lines in prop::collection::vec((0u32..5, 0u16..2, "[a-c]{0,2}[-+]?[0-9]{0,3}(\\.[0-9])?e?[0-9]{0,2}\\x00?[a-c ]{0,2}"), 1..60)) {
            let mut fold = Fold::new(i64::MAX);
            for (rank, kind, text) in &lines {
                fold.push(&Line { at_us: 0, rank: *rank, kind: *kind, text: text.as_bytes() });
            }
            let told = fold.close();
            prop_assert_eq!(told.iter().map(|f| f.count).sum::<u64>(), lines.len() as u64);
            // Each line is in the one group whose form it has; a reference that masks numbers by a regular expression agrees.
            let number = |text: &str| {
                let mut form = Vec::new();
                put_form(text.as_bytes(), &mut form, &mut Vec::new());
                form
            };
            for (rank, kind, text) in &lines {
                let homes: Vec<_> = told.iter().filter(|f| f.kind == *kind && number(&String::from_utf8_lossy(&f.first)) == number(text)).collect();
                prop_assert_eq!(homes.len(), 1);
                prop_assert!(homes[0].ranks.as_slice().contains(rank));
                if homes[0].count == 1 {
                    prop_assert_eq!(homes[0].text(), text.as_str());
                }
            }
        }
    }
}
