//! The answer to a question for charts: series on one grid, as JSON or as columns of bytes.
//!
//! The bytes: `u32` length of the header, the header (JSON), zeros up to a multiple of 8, then seven columns of
//! `f64` for each series of numbers, everything little-endian. A page makes typed arrays of it without parsing.

use std::collections::BTreeMap;

use expman_storage::pyramid::{Bucket, Series, Totals};
use serde::Serialize;

use crate::question::Answer;
use crate::wire::{Number, WireValue};

/// Type of an answer in columns of bytes.
pub const COLUMNS: &str = "application/vnd.expman.columns";
/// Buckets of all series of an answer together; many series get fewer each …
const BUCKETS_TOTAL: usize = 1 << 20;
/// … but never fewer than this.
const BUCKETS_MIN: usize = 16;

/// One series that was asked for.
#[derive(Debug, Clone, Copy)]
struct Shown<'a> {
    key: &'a str,
    rank: u32,
    series: &'a Series,
}

/// A series of an answer.
#[derive(Debug)]
struct Line {
    key: String,
    rank: Option<u32>,
    ranks: usize,
    totals: Totals,
    buckets: Vec<Bucket>,
}

/// Series on one grid.
#[derive(Debug)]
pub struct Drawn {
    cursor: String,
    problems: Vec<String>,
    shift: u32,
    lines: Vec<Line>,
}

/// How many buckets each of so many series may have.
pub fn share(max: usize, series: usize) -> usize {
    max.min((BUCKETS_TOTAL / series.max(1)).max(BUCKETS_MIN))
}

