//! Rows of a Parquet file one after the other, in bounded memory, without touching pages that can't hold a wanted one.

mod groups;
mod pruning;

use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::thread;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int32Type, Int64Type, TimestampMicrosecondType};
use expman_model::record::ValueRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::PageIndexPolicy;

pub(crate) use self::groups::Group;
use self::pruning::wanted;
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::nesting;
use crate::pread::Shared;
use crate::reader::Filter;
use crate::rows::{BOOL, FLOAT, INT, Row, TEXT};
use crate::segment::claimed_hi;

/// Rows decoded at once.
pub const BATCH_ROWS: usize = 8_192;
/// A file of so many rows is worth a thread that decodes it.
const AHEAD_ROWS: i64 = 65_536;

/// A file of rows, and what was read of its footer.
#[derive(Debug)]
pub struct Sealed {
    path: PathBuf,
    file: Shared,
    /// Rows `[0, hi)` of the run or, of a segment, the last ones of them.
    pub hi: u64,
    plain: ArrowReaderMetadata,
    /// The same with the index of its pages, which only a search for some rows needs.
    indexed: OnceLock<ArrowReaderMetadata>,
}

impl Sealed {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    /// When it can't be read, or is none of ours.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(durable::open_read(path)?, path)
    }

    /// The same for a file that is open.
    ///
    /// # Errors
    /// See [`Sealed::open`].
    pub fn of(file: File, path: &Path) -> Result<Self> {
        let file = Shared::new(file).at("stat", path)?;
        nesting::check(file.file(), path)?;
        guarded(path, || {
            let plain = load(&file, PageIndexPolicy::Skip).at("read", path)?;
            let hi = claimed_hi(plain.metadata()).ok_or_else(|| StorageError::Damaged {
                path: path.to_owned(),
                offset: 0,
                what: "its metadata lacks expman.hi".to_owned(),
            })?;
            Ok(Self {
                path: path.to_owned(),
                file,
                hi,
                plain,
                indexed: OnceLock::new(),
            })
        })
    }

    /// How many rows its footer tells of.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let rows = self.plain.metadata().file_metadata().num_rows();
        u64::try_from(rows).unwrap_or(0)
    }

    /// Where it is, or was.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Hands over every wanted row.
    ///
    /// # Errors
    /// When the file can't be read, or is damaged.
    pub fn each(&self, filter: &Filter, mut each: impl FnMut(&Row<'_>)) -> Result<()> {
        let path = &self.path;
        let mut take = |batch: &RecordBatch| {
            each_row(path, batch, |row| {
                if filter.admits(row) {
                    each(row);
                }
            })
        };
        if self.plain.metadata().file_metadata().num_rows() < AHEAD_ROWS {
            return guarded(path, || {
                self.batches(filter)?
                    .try_for_each(|batch| take(&batch.at("read", path)?))
            });
        }
        // Decoding takes as long as what is done with the rows.
        thread::scope(|scope| {
            let (give, batches) = mpsc::sync_channel(2);
            let reader = scope.spawn(move || {
                guarded(path, || {
                    for batch in self.batches(filter)? {
                        if give.send(batch.at("read", path)?).is_err() {
                            break;
                        }
                    }
                    Ok(())
                })
            });
            let taken = guarded(path, || {
                batches.into_iter().try_for_each(|batch| take(&batch))
            });
            let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
            taken.and(read)
        })
    }

    /// The batches that may hold a wanted row.
    ///
    /// # Errors
    /// When the file can't be read, or is damaged.
    pub fn batches(&self, filter: &Filter) -> Result<ParquetRecordBatchReader> {
        let path = &self.path;
        let new = |meta: &ArrowReaderMetadata| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), meta.clone())
        };
        let prunes = filter.keys.is_some() || filter.ranks.is_some() || filter.has_steps();
        let builder = if prunes {
            let indexed = self.indexed()?;
            let (groups, selection) = wanted(indexed.metadata(), filter);
            let builder = new(indexed).with_row_groups(groups);
            match selection {
                Some(selection) => builder.with_row_selection(selection),
                None => builder,
            }
        } else {
            new(&self.plain)
        };
        builder.with_batch_size(BATCH_ROWS).build().at("read", path)
    }

    /// What is known of the file, the index of its pages included.
    fn indexed(&self) -> Result<&ArrowReaderMetadata> {
        if let Some(known) = self.indexed.get() {
            return Ok(known);
        }
        let indexed = load(&self.file, PageIndexPolicy::Optional).at("read", &self.path)?;
        Ok(self.indexed.get_or_init(|| indexed))
    }
}

fn load(
    file: &Shared,
    policy: PageIndexPolicy,
) -> Result<ArrowReaderMetadata, parquet::errors::ParquetError> {
    let options = ArrowReaderOptions::new().with_page_index_policy(policy);
    ArrowReaderMetadata::load(file, options)
}

/// Hands over the rows of a batch.
///
/// # Errors
/// When a column is missing or has another type.
#[expect(
    clippy::cast_sign_loss,
    reason = "ranks, attempts and seqs were written from unsigned numbers"
)]
pub fn each_row(path: &Path, batch: &RecordBatch, mut each: impl FnMut(&Row<'_>)) -> Result<()> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| StorageError::Damaged {
                path: path.to_owned(),
                offset: 0,
                what: format!("it has no column {name:?}"),
            })
    };
    let wrong = |name: &str| StorageError::Damaged {
        path: path.to_owned(),
        offset: 0,
        what: format!("column {name:?} has another type"),
    };
    let key = column("key")?
        .as_string_opt::<i32>()
        .ok_or_else(|| wrong("key"))?;
    let rank = column("rank")?
        .as_primitive_opt::<Int32Type>()
        .ok_or_else(|| wrong("rank"))?;
    let step = column("step")?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| wrong("step"))?;
    let timestamp = column("timestamp")?
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| wrong("timestamp"))?;
    let attempt = column("attempt")?
        .as_primitive_opt::<Int32Type>()
        .ok_or_else(|| wrong("attempt"))?;
    let seq = column("seq")?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| wrong("seq"))?;
    let kind = column("kind")?
        .as_primitive_opt::<Int8Type>()
        .ok_or_else(|| wrong("kind"))?;
    let value = column("value")?
        .as_primitive_opt::<Float64Type>()
        .ok_or_else(|| wrong("value"))?;
    let int = column("int_value")?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| wrong("int_value"))?;
    let text = column("text")?
        .as_string_opt::<i32>()
        .ok_or_else(|| wrong("text"))?;
    for i in 0..batch.num_rows() {
        each(&Row {
            key: key.value(i),
            rank: rank.value(i) as u32,
            step: step.is_valid(i).then(|| step.value(i)),
            timestamp_us: timestamp.value(i),
            attempt: attempt.value(i) as u32,
            seq: seq.value(i) as u64,
            value: match u8::try_from(kind.value(i)).unwrap_or(TEXT) {
                FLOAT => ValueRef::Float(value.value(i)),
                INT => ValueRef::Int(int.value(i)),
                BOOL => ValueRef::Bool(int.value(i) != 0),
                _ => ValueRef::Text(text.value(i)),
            },
        });
    }
    Ok(())
}
