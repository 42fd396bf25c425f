//! Run folders that expman-rs 0.2 to 1.3 wrote, read only.
//!
//! `run.yaml` holds the record; its fields that this project does not have are kept.
//! Metrics are wide, one row per call (`step`, `timestamp`, one column per metric), in
//! `metrics.parquet` (0.2), `vectors.parquet` (0.5 and later), and, while a run of 1.2 or later is
//! live or after it was killed, in Arrow streams `vectors-0000.arrow`, `vectors-0001.arrow` … beside it.
//! Its samples of the hardware (`system*`) and its histograms are not metrics of the run and stay where they are.
//!
//! Rows get the rank of an integer column `rank`, else that of `run.yaml` (each rank of a group is a run there), else 0;
//! a float column of that name is a metric like any other. `seq` numbers the rows in the order of the files.

mod files;
mod typed;

use expman_model::{MetricSummary, Param, RunMeta, RunStatus, Value};

use crate::catalog::{RunEntry, RunKind};
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;
use crate::pyramid::{self, Stamp};
use crate::reader::{Filter, snapshot};
use crate::rows::{Row, Rows};
use crate::yaml;

/// How often reading starts again when the run is finished, and its segments removed, under the reader.
const ATTEMPTS: u32 = 3;

/// The metric rows of a run, whoever wrote it.
#[derive(Debug, Default)]
pub struct RunRows {
    /// The wanted rows.
    pub rows: Rows,
    /// What was found damaged and left out.
    pub problems: Vec<String>,
}

/// Reads the metric rows of a run as they stand now.
///
/// # Errors
/// When a file can't be read. A run that has none yet has no rows.
pub fn read_rows(entry: &RunEntry, filter: &Filter) -> Result<RunRows> {
    if entry.kind == RunKind::Mesh {
        let snapshot = snapshot(&entry.dir, filter)?;
        return Ok(RunRows {
            rows: snapshot.rows,
            problems: snapshot.problems,
        });
    }
    let mut attempt = 1;
    loop {
        let mut rows = Rows::default();
        match each_row(entry, filter, &mut |row| rows.push_row(row)) {
            Err(e) if e.is_not_found() && attempt < ATTEMPTS => attempt += 1,
            Err(e) => return Err(e),
            Ok(problems) => return Ok(RunRows { rows, problems }),
        }
    }
}

/// Hands over the wanted rows of a run of expman-rs one after the other, and returns what was found damaged and left out.
///
/// # Errors
/// When a file can't be read; files that were there may be gone when the run is finished meanwhile.
pub fn each_row(
    entry: &RunEntry,
    filter: &Filter,
    sink: &mut dyn FnMut(&Row<'_>),
) -> Result<Vec<String>> {
    let rank = entry
        .meta
        .other
        .get("rank")
        .and_then(serde_json::Value::as_u64);
    let rank = rank.and_then(|r| u32::try_from(r).ok()).unwrap_or(0);
    files::read(&entry.dir, rank, filter, sink)
}

/// What the files with a run's rows are known by.
///
/// # Errors
/// When the folder can't be listed.
pub fn stamp(entry: &RunEntry) -> Result<Stamp> {
    let mut found = Vec::new();
    for path in files::all(&entry.dir)? {
        found.push(pyramid::stamp(
            &std::fs::symlink_metadata(&path).at("stat", &path)?,
        ));
    }
    Ok(found)
}

/// Reads the record of such a run.
///
/// # Errors
/// When `run.yaml` is there and can't be read.
pub fn read_meta(dir: &RunDir) -> Result<Option<RunMeta>> {
    let path = dir.meta();
    let fields = match yaml::read::<Param>(&path)? {
        None => return Ok(None),
        Some(Param::Map(fields)) => fields,
        Some(_) => {
            return Err(StorageError::Yaml {
                path,
                what: "it is no mapping".to_owned(),
            });
        }
    };
    let mut meta = RunMeta::default();
    let mut vectors = Vec::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("name" | "experiment", _) | (_, Param::Null) => {}
            ("status", Param::Text(word)) => match RunStatus::parse(&word) {
                Some(status) => meta.status = status,
                None => keep(&mut meta, name, &Param::Text(word)),
            },
            ("started_at", Param::Text(t)) => meta.started_at = Some(t),
            ("finished_at", Param::Text(t)) => meta.finished_at = Some(t),
            ("duration_secs", Param::Float(x)) => meta.duration_secs = Some(x),
            ("description", Param::Text(t)) => meta.description = Some(t),
            ("language", Param::Text(t)) => meta.language = Some(t),
            ("env_path", Param::Text(t)) => meta.env_path = Some(t),
            ("tags", Param::List(tags)) => meta.tags = tags.into_iter().filter_map(text).collect(),
            ("scalars", Param::Map(entries)) => meta.scalars = values(entries).collect(),
            ("vectors" | "metrics", Param::Map(entries)) => vectors.extend(values(entries)),
            (_, value) => keep(&mut meta, name, &value),
        }
    }
    let rank = meta
        .other
        .get("rank")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0);
    let rank = u32::try_from(rank).unwrap_or(0);
    // Only the last value is told there.
    let last = |last| MetricSummary {
        last,
        step: None,
        rank,
        min: None,
        max: None,
        count: 0,
    };
    meta.metrics = vectors
        .into_iter()
        .map(|(name, value)| (name, last(value)))
        .collect();
    Ok(Some(meta))
}

fn keep(meta: &mut RunMeta, name: String, value: &Param) {
    if let Ok(json) = serde_json::to_value(value) {
        meta.other.insert(name, json);
    }
}

fn text(value: Param) -> Option<String> {
    if let Param::Text(text) = value {
        Some(text)
    } else {
        None
    }
}

fn values(entries: Vec<(String, Param)>) -> impl Iterator<Item = (String, Value)> {
    entries.into_iter().filter_map(|(name, value)| {
        let value = match value {
            Param::Bool(b) => Value::Bool(b),
            Param::Int(i) => Value::Int(i),
            Param::Float(x) => Value::Float(x),
            Param::Text(t) => Value::Text(t),
            Param::Null | Param::List(_) | Param::Map(_) => return None,
        };
        Some((name, value))
    })
}
