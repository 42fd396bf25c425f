//! Runs, parameters and lines as the API tells them.

use std::collections::BTreeMap;

use expman_model::meta::{LastFlush, RankCounts};
use expman_model::record::ValueRef;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{Param, RunMeta, RunStatus, Stream, Value};
use expman_storage::RunEntry;
use expman_storage::text::LogLine;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};
use utoipa::ToSchema;

use crate::stamps::Stamps;

/// A number; what JSON has no number for is written as `"NaN"`, `"inf"` or `"-inf"`.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

impl PartialEq for Number {
    /// A NaN is the same as itself.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            x if x.is_nan() => s.serialize_str("NaN"),
            f64::INFINITY => s.serialize_str("inf"),
            f64::NEG_INFINITY => s.serialize_str("-inf"),
            x => s.serialize_f64(x),
        }
    }
}

/// A logged value with its type kept: 1.0 is not 1 and not true.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WireValue {
    /// A float.
    Float(Number),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
}

impl From<ValueRef<'_>> for WireValue {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Float(x) => Self::Float(Number(x)),
            ValueRef::Int(i) => Self::Int(i),
            ValueRef::Bool(b) => Self::Bool(b),
            ValueRef::Text(s) => Self::Text(s.to_owned()),
        }
    }
}

impl From<&Value> for WireValue {
    fn from(value: &Value) -> Self {
        match value {
            Value::Float(x) => Self::Float(Number(*x)),
            Value::Int(i) => Self::Int(*i),
            Value::Bool(b) => Self::Bool(*b),
            Value::Text(s) => Self::Text(s.clone()),
        }
    }
}

/// One line of the list of runs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunSummary {
    id: String,
    key: String,
    display_name: Option<String>,
    description: Option<String>,
    host: Option<String>,
    /// First line of what it failed with.
    error: Option<String>,
    experiment: String,
    name: String,
    #[schema(value_type = String)]
    status: RunStatus,
    started_at: Option<String>,
    finished_at: Option<String>,
    duration_secs: Option<f64>,
    world_size: Option<u32>,
    #[schema(value_type = Object)]
    ranks: RankCounts,
    rows: u64,
    dropped: u64,
    #[schema(value_type = Option<Object>)]
    last_flush: Option<LastFlush>,
    #[schema(value_type = Object)]
    scalars: BTreeMap<String, WireValue>,
    tags: Vec<String>,
    live: bool,
    problem: Option<String>,
}

/// Characters of an error in the list of runs.
const ERROR_CHARS: usize = 200;

impl RunSummary {
    /// The experiment.
    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    /// When it started, RFC 3339 UTC.
    pub fn started_at(&self) -> Option<&str> {
        self.started_at.as_deref()
    }

    /// Latest value of a scalar.
    pub fn scalar(&self, name: &str) -> Option<&WireValue> {
        self.scalars.get(name)
    }

    /// Names of its scalars.
    pub fn scalars(&self) -> impl Iterator<Item = &str> {
        self.scalars.keys().map(String::as_str)
    }
}

impl From<&RunEntry> for RunSummary {
    fn from(run: &RunEntry) -> Self {
        let meta = &run.meta;
        Self {
            id: format!("{}/{}", run.experiment, run.run),
            key: run.key.clone(),
            display_name: meta.display_name.clone(),
            description: meta.description.clone(),
            host: meta.host.clone(),
            error: meta.error.as_ref().map(|e| {
                let line = e.message.lines().next().unwrap_or_default();
                line.chars().take(ERROR_CHARS).collect()
            }),
            experiment: run.experiment.clone(),
            name: run.run.clone(),
            status: meta.status,
            started_at: meta.started_at.clone(),
            finished_at: meta.finished_at.clone(),
            duration_secs: meta.duration_secs,
            world_size: meta.world_size,
            ranks: meta.rank_counts(),
            rows: meta.rows,
            dropped: meta.dropped,
            last_flush: meta.last_flush.clone(),
            scalars: scalars(meta),
            tags: meta.tags.clone(),
            live: run.is_live(),
            problem: run.problem.clone(),
        }
    }
}

fn scalars(meta: &RunMeta) -> BTreeMap<String, WireValue> {
    meta.scalars
        .iter()
        .map(|(name, value)| (name.clone(), value.into()))
        .collect()
}

/// The whole record of a run, with the stamps of what is fetched beside it; `metrics` only when asked for,
/// since there may be ten thousand.
pub fn detail(run: &RunEntry, stamps: &Stamps, with_metrics: bool) -> Json {
    let mut plain = run.meta.clone();
    let metrics = std::mem::take(&mut plain.metrics);
    let mut json = serde_json::to_value(&plain).unwrap_or_else(|_no_json| json!({}));
    json["id"] = json!(format!("{}/{}", run.experiment, run.run));
    json["run_id"] = json!(run.meta.id);
    json["key"] = json!(run.key);
    json["kind"] = json!(run.kind);
    json["live"] = json!(run.is_live());
    json["problem"] = json!(run.problem);
    json["stamps"] = json!(stamps);
    json["now"] = json!(rfc3339_us(now_us()));
    // JSON would turn a NaN into nothing.
    json["scalars"] = json!(scalars(&run.meta));
    match &mut json {
        Json::Object(fields) if !with_metrics => drop(fields.remove("metrics")),
        json => {
            let exact = metrics.iter().map(|(name, m)| {
                let fields = json!({
                    "last": WireValue::from(&m.last), "step": m.step, "rank": m.rank,
                    "min": m.min, "max": m.max, "count": m.count,
                });
                (name.clone(), fields)
            });
            json["metrics"] = Json::Object(exact.collect());
        }
    }
    json
}

/// A parameter tree as JSON, numbers that JSON lacks as text.
pub fn param(tree: &Param) -> Json {
    match tree {
        Param::Null => Json::Null,
        Param::Bool(b) => json!(b),
        Param::Int(i) => json!(i),
        Param::Float(x) => json!(Number(*x)),
        Param::Text(s) => json!(s),
        Param::List(items) => items.iter().map(param).collect(),
        Param::Map(entries) => {
            Json::Object(entries.iter().map(|(k, v)| (k.clone(), param(v))).collect())
        }
    }
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Line {
    /// Byte where the record begins: its identity.
    pub at: u64,
    /// RFC 3339 UTC; empty for what another program wrote into the file.
    pub t: String,
    /// None for what another program wrote.
    pub rank: Option<u32>,
    /// `out` or `err`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<&'static str>,
    /// Severity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Python's logger.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logger: String,
    /// The line goes on in the next record of its stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// The text; bytes that are no UTF-8 are replaced here, and kept in the file.
    pub text: String,
}

impl From<LogLine> for Line {
    fn from(line: LogLine) -> Self {
        let foreign = line.level.is_none() && line.stream.is_none();
        Self {
            at: line.offset,
            t: if foreign {
                String::new()
            } else {
                rfc3339_us(line.timestamp_us)
            },
            rank: (!foreign).then_some(line.rank),
            stream: line
                .stream
                .map(|s| if s == Stream::Out { "out" } else { "err" }),
            level: line.level.map(expman_model::Level::name),
            logger: line.logger,
            more: !line.ends_line,
            text: String::from_utf8_lossy(&line.text).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_keep_numbers_that_json_lacks() {
        let tree = Param::Map(vec![(
            "x".into(),
            Param::List(vec![Param::Float(f64::INFINITY), Param::Int(2)]),
        )]);
        assert_eq!(param(&tree).to_string(), r#"{"x":["inf",2]}"#);
    }
}
