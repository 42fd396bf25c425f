//! The order in which rows are sealed.

use std::collections::HashMap;
use std::ops::Range;

use super::Rows;

/// The rows of one name and rank, beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name's number.
    pub key: u32,
    /// Rank that logged them.
    pub rank: u32,
    /// Where they stand in [`Order::places`].
    pub places: Range<usize>,
}

/// Rows by name, rank, step and arrival; those without a step come first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Which row stands where.
    pub places: Vec<u32>,
    /// The series, one behind the other, without a gap.
    pub groups: Vec<Group>,
}

impl Rows {
    /// The order by (key, rank, step, arrival); rows without a step come first.
    ///
    /// Rows are first counted into their (key, rank) groups in order of arrival; a group whose steps
    /// already rise, which is nearly every one, needs no sorting.
    #[must_use]
    pub fn sorted(&self) -> Order {
        // By key, the rank that had it last: a batch has many calls of one rank, each with the same keys.
        let mut last: Vec<Option<(i32, u32)>> = vec![None; self.keys.len()];
        let mut numbers: HashMap<(u32, i32), u32> = HashMap::new();
        // Key, rank and number of rows of each group.
        let mut found: Vec<(u32, i32, usize)> = Vec::new();
        let mut member = Vec::with_capacity(self.len());
        let (mut number, mut rank) = (u32::MAX, 0);
        for (&key, &call) in self.key.iter().zip(&self.call) {
            if call != number {
                number = call;
                rank = self.calls[call as usize].rank;
            }
            let last = &mut last[key as usize];
            let group = match *last {
                Some((known, group)) if known == rank => group,
                _ => {
                    let next = u32::try_from(found.len()).unwrap_or(u32::MAX);
                    let group = *numbers.entry((key, rank)).or_insert(next);
                    if group == next {
                        found.push((key, rank, 0));
                    }
                    *last = Some((rank, group));
                    group
                }
            };
            member.push(group);
            found[group as usize].2 += 1;
        }
        let mut by_name: Vec<(&str, i32, u32)> = (0..)
            .zip(&found)
            .map(|(group, (key, rank, _))| (&**self.keys.name(*key), *rank, group))
            .collect();
        by_name.sort_unstable();
        let mut fill = vec![0usize; found.len()];
        let mut groups = Vec::with_capacity(found.len());
        let mut end = 0;
        for (_, _, group) in by_name {
            let (key, rank, size) = found[group as usize];
            fill[group as usize] = end;
            groups.push(Group {
                key,
                rank: rank.cast_unsigned(),
                places: end..end + size,
            });
            end += size;
        }
        let mut places = vec![0u32; self.len()];
        for (i, &group) in (0u32..).zip(&member) {
            let at = &mut fill[group as usize];
            places[*at] = i;
            *at += 1;
        }
        if self.steps_rise() {
            return Order { places, groups };
        }
        for group in &groups {
            let own = &mut places[group.places.clone()];
            if !own.is_sorted_by_key(|&i| self.order_of(i)) {
                own.sort_by_key(|&i| self.order_of(i));
            }
        }
        Order { places, groups }
    }

    /// Whether the steps of each rank's calls rise, as they do in nearly every run.
    fn steps_rise(&self) -> bool {
        let mut ranks: HashMap<i32, (bool, i64)> = HashMap::new();
        let mut last: Option<(i32, (bool, i64))> = None;
        self.calls.iter().all(|call| {
            let place = (call.has_step, call.step);
            let before = match last {
                Some((rank, before)) if rank == call.rank => Some(before),
                other => {
                    if let Some((rank, before)) = other {
                        ranks.insert(rank, before);
                    }
                    ranks.get(&call.rank).copied()
                }
            };
            last = Some((call.rank, place));
            before.is_none_or(|before| before <= place)
        })
    }

    #[inline]
    fn order_of(&self, i: u32) -> (bool, i64) {
        let call = self.call(i as usize);
        (call.has_step, call.step)
    }
}
