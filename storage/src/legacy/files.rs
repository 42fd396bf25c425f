//! The wide files of expman-rs as rows.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use arrow::ipc::reader::StreamDecoder;
use expman_model::record::ValueRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::typed::typed;
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::layout::{RunDir, names};
use crate::nesting;
use crate::reader::Filter;
use crate::rows::Row;
use crate::scan::Sealed;
use crate::segment::claimed_hi;

/// Files of finished rows, oldest layout first.
const FINISHED: [&str; 2] = ["metrics.parquet", "vectors.parquet"];

/// Reads finished files, then segments.
pub(super) fn read(
    dir: &RunDir,
    rank: u32,
    filter: &Filter,
    sink: &mut dyn FnMut(&Row<'_>),
) -> Result<Vec<String>> {
    let segments = segments(dir)?;
    let finished = finished(dir);
    let mut reading = Reading {
        filter,
        rank,
        seq: 0,
        finished: (!segments.is_empty()).then(HashSet::new),
        sink,
        problems: Vec::new(),
    };
    for path in &finished {
        guarded(path, || read_parquet(path, &mut reading))?;
    }
    // A run killed while it was finished leaves segments whose rows stand in the finished file too.
    let seen = reading.finished.take().unwrap_or_default();
    let last = segments.len().saturating_sub(1);
    for (n, path) in segments.iter().enumerate() {
        match guarded(path, || read_segment(path, n == last, &seen, &mut reading)) {
            Err(StorageError::Damaged { what, .. }) => {
                reading
                    .problems
                    .push(format!("{} is damaged: {what}", path.display()));
            }
            done => done?,
        }
    }
    Ok(reading.problems)
}

/// Every file with rows.
pub(super) fn all(dir: &RunDir) -> Result<Vec<PathBuf>> {
    let mut all = finished(dir);
    all.extend(segments(dir)?);
    Ok(all)
}

fn finished(dir: &RunDir) -> Vec<PathBuf> {
    let paths = FINISHED.iter().map(|name| dir.root().join(name));
    paths.filter(|p| p.is_file()).collect()
}

/// The Arrow streams of a run that is not finished, in the order of their numbers.
fn segments(dir: &RunDir) -> Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    for (name, path) in names(dir.root())? {
        let number = name
            .strip_prefix("vectors-")
            .and_then(|n| n.strip_suffix(".arrow"));
        if let Some(number) = number.and_then(|n| n.parse::<u64>().ok()) {
            found.insert(number, path);
        }
    }
    Ok(found.into_values().collect())
}

fn read_parquet(path: &Path, reading: &mut Reading<'_>) -> Result<()> {
    let file = durable::open_read(path)?;
    nesting::check(&file, path)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).at("read", path)?;
    if claimed_hi(builder.metadata()).is_some() {
        // One of ours, whose folder was copied without its machinery.
        return Sealed::open(path)?.each(reading.filter, &mut reading.sink);
    }
    let fields = builder.schema().fields();
    let wanted: Vec<usize> = (0..fields.len())
        .filter(|&i| reading.wants(&fields[i]))
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    for batch in builder.with_projection(mask).build().at("read", path)? {
        let batch = batch.at("read", path)?;
        reading.take(path, &batch, &HashSet::new())?;
    }
    Ok(())
}

/// Reads the whole batches of an Arrow stream; only the newest one may end in the middle.
fn read_segment(
    path: &Path,
    newest: bool,
    seen: &HashSet<Call>,
    reading: &mut Reading<'_>,
) -> Result<()> {
    let damaged = |what| {
        Err(StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what,
        })
    };
    let mut bytes = Buffer::from_vec(durable::read(path)?);
    let mut decoder = StreamDecoder::new();
    loop {
        match decoder.decode(&mut bytes) {
            Ok(Some(batch)) => reading.take(path, &batch, seen)?,
            Ok(None) => break,
            Err(e) => return damaged(e.to_string()),
        }
    }
    match decoder.finish() {
        Err(e) if !newest => damaged(e.to_string()),
        _ => Ok(()),
    }
}

/// What a row is known by across files: its step and time.
type Call = (Option<i64>, i64);

