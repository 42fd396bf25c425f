//! What an owner does with every batch, and with every full commit log.

use expman_model::{Incarnation, Record, RunMeta, ValueRef, WriterId};
use expman_storage::pyramid::Sum;
use expman_storage::{Order, OwnerLock, Row, Rows, RunDir, RunWriter, StorageError, segment};
use tempfile::TempDir;

use crate::Work;
use crate::rank::record;

/// Calls of a batch, each of five points.
const CALLS: u32 = 256;
/// Points of a batch.
pub(crate) const APPENDED: u32 = 5 * CALLS;
/// Rows of a segment.
pub(crate) const SEALED: u32 = 1 << 16;

fn must<T>(done: Result<T, StorageError>) -> T {
    match done {
        Ok(done) => done,
        Err(e) => panic!("{e}"),
    }
}

fn folder() -> TempDir {
    match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(e) => panic!("no folder: {e}"),
    }
}

/// A run that is being written in a folder of its own.
pub(crate) struct Open {
    pub(crate) dir: RunDir,
    writer: RunWriter,
    index: u32,
    next: i64,
    _lock: OwnerLock,
    _folder: TempDir,
}

impl Open {
    pub(crate) fn new() -> Self {
        let folder = folder();
        let dir = RunDir::at(folder.path().join("run"));
        let lock = must(OwnerLock::take(&dir));
        let (mut writer, _) = must(RunWriter::open(&lock, &dir, RunMeta::default()));
        let id = WriterId {
            rank: 0,
            incarnation: Incarnation(7),
        };
        let index = writer.register(id, "host", 1).index;
        Self {
            dir,
            writer,
            index,
            next: 1,
            _lock: lock,
            _folder: folder,
        }
    }

    /// The next batch, as a link brings it.
    fn batch(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for step in self.next..self.next + i64::from(CALLS) {
            let Ok((mut record, _)) = Record::decode(&record(step)) else {
                panic!("no record");
            };
            record.seq = step.cast_unsigned();
            record.timestamp_us = 1_700_000_000_000_000 + 37 * step;
            record.encode(&mut bytes);
        }
        self.next += i64::from(CALLS);
        bytes
    }

    /// Takes batches in and writes them, without sealing any.
    pub(crate) fn fill(&mut self, batches: u32) {
        for _ in 0..batches {
            let batch = self.batch();
            must(self.writer.append(self.index, &batch));
        }
        must(self.writer.write());
    }
}

/// Takes in one batch again and again: each time the next numbers of its writer.
pub struct Append {
    open: Open,
    /// Made beforehand.
    batches: Vec<Vec<u8>>,
}

impl Append {
    pub(crate) fn new() -> Self {
        let mut open = Open::new();
        let mut batches: Vec<_> = (0..512).map(|_| open.batch()).collect();
        batches.reverse();
        Self { open, batches }
    }
}

impl Work for Append {
    fn once(&mut self) {
        let Some(batch) = self.batches.pop() else {
            *self = Self::new();
            return self.once();
        };
        must(self.open.writer.append(self.open.index, &batch));
    }
}

/// Rows as they come from one rank.
fn rows() -> Rows {
    let mut rows = Rows::default();
    let names: Vec<_> = ["loss", "accuracy", "rate", "grad_norm", "step_time"]
        .iter()
        .map(|name| format!("train/{name}"))
        .collect();
    for call in 0..u64::from(SEALED / 5) {
        for (place, key) in (0..).zip(&names) {
            let mixed = (5 * call + place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            rows.push_row(&Row {
                key,
                rank: 0,
                step: Some(call.cast_signed()),
                timestamp_us: 1_700_000_000_000_000 + 37 * call.cast_signed(),
                attempt: 0,
                seq: call + 1,
                value: ValueRef::Float(f64::from_bits(0x3FF0_0000_0000_0000 | (mixed >> 12))),
            });
        }
    }
    rows
}

/// Sorts rows and writes them as a file.
pub struct Seal {
    rows: Rows,
    folder: TempDir,
}

impl Seal {
    pub(crate) fn new() -> Self {
        Self {
            rows: rows(),
            folder: folder(),
        }
    }
}

impl Work for Seal {
    fn once(&mut self) {
        let path = self.folder.path().join("segment");
        must(segment::write_sorted(&path, &self.rows, 0));
    }
}

/// Adds sorted rows up.
pub struct Sums {
    rows: Rows,
    order: Order,
}

impl Sums {
    pub(crate) fn new() -> Self {
        let rows = rows();
        let order = rows.sorted();
        Self { rows, order }
    }
}

impl Work for Sums {
    fn once(&mut self) {
        let sum = Sum::of(&self.rows, &self.order, 0, &|_, _| 0);
        assert_eq!(std::hint::black_box(sum).hi, self.rows.len() as u64);
    }
}
