//! Tracebacks of many ranks: those that are the same told once, with the ranks that had them.
//!
//! Two are the same when their frames are equal to the letter and what is not indented (the error's own words) differs
//! in nothing but its numbers; every wording of it is kept with its ranks, so that no number is hidden.
//!
//! ```
//! use expman_model::traceback::Tracebacks;
//!
//! let mut all = Tracebacks::default();
//! for rank in [3, 0, 1] {
//!     let text = format!("Traceback (most recent call last):\n  File \"a.py\", line 7\nValueError: rank {rank} is bad");
//!     all.add(rank.into(), rank, text.as_bytes());
//! }
//! let group = &all.groups()[0];
//! assert_eq!((group.ranks.to_string(), group.wordings.len()), ("0-1,3".to_owned(), 3));
//! let (line, words) = group.wordings[1].differs_from(&group.wordings[2]).next().unwrap();
//! assert_eq!((line, words), (3, "ValueError: rank 0 is bad"));
//! ```

use std::collections::HashMap;

use crate::rank_set::RankSet;

/// How every traceback of Python begins, but for the name of its thread.
pub const HEAD: &str = "Traceback (most recent call last):";
/// Different tracebacks and wordings that are kept …
const WORDINGS_MAX: usize = 10_000;
/// … and bytes of them; what comes then is counted.
const BYTES_MAX: usize = 64 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Tracebacks {
    groups: Vec<Group>,
    by_form: HashMap<String, usize>,
    by_text: HashMap<String, (usize, usize)>,
    bytes: usize,
    left_out: u64,
}

/// One traceback, as so many processes had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// When the first of them was raised, in microseconds since 1970 UTC.
    pub at_us: i64,
    /// Who had it.
    pub ranks: RankSet,
    /// How often.
    pub count: u64,
    /// Its texts, that of the first rank that had it first; the others differ from it in numbers only.
    pub wordings: Vec<Wording>,
}

/// One text of a traceback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// Whole, without a newline at its end.
    pub text: String,
    /// Who had it.
    pub ranks: RankSet,
    /// How often.
    pub count: u64,
}

impl Tracebacks {
    /// Takes in a traceback and returns the number of its group; none when there is no room for another one.
    pub fn add(&mut self, at_us: i64, rank: u32, text: &[u8]) -> Option<usize> {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end();
        let (group, wording) = match self.by_text.get(text) {
            Some(&known) => known,
            None => self.insert(at_us, text)?,
        };
        let known = &mut self.groups[group];
        known.at_us = known.at_us.min(at_us);
        known.ranks.insert(rank);
        known.count += 1;
        known.wordings[wording].ranks.insert(rank);
        known.wordings[wording].count += 1;
        Some(group)
    }

    fn insert(&mut self, at_us: i64, text: &str) -> Option<(usize, usize)> {
        if self.by_text.len() >= WORDINGS_MAX || self.bytes + text.len() > BYTES_MAX {
            self.left_out += 1;
            return None;
        }
        self.bytes += text.len();
        let next = self.groups.len();
        let group = *self.by_form.entry(form(text)).or_insert(next);
        if group == next {
            self.groups.push(Group {
                at_us,
                ranks: RankSet::default(),
                count: 0,
                wordings: Vec::new(),
            });
        }
        let wordings = &mut self.groups[group].wordings;
        wordings.push(Wording {
            text: text.to_owned(),
            ranks: RankSet::default(),
            count: 0,
        });
        let at = (group, wordings.len() - 1);
        self.by_text.insert(text.to_owned(), at);
        Some(at)
    }

    /// The tracebacks, in the order in which they were added.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// How many had no room.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl Wording {
    /// The lines, from 1, that are worded in another way than those of `other`, a wording of the same traceback.
    pub fn differs_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (usize, &'a str)> {
        let lines = (1..).zip(self.text.lines().zip(other.text.lines()));
        lines.filter_map(|(n, (own, others))| (own != others).then_some((n, own)))
    }
}

/// What stands in a form for the end of a line …
const LINE_ENDS: &str = "\n.";
/// … and for a number; within a line no text has either.
const NUMBER: &str = "\n#";

