//! A question for series: whose, of which steps, how fine; and where its answer comes from.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use expman_storage::pyramid::{EVERYWHERE, Found, MadeSums, Want, aligned, open};
use expman_storage::{Rows, RunEntry, StorageError};

use crate::cursor::Cursor;
use crate::drawn::share;
use crate::error::Result;
use crate::watch::{Watched, cursor_at};

/// How often a run is opened anew when its files move meanwhile.
const ATTEMPTS: u32 = 4;

/// Which series.
#[derive(Debug, Clone)]
pub struct Question {
    /// Their metrics; none: all.
    pub keys: Option<HashSet<String>>,
    /// Their ranks; none: all.
    pub ranks: Option<HashSet<u32>>,
    /// Steps.
    pub range: RangeInclusive<i64>,
    /// Buckets of each series at most.
    pub max: usize,
}

/// Series, where their reader stands, and what could not be read.
#[derive(Debug)]
pub struct Answer {
    /// The series.
    pub found: Found,
    /// Behind the last row that is in them.
    pub cursor: Cursor,
    /// In words.
    pub problems: Vec<String>,
}

impl Question {
    fn wants(&self, key: &str, rank: u32) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
            && self
                .ranks
                .as_ref()
                .is_none_or(|ranks| ranks.contains(&rank))
    }

    /// The whole run as it is followed: the cursor fits what is streamed from there on.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn followed(&self, watched: &Watched) -> Result<Answer> {
        loop {
            let (view, all, count, generation) = watched.charts(|charts, _, now| {
                let count = charts.count(|key, rank| self.wants(key, rank));
                (Arc::clone(charts.view()), charts.keys(), count, now)
            });
            let keys = self.keys.clone().unwrap_or(all);
            let want = Want {
                keys: &keys,
                ranks: self.ranks.as_ref(),
                range: EVERYWHERE,
                max: share(self.max, count),
            };
            // Read without keeping others from the run.
            let mut found = view.series(&want)?;
            let (cursor, now) = watched.charts(|charts, cursor, now| {
                charts.add_new(&mut found, |key, rank| self.wants(key, rank));
                (cursor, now)
            });
            if now == generation {
                return Ok(Answer {
                    found,
                    cursor,
                    problems: view.problems.clone(),
                });
            }
        }
    }

    /// As the files are now: what is not the whole run as it is followed.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn read(&self, run: &RunEntry, made: &Arc<MadeSums>) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            match self.try_read(run, made) {
                Err(StorageError::MissingRows { .. }) if attempt < ATTEMPTS => attempt += 1,
                done => return Ok(done?),
            }
        }
    }

    fn try_read(
        &self,
        run: &RunEntry,
        made: &Arc<MadeSums>,
    ) -> std::result::Result<Answer, StorageError> {
        // The logs' ends first: what comes meanwhile is then streamed, and not skipped.
        let mut cursor = cursor_at(run, 0);
        let opened = open(run, made)?;
        let view = Arc::clone(&opened.view);
        let mut new = Rows::default();
        let behind = opened.behind(|rows| {
            let wanted = rows.iter().filter(|row| self.wants(row.key, row.rank));
            wanted.for_each(|row| new.push_row(&row));
        })?;
        cursor.rows = behind.end;
        let totals = view.totals();
        let all = || totals.keys().map(|key| key.as_ref().to_owned());
        let keys = self.keys.clone().unwrap_or_else(|| all().collect());
        let count = keys
            .iter()
            .map(|key| totals.get(key.as_str()).map_or(1, BTreeMap::len));
        let max = share(self.max, count.sum());
        let want = Want {
            keys: &keys,
            ranks: self.ranks.as_ref(),
            range: whole_buckets(&self.range, &extent(&totals, &new, &keys), max),
            max,
        };
        let mut found = view.series(&want)?;
        for row in new.iter() {
            let ranks = found.entry(Arc::from(row.key)).or_default();
            // Its totals know how many points without a step stand in front.
            let series = ranks.entry(row.rank).or_default();
            let range = aligned(&want.range, series.shift());
            series.push_within(&row, &range, 4 * max);
        }
        let mut problems = view.problems.clone();
        problems.extend(behind.problems);
        Ok(Answer {
            found,
            cursor,
            problems,
        })
    }
}

/// From the least to the greatest place of a point of these metrics.
fn extent(
    totals: &crate::chart::AllTotals,
    new: &Rows,
    keys: &HashSet<String>,
) -> RangeInclusive<i64> {
    let mut places = Vec::new();
    let mut stepless = 0;
    for key in keys {
        let ranks = totals.get(key.as_str()).into_iter();
        for totals in ranks.flat_map(BTreeMap::values) {
            places.extend(totals.first_step.into_iter().chain(totals.last_step));
            stepless = totals.stepless.max(stepless);
        }
    }
    places.extend(new.iter().filter_map(|row| row.step));
    if new.has_stepless() {
        stepless = stepless.saturating_add(new.len() as u64);
    }
    if stepless > 0 {
        places.extend([0, i64::try_from(stepless).unwrap_or(i64::MAX)]);
    }
    let ends = places.iter().min().zip(places.iter().max());
    ends.map_or(0..=0, |(first, last)| *first..=*last)
}

/// The range, cut to where there are points, and widened to whole buckets of the width that a chart of it has at most.
fn whole_buckets(
    range: &RangeInclusive<i64>,
    extent: &RangeInclusive<i64>,
    max: usize,
) -> RangeInclusive<i64> {
    if *range == EVERYWHERE {
        return EVERYWHERE;
    }
    let from = *range.start().max(extent.start());
    let to = *range.end().min(extent.end());
    if from > to {
        return range.clone();
    }
    let buckets = |shift: u32| i128::from(to >> shift) - i128::from(from >> shift) + 1;
    let shift = (0..63).find(|&shift| buckets(shift) <= max as i128);
    aligned(&(from..=to), shift.unwrap_or(63))
}