impl Drawn {
    /// Puts series on one grid of at most `max` buckets each; with `merge` those of one metric become one.
    fn new(found: &[Shown<'_>], max: usize, merge: bool) -> Self {
        let merged = merge.then(|| merged(found));
        let found: Vec<(Shown<'_>, usize)> = match &merged {
            Some(merged) => merged
                .iter()
                .map(|(key, (series, ranks))| {
                    let rank = 0;
                    (Shown { key, rank, series }, *ranks)
                })
                .collect(),
            None => found.iter().map(|f| (*f, 1)).collect(),
        };
        let max = share(max, found.len());
        let shifts = found.iter().map(|(f, _)| f.series.shift_for(max));
        let shift = shifts.max().unwrap_or(0);
        let lines = found.iter().map(|(found, ranks)| Line {
            key: found.key.to_owned(),
            rank: (!merge).then_some(found.rank),
            ranks: *ranks,
            totals: found.series.totals.clone(),
            buckets: found.series.at(shift),
        });
        Self {
            cursor: String::new(),
            problems: Vec::new(),
            shift,
            lines: lines.collect(),
        }
    }

    /// What was found, drawn.
    pub fn of(answer: Answer, max: usize, merge: bool) -> Self {
        let found = answer.found.iter().flat_map(|(key, ranks)| {
            let shown = |(&rank, series)| Shown { key, rank, series };
            ranks.iter().map(shown)
        });
        Self {
            cursor: answer.cursor.to_string(),
            problems: answer.problems,
            ..Self::new(&found.collect::<Vec<_>>(), max, merge)
        }
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// When it can't be encoded.
    pub fn json(&self) -> serde_json::Result<Vec<u8>> {
        let series = self.heads().map(|(line, mut head)| {
            if let Some(line) = line {
                let column = |f: fn(&Bucket) -> f64| {
                    let numbers = line.buckets.iter().map(|b| Number(f(b)));
                    numbers.collect()
                };
                head.columns = Some(Columns {
                    steps: line.buckets.iter().map(|b| b.index << self.shift).collect(),
                    times: column(time_ms),
                    min: column(|b| b.min),
                    max: column(|b| b.max),
                    mean: column(Bucket::mean),
                    values: column(|b| b.last),
                    counts: line.buckets.iter().map(|b| b.n).collect(),
                });
            }
            head
        });
        serde_json::to_vec(&self.answer(series.collect()))
    }

    /// The answer as a header and columns.
    ///
    /// # Errors
    /// When the header can't be encoded.
    #[expect(
        clippy::cast_precision_loss,
        reason = "columns are floats, and a chart shows no more than a float does"
    )]
    pub fn columns(&self) -> serde_json::Result<Vec<u8>> {
        let mut at = 0;
        let mut heads = Vec::new();
        for (line, mut head) in self.heads() {
            if let Some(line) = line {
                head.at = Some(at);
                at += line.buckets.len() * 7 * 8;
            }
            heads.push(head);
        }
        let header = serde_json::to_vec(&self.answer(heads))?;
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(header.len() + at + 16);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&header);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let columns: [&dyn Fn(&Bucket) -> f64; 7] = [
            &|b| (b.index << self.shift) as f64,
            &time_ms,
            &|b| b.min,
            &|b| b.max,
            &Bucket::mean,
            &|b| b.last,
            &|b| b.n as f64,
        ];
        for line in self.lines.iter().filter(|l| l.totals.has_numbers()) {
            for column in columns {
                for bucket in &line.buckets {
                    bytes.extend_from_slice(&column(bucket).to_le_bytes());
                }
            }
        }
        Ok(bytes)
    }

    fn answer<'a>(&'a self, series: Vec<Head<'a>>) -> Body<'a> {
        Body {
            cursor: &self.cursor,
            bucket: 1 << self.shift.min(63),
            problems: &self.problems,
            series,
        }
    }

    /// The heads of the answer's series: numbers with their line, then texts.
    fn heads(&self) -> impl Iterator<Item = (Option<&Line>, Head<'_>)> {
        self.lines.iter().flat_map(|line| {
            let totals = &line.totals;
            let head = Head {
                key: &line.key,
                rank: line.rank,
                ranks: line.ranks,
                n: totals.points,
                ..Head::default()
            };
            let numbers = totals.last.as_ref().map(|(last, moment)| {
                let head = Head {
                    kind: "number",
                    non_finite: Some(totals.non_finite),
                    first_step: totals.first_step,
                    last_step: totals.last_step,
                    last: Some(last.into()),
                    last_timestamp_us: Some(moment.timestamp_us),
                    len: line.buckets.len(),
                    ..head.clone()
                };
                (Some(line), head)
            });
            let texts = totals.text.as_ref().map(|(text, moment)| {
                let head = Head {
                    kind: "text",
                    n: totals.texts,
                    value: Some(text),
                    last_timestamp_us: Some(moment.timestamp_us),
                    ..head
                };
                (None, head)
            });
            numbers.into_iter().chain(texts)
        })
    }
}

/// One series for each metric over all ranks, and how many ranks are in it.
fn merged(found: &[Shown<'_>]) -> BTreeMap<String, (Series, usize)> {
    let mut merged: BTreeMap<String, (Series, usize)> = BTreeMap::new();
    for one in found {
        match merged.get_mut(one.key) {
            Some((series, ranks)) => {
                series.merge(one.series);
                *ranks += 1;
            }
            None => {
                merged.insert(one.key.to_owned(), (one.series.clone(), 1));
            }
        }
    }
    merged
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds since 1970 stay far below 2^53"
)]
fn time_ms(bucket: &Bucket) -> f64 {
    bucket.at.timestamp_us as f64 / 1e3
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    cursor: &'a str,
    /// Steps in one bucket.
    bucket: u64,
    problems: &'a [String],
    series: Vec<Head<'a>>,
}

/// What is told of a series beside its columns.
#[derive(Debug, Clone, Default, Serialize)]
struct Head<'a> {
    key: &'a str,
    /// None where it is all ranks.
    rank: Option<u32>,
    /// How many ranks are in it.
    ranks: usize,
    kind: &'static str,
    /// Points of the whole run.
    n: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_finite: Option<u64>,
    first_step: Option<i64>,
    last_step: Option<i64>,
    /// The last number, exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<WireValue>,
    /// The last text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    last_timestamp_us: Option<i64>,
    len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<usize>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    columns: Option<Columns>,
}