struct Reading<'a> {
    filter: &'a Filter,
    rank: u32,
    seq: u64,
    /// The rows of finished files, when they must be told from those of segments.
    finished: Option<HashSet<Call>>,
    sink: &'a mut dyn FnMut(&Row<'_>),
    problems: Vec<String>,
}

/// The part a column plays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Step,
    Time,
    Rank,
    Metric,
}

fn role(field: &Field) -> Role {
    let integer = field.data_type().is_integer();
    match (field.name().as_str(), field.data_type()) {
        ("step", _) if integer => Role::Step,
        ("rank", _) if integer => Role::Rank,
        ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, _)) => Role::Time,
        _ => Role::Metric,
    }
}

/// Column numbers by the part they play; of two steps the first one is the step.
fn roles(schema: &Schema) -> (Option<usize>, Option<usize>, Option<usize>, Vec<usize>) {
    let (mut step, mut time, mut rank, mut metrics) = (None, None, None, Vec::new());
    for (i, field) in schema.fields().iter().enumerate() {
        let slot = match role(field) {
            Role::Step => &mut step,
            Role::Time => &mut time,
            Role::Rank => &mut rank,
            Role::Metric => &mut None,
        };
        if role(field) == Role::Metric || slot.is_some() {
            metrics.push(i);
        } else {
            *slot = Some(i);
        }
    }
    (step, time, rank, metrics)
}

impl Reading<'_> {
    fn wants(&self, field: &Field) -> bool {
        role(field) != Role::Metric
            || self
                .filter
                .keys
                .as_ref()
                .is_none_or(|keys| keys.contains(field.name()))
    }

    fn take(&mut self, path: &Path, batch: &RecordBatch, seen: &HashSet<Call>) -> Result<()> {
        let schema = batch.schema();
        let (step, time, rank, metrics) = roles(&schema);
        let time = time.ok_or_else(|| StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: "it has no column \"timestamp\" of microseconds".to_owned(),
        })?;
        let time = batch
            .column(time)
            .as_primitive::<TimestampMicrosecondType>();
        let whole = |i: Option<usize>| typed(batch.column(i?));
        let (step, rank) = (whole(step), whole(rank));
        let at = |column: &Option<ArrayRef>, i: usize| {
            let column = column.as_ref()?.as_primitive::<Int64Type>();
            column.is_valid(i).then(|| column.value(i))
        };
        let mut columns = Vec::new();
        for i in metrics {
            let name = schema.field(i).name().as_str();
            if !self.wants(schema.field(i)) {
                continue;
            }
            match typed(batch.column(i)) {
                Some(column) => columns.push((name, column)),
                None => self.untyped(path, schema.field(i)),
            }
        }
        for i in 0..batch.num_rows() {
            let call = (at(&step, i), time.value(i));
            self.seq += 1;
            if seen.contains(&call) {
                continue;
            }
            if let Some(finished) = &mut self.finished {
                finished.insert(call);
            }
            let rank = at(&rank, i)
                .and_then(|r| u32::try_from(r).ok())
                .unwrap_or(self.rank);
            for (key, column) in &columns {
                let Some(value) = value(column, i) else {
                    continue;
                };
                let row = Row {
                    key,
                    rank,
                    step: call.0,
                    timestamp_us: call.1,
                    attempt: 0,
                    seq: self.seq,
                    value,
                };
                if self.filter.admits(&row) {
                    (self.sink)(&row);
                }
            }
        }
        Ok(())
    }

    fn untyped(&mut self, path: &Path, field: &Field) {
        let (name, data_type) = (field.name(), field.data_type());
        let problem = format!(
            "column {name:?} of {} has the type {data_type} and was left out",
            path.display()
        );
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

fn value(column: &ArrayRef, i: usize) -> Option<ValueRef<'_>> {
    if column.is_null(i) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Float64 => ValueRef::Float(column.as_primitive::<Float64Type>().value(i)),
        DataType::Int64 => ValueRef::Int(column.as_primitive::<Int64Type>().value(i)),
        DataType::Boolean => ValueRef::Bool(column.as_boolean().value(i)),
        _ => ValueRef::Text(column.as_string::<i32>().value(i)),
    })
}