/// The text with a mark for each number in lines that are not indented.
fn form(text: &str) -> String {
    let mut form = String::with_capacity(text.len());
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            form.push_str(line);
        } else {
            put_masked(&mut form, line);
        }
        form.push_str(LINE_ENDS);
    }
    form
}

/// A number is what begins with a digit and goes on with digits and letters, so an address is one, too.
fn put_masked(form: &mut String, line: &str) {
    let mut in_word = false;
    let mut in_number = false;
    for c in line.chars() {
        let goes_on = c.is_ascii_alphanumeric() || c == '_';
        if !in_word && c.is_ascii_digit() {
            form.push_str(NUMBER);
            in_number = true;
        }
        in_number &= goes_on;
        in_word = goes_on;
        if !in_number {
            form.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traceback(line: u32, error: &str) -> String {
        format!("{HEAD}\n  File \"train.py\", line {line}, in main\n    step(x0)\n{error}\n")
    }

    fn told(all: &Tracebacks) -> Vec<(String, usize)> {
        let groups = all.groups().iter();
        groups
            .map(|g| (g.ranks.to_string(), g.wordings.len()))
            .collect()
    }

    #[test]
    fn the_same_traceback_of_many_ranks_is_one() {
        let mut all = Tracebacks::default();
        for rank in [7, 0, 1, 2, 3] {
            all.add(
                100 - i64::from(rank),
                rank,
                traceback(7, "ValueError: bad").as_bytes(),
            );
        }
        assert_eq!(told(&all), [("0-3,7".to_owned(), 1)]);
        assert_eq!((all.groups()[0].at_us, all.groups()[0].count), (93, 5));
    }

    #[test]
    fn other_frames_other_words_and_other_kinds_of_value_stand_apart() {
        let mut all = Tracebacks::default();
        for (rank, (line, error)) in (0..).zip([
            (7, "ValueError: loss 1.5 at 0x7ffab3"),
            (7, "ValueError: loss 2.5 at 0x7fcc00"),
            (8, "ValueError: loss 1.5 at 0x7ffab3"),
            (7, "ValueError: loss nan at 0x7ffab3"),
            (7, "KeyError: loss 1.5 at 0x7ffab3"),
        ]) {
            all.add(0, rank, traceback(line, error).as_bytes());
        }
        let expected = [("0-1", 2), ("2", 1), ("3", 1), ("4", 1)];
        assert_eq!(told(&all), expected.map(|(r, n)| (r.to_owned(), n)));
        let wordings = &all.groups()[0].wordings;
        let differs: Vec<_> = wordings[1].differs_from(&wordings[0]).collect();
        assert_eq!(differs, [(4, "ValueError: loss 2.5 at 0x7fcc00")]);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let mut all = Tracebacks::default();
        for n in 0..=WORDINGS_MAX {
            all.add(0, 0, traceback(1, &format!("ValueError: {n}")).as_bytes());
        }
        assert_eq!(
            (told(&all), all.left_out()),
            (vec![("0".to_owned(), WORDINGS_MAX)], 1)
        );
    }

    proptest! {
        #[test]
        fn from_the_first_wording_and_what_differs_every_text_can_be_told(
            texts in prop::collection::vec("([ a-b]?[a-c0-9x.]{0,6}\n){1,4}", 1..30)
        ) {
            let mut all = Tracebacks::default();
            for (rank, text) in (0..).zip(&texts) {
                let group = &all.add(0, rank, text.as_bytes()).map(|n| all.groups()[n].clone()).unwrap();
                let own = group.wordings.iter().find(|w| w.ranks.as_slice().contains(&rank)).unwrap();
                let mut lines: Vec<&str> = group.wordings[0].text.lines().collect();
                prop_assert_eq!(lines.len(), own.text.lines().count());
                for (n, line) in own.differs_from(&group.wordings[0]) {
                    lines[n - 1] = line;
                }
                prop_assert_eq!(lines.join("\n"), text.trim_end());
            }
        }
    }
}