#[derive(Debug, Clone, Serialize)]
struct Columns {
    steps: Vec<i64>,
    /// Milliseconds since 1970 UTC of the last values.
    times: Vec<Number>,
    min: Vec<Number>,
    max: Vec<Number>,
    mean: Vec<Number>,
    /// The last value of each bucket.
    values: Vec<Number>,
    counts: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use expman_model::record::ValueRef;
    use expman_storage::Row;
    use serde_json::{Value as Json, json};

    use super::*;

    fn series(values: &[ValueRef<'_>], rank: u32) -> Series {
        let mut series = Series::default();
        for (step, value) in (0..).zip(values) {
            let row = Row {
                key: "k",
                rank,
                step: Some(step),
                timestamp_us: 1_000 * (step + 1) + i64::from(rank),
                attempt: 0,
                seq: step.cast_unsigned(),
                value: *value,
            };
            series.push(&row, 2048);
        }
        series
    }

    #[test]
    fn columns_and_json_tell_the_same() {
        let values = [1.5, 2.5, f64::NAN, 8.0].map(ValueRef::Float);
        let a = series(&values, 0);
        let b = series(&[ValueRef::Text("x"), ValueRef::Int(7)], 1);
        let found = [(0, &a), (1, &b)].map(|(rank, series)| Shown {
            key: "k",
            rank,
            series,
        });
        let drawn = Drawn::new(&found, 2, false);
        let json: Json = serde_json::from_slice(&drawn.json().unwrap()).unwrap();
        assert_eq!(json["bucket"], 2);
        let kinds: Vec<_> = json["series"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (s["rank"].as_u64().unwrap(), s["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(kinds, [(0, "number"), (1, "number"), (1, "text")]);
        let first = &json["series"][0];
        assert_eq!(first["steps"], json!([0, 2]));
        assert_eq!(first["mean"], json!([2.0, 8.0]));
        assert_eq!(
            (&first["last"], &first["non_finite"]),
            (&json!(8.0), &json!(1))
        );
        assert_eq!(json["series"][1]["last"], 7);
        assert_eq!(json["series"][2]["value"], "x");

        let bytes = drawn.columns().unwrap();
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let header: Json = serde_json::from_slice(&bytes[4..4 + length]).unwrap();
        let data = &bytes[(4 + length).next_multiple_of(8)..];
        for (head, told) in header["series"]
            .as_array()
            .unwrap()
            .iter()
            .zip(json["series"].as_array().unwrap())
        {
            assert_eq!(head["len"], told["len"]);
            let Some(at) = head["at"].as_u64() else {
                assert_eq!(head["kind"], "text");
                continue;
            };
            let len = usize::try_from(head["len"].as_u64().unwrap()).unwrap();
            let numbers: Vec<f64> = data[usize::try_from(at).unwrap()..][..len * 56]
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect();
            let names = ["steps", "times", "min", "max", "mean", "values", "counts"];
            for (name, column) in names.iter().zip(numbers.chunks_exact(len)) {
                let json: Vec<f64> = told[name]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|x| x.as_f64().unwrap())
                    .collect();
                assert_eq!(json, column, "{name}");
            }
        }
        assert_eq!(data.len(), 3 * 56);
    }

    #[test]
    fn ranks_become_one_series_with_its_mean() {
        let a = series(&[1.0, 2.0].map(ValueRef::Float), 0);
        let b = series(&[3.0, 10.0].map(ValueRef::Float), 1);
        let found = [(0, &a), (1, &b)].map(|(rank, series)| Shown {
            key: "k",
            rank,
            series,
        });
        let json: Json =
            serde_json::from_slice(&Drawn::new(&found, 9, true).json().unwrap()).unwrap();
        let [line] = json["series"].as_array().unwrap().as_slice() else {
            panic!("{json}")
        };
        assert_eq!((&line["rank"], &line["ranks"]), (&json!(null), &json!(2)));
        assert_eq!((&line["mean"], &line["n"]), (&json!([2.0, 6.0]), &json!(4)));
        assert_eq!(
            (&line["min"], &line["values"]),
            (&json!([1.0, 2.0]), &json!([3.0, 10.0]))
        );
    }
}
