//! Rows of a Parquet file one after the other, in bounded memory, without touching pages that can't hold a wanted one.

use std::fs::File;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::thread;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int8Type, Int32Type, Int64Type, TimestampMicrosecondType};
use expman_model::record::ValueRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

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
/// Columns that statistics are asked of: `key`, `rank` and `step`, by their place.
const PRUNING: [usize; 3] = [0, 1, 2];

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
            let indexed = if let Some(known) = self.indexed.get() {
                known
            } else {
                let indexed = load(&self.file, PageIndexPolicy::Optional).at("read", path)?;
                self.indexed.get_or_init(|| indexed)
            };
            let meta = indexed.metadata();
            let groups: Vec<usize> = (0..meta.num_row_groups())
                .filter(|&g| may_hold(&Spans::of_group(meta.row_group(g)), filter))
                .collect();
            let selection = selection(meta, &groups, filter);
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
}

fn load(
    file: &Shared,
    policy: PageIndexPolicy,
) -> Result<ArrowReaderMetadata, parquet::errors::ParquetError> {
    let options = ArrowReaderOptions::new().with_page_index_policy(policy);
    ArrowReaderMetadata::load(file, options)
}

/// What is known of a piece of a file: the least and greatest of its names, ranks and steps.
#[derive(Debug, Default)]
struct Spans<'a> {
    /// The greatest name may be cut short; then it tells nothing.
    keys: Option<(&'a [u8], Option<&'a [u8]>)>,
    ranks: Option<(i32, i32)>,
    steps: Option<(i64, i64)>,
}

impl<'a> Spans<'a> {
    fn of_group(group: &'a RowGroupMetaData) -> Self {
        let mut spans = Self::default();
        for column in PRUNING {
            let stats = group.columns().get(column).and_then(|c| c.statistics());
            match stats {
                Some(Statistics::ByteArray(stats)) => {
                    spans.keys = stats.min_opt().map(|min| {
                        let max = stats.max_opt().filter(|_| stats.max_is_exact());
                        (min.data(), max.map(parquet::data_type::ByteArray::data))
                    });
                }
                Some(Statistics::Int32(stats)) => {
                    spans.ranks = stats.min_opt().copied().zip(stats.max_opt().copied());
                }
                Some(Statistics::Int64(stats)) => {
                    spans.steps = stats.min_opt().copied().zip(stats.max_opt().copied());
                }
                _ => {}
            }
        }
        spans
    }

    fn of_page(indexes: &[Option<&'a ColumnIndexMetaData>; 3], page: usize) -> Self {
        let mut spans = Self::default();
        for index in indexes.iter().flatten() {
            match index {
                // Names in a page's index may be cut short at either end; the lower end stays a lower bound.
                ColumnIndexMetaData::BYTE_ARRAY(index) => {
                    spans.keys = index
                        .min_value(page)
                        .map(|min| (min, index.max_value(page)));
                }
                ColumnIndexMetaData::INT32(index) => {
                    spans.ranks = index
                        .min_value(page)
                        .copied()
                        .zip(index.max_value(page).copied());
                }
                ColumnIndexMetaData::INT64(index) => {
                    spans.steps = index
                        .min_value(page)
                        .copied()
                        .zip(index.max_value(page).copied());
                }
                _ => {}
            }
        }
        spans
    }
}

fn may_hold(spans: &Spans<'_>, filter: &Filter) -> bool {
    let keys = match (&filter.keys, spans.keys) {
        (Some(keys), Some((min, max))) => keys.iter().any(|key| {
            let key = key.as_bytes();
            // A bound that was cut short is a prefix with its last byte raised, which is still above.
            key >= min && max.is_none_or(|max| key <= max)
        }),
        _ => true,
    };
    let ranks = match (&filter.ranks, spans.ranks) {
        (Some(ranks), Some((min, max))) => ranks
            .iter()
            .any(|&rank| i32::try_from(rank).is_ok_and(|rank| (min..=max).contains(&rank))),
        _ => true,
    };
    let steps = match spans.steps {
        Some((min, max)) if filter.has_steps() => {
            filter.since_step.is_none_or(|since| max >= since)
                && filter.until_step.is_none_or(|until| min <= until)
        }
        _ => true,
    };
    keys && ranks && steps
}

/// The pages of these row groups that may hold a wanted row; none where the file has no index of its pages.
fn selection(meta: &ParquetMetaData, groups: &[usize], filter: &Filter) -> Option<RowSelection> {
    let mut wanted: Vec<Range<usize>> = Vec::new();
    let mut total = 0;
    for &group in groups {
        let rows = usize::try_from(meta.row_group(group).num_rows()).ok()?;
        let index = meta.page_index_for_row_group(group);
        let pages = |column: usize| {
            let offsets = index.offset_index(column)?;
            let first = offsets.page_locations().iter().map(|p| p.first_row_index);
            Some(first.collect::<Vec<_>>())
        };
        let starts = pages(PRUNING[0])?;
        // Only where the pages of columns lie beside each other does one tell about the other's rows.
        let indexes = PRUNING.map(|column| {
            let aligned = pages(column).is_some_and(|own| own == starts);
            index.column_index(column).filter(|_| aligned)
        });
        for (page, start) in starts.iter().enumerate() {
            let start = usize::try_from(*start).ok()?;
            let end = match starts.get(page + 1) {
                Some(next) => usize::try_from(*next).ok()?,
                None => rows,
            };
            if may_hold(&Spans::of_page(&indexes, page), filter) && start < end && end <= rows {
                match wanted.last_mut() {
                    Some(last) if last.end == total + start => last.end = total + end,
                    _ => wanted.push(total + start..total + end),
                }
            }
        }
        total += rows;
    }
    Some(RowSelection::from_consecutive_ranges(
        wanted.into_iter(),
        total,
    ))
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
