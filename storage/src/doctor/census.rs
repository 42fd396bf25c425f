//! Counting a run's rows, a batch at a time, and what its record should say about them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use expman_model::limits::SUMMARY_KEYS_MAX;
use expman_model::{MetricSummary, RunMeta};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::nesting;
use crate::reader::{Filter, add_batch};
use crate::rows::{Row, Rows};
use crate::segment::claimed_hi;

/// Rows decoded at once.
const BATCH_ROWS: usize = 8_192;

/// What a run's rows amount to.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) rows: u64,
    keys: BTreeMap<String, Count>,
    ranks: BTreeMap<(u32, u32), Process>,
}

#[derive(Debug)]
struct Count {
    summary: MetricSummary,
    /// Time and number of the row that came last, as far as clocks tell.
    last: (i64, u64),
}

#[derive(Debug, Default)]
struct Process {
    points: u64,
    calls: Calls,
    last_step: Option<i64>,
    last_seq: u64,
}

/// Numbers of calls, a bit each: they are dense, and a run may have a great many.
#[derive(Debug, Default)]
struct Calls {
    words: HashMap<u64, u64>,
    count: u64,
}

impl Calls {
    fn insert(&mut self, seq: u64) {
        let (word, bit) = (self.words.entry(seq / 64).or_default(), 1 << (seq % 64));
        self.count += u64::from(*word & bit == 0);
        *word |= bit;
    }
}

impl Census {
    /// Counts the rows of a Parquet file, which reads every page of it; returns what it claims to reach to.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn count(&mut self, path: &Path) -> Result<u64> {
        guarded(path, || self.count_rows(path))
    }

    fn count_rows(&mut self, path: &Path) -> Result<u64> {
        let file = durable::open_read(path)?;
        nesting::check(&file, path)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).at("read", path)?;
        let hi = claimed_hi(builder.metadata());
        let batches = builder
            .with_batch_size(BATCH_ROWS)
            .build()
            .at("read", path)?;
        let everything = Filter::default();
        for batch in batches {
            let mut rows = Rows::default();
            add_batch(path, &batch.at("read", path)?, &everything, &mut rows)?;
            rows.iter().for_each(|row| self.add(&row));
        }
        hi.ok_or_else(|| StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: "its metadata lacks expman.hi".to_owned(),
        })
    }

    fn add(&mut self, row: &Row<'_>) {
        self.rows += 1;
        let process = self.ranks.entry((row.rank, row.attempt)).or_default();
        process.points += 1;
        process.calls.insert(row.seq);
        process.last_step = row.step.max(process.last_step);
        process.last_seq = process.last_seq.max(row.seq);
        let (value, at) = (row.value.to_value(), (row.timestamp_us, row.seq));
        let Some(count) = self.keys.get_mut(row.key) else {
            let summary = MetricSummary::first(value, row.step, row.rank);
            let count = Count { summary, last: at };
            self.keys.insert(row.key.to_owned(), count);
            return;
        };
        let MetricSummary {
            last, step, rank, ..
        } = count.summary.clone();
        count.summary.update(value, row.step, row.rank);
        if at >= count.last {
            count.last = at;
        } else {
            // Files are sorted by name, rank and step, not by arrival.
            (count.summary.last, count.summary.step, count.summary.rank) = (last, step, rank);
        }
    }

    /// What the record says otherwise, in words.
    pub(super) fn disagreements(&self, meta: &RunMeta) -> Vec<String> {
        let mut told = Vec::new();
        if meta.rows != self.rows {
            told.push(format!("{} rows where there are {}", meta.rows, self.rows));
        }
        let wrong = |(name, count): &(&String, &Count)| match meta.metrics.get(*name) {
            Some(summary) => summary.count != count.summary.count,
            None => meta.metrics.len() < SUMMARY_KEYS_MAX,
        };
        let unknown = |name: &&String| !self.keys.contains_key(*name);
        let metrics =
            self.keys.iter().filter(wrong).count() + meta.metrics.keys().filter(unknown).count();
        if metrics > 0 {
            told.push(format!("{metrics} metrics otherwise than they are"));
        }
        let nobody = Process::default();
        let wrong = meta.ranks.iter().flat_map(|(rank, all)| {
            all.iter().filter(|process| {
                let there = self.ranks.get(&(*rank, process.attempt));
                let there = there.unwrap_or(&nobody);
                (process.points, process.rows) != (there.points, there.calls.count)
            })
        });
        let wrong = wrong.count();
        if wrong > 0 {
            told.push(format!("the points of {wrong} processes otherwise"));
        }
        told
    }

    /// Puts the counts into a record.
    pub(super) fn correct(&self, meta: &mut RunMeta) {
        meta.rows = self.rows;
        let known = std::mem::take(&mut meta.metrics);
        let summaries = self.keys.iter().take(SUMMARY_KEYS_MAX);
        meta.metrics = summaries
            .map(|(name, count)| {
                // What was counted rightly also knows which row came last.
                let right = known.get(name).filter(|k| k.count == count.summary.count);
                (name.clone(), right.unwrap_or(&count.summary).clone())
            })
            .collect();
        for (rank, all) in &mut meta.ranks {
            for process in all {
                let Some(there) = self.ranks.get(&(*rank, process.attempt)) else {
                    (process.points, process.rows) = (0, 0);
                    continue;
                };
                process.points = there.points;
                process.rows = there.calls.count;
                process.last_step = there.last_step.max(process.last_step);
                process.durable_seq = process.durable_seq.max(there.last_seq);
                process.accepted_seq = process.accepted_seq.max(process.durable_seq);
            }
        }
    }
}
