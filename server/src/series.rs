//! Metric values as the API tells them: exact points, or the buckets of a chart.

use std::collections::BTreeMap;

use expman_model::record::ValueRef;
use expman_storage::Rows;
use expman_storage::pyramid::{Bucket, Found};
use serde::Serialize;

use crate::wire::{Number, WireValue};

/// One metric of one rank, points or buckets.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Series {
    key: String,
    rank: u32,
    kind: &'static str,
    steps: Vec<Option<i64>>,
    /// Microseconds since 1970 UTC.
    timestamps: Vec<i64>,
    values: Vec<WireValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<Vec<Number>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<Vec<Number>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<Vec<Number>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    non_finite: Option<u64>,
    /// Points of the answer; of the whole series where it has buckets.
    n: u64,
}

const NUMBER: &str = "number";
const TEXT: &str = "text";

/// The answer to a question for metrics, and a frame of the stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Behind the last row that was looked at.
    pub cursor: String,
    /// Steps in one bucket; none when the points are exact.
    pub bucket: Option<u64>,
    /// By metric, rank and kind.
    pub series: Vec<Series>,
    /// What was found damaged and left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Rows as exact series, each in the order in which its rank logged it.
pub fn exact<'a>(
    rows: impl IntoIterator<Item = (&'a Rows, std::ops::Range<usize>)>,
) -> Vec<Series> {
    let mut found: BTreeMap<(&str, u32, &'static str), Vec<expman_storage::Row<'a>>> =
        BTreeMap::new();
    for (table, range) in rows {
        for row in range.map(|i| table.row(i)) {
            let kind = if matches!(row.value, ValueRef::Text(_)) {
                TEXT
            } else {
                NUMBER
            };
            found
                .entry((row.key, row.rank, kind))
                .or_default()
                .push(row);
        }
    }
    let series = found.into_iter().map(|((key, rank, kind), mut rows)| {
        rows.sort_by_key(|row| (row.attempt, row.seq));
        Series {
            key: key.to_owned(),
            rank,
            kind,
            steps: rows.iter().map(|row| row.step).collect(),
            timestamps: rows.iter().map(|row| row.timestamp_us).collect(),
            values: rows.iter().map(|row| row.value.into()).collect(),
            n: rows.len() as u64,
            ..Series::default()
        }
    });
    series.collect()
}

/// Series as buckets of one width, at most `max` each.
pub fn bucketed(series: &Found, max: usize) -> (u64, Vec<Series>) {
    let all = || {
        series
            .iter()
            .flat_map(|(key, ranks)| ranks.iter().map(move |(rank, series)| (key, *rank, series)))
    };
    let shift = all().map(|(_, _, s)| s.shift_for(max)).max().unwrap_or(0);
    let mut found = Vec::new();
    for (key, rank, series) in all() {
        let head = Series {
            key: key.as_ref().to_owned(),
            rank,
            n: series.totals.points,
            ..Series::default()
        };
        if series.totals.has_numbers() {
            let buckets = series.at(shift);
            let column = |f: fn(&Bucket) -> f64| buckets.iter().map(|b| Number(f(b))).collect();
            found.push(Series {
                kind: NUMBER,
                // The shift undoes the one that made the index, so nothing is lost.
                steps: buckets.iter().map(|b| Some(b.index << shift)).collect(),
                timestamps: buckets.iter().map(|b| b.at.timestamp_us).collect(),
                values: buckets
                    .iter()
                    .map(|b| WireValue::Float(Number(b.last)))
                    .collect(),
                min: Some(column(|b| b.min)),
                max: Some(column(|b| b.max)),
                mean: Some(column(Bucket::mean)),
                counts: Some(buckets.iter().map(|b| b.n).collect()),
                non_finite: Some(series.totals.non_finite),
                ..head.clone()
            });
        }
        if let Some((text, at)) = &series.totals.text {
            found.push(Series {
                kind: TEXT,
                steps: vec![None],
                timestamps: vec![at.timestamp_us],
                values: vec![WireValue::Text(text.clone())],
                n: series.totals.texts,
                ..head
            });
        }
    }
    (1 << shift.min(63), found)
}

#[cfg(test)]
mod tests {
    use expman_storage::Row;

    use super::*;

    #[test]
    fn values_keep_their_type_and_their_strangeness() {
        let mut rows = Rows::default();
        let values = [
            ValueRef::Float(1.0),
            ValueRef::Int(i64::MIN),
            ValueRef::Bool(true),
            ValueRef::Float(f64::NAN),
            ValueRef::Float(f64::NEG_INFINITY),
            ValueRef::Float(-0.0),
            ValueRef::Text("NaN"),
        ];
        for (seq, value) in (1..).zip(values) {
            rows.push_row(&Row {
                key: "k",
                rank: 2,
                step: None,
                timestamp_us: 5,
                attempt: 0,
                seq,
                value,
            });
        }
        let series = exact([(&rows, 0..rows.len())]);
        assert_eq!(
            series.iter().map(|s| s.kind).collect::<Vec<_>>(),
            [NUMBER, TEXT]
        );
        assert_eq!(
            serde_json::to_string(&series[0].values).unwrap(),
            r#"[1.0,-9223372036854775808,true,"NaN","-inf",-0.0]"#
        );
        assert_eq!(
            serde_json::to_string(&series[1].values).unwrap(),
            r#"["NaN"]"#
        );
    }

    #[test]
    fn a_series_comes_in_the_order_of_its_calls() {
        let mut rows = Rows::default();
        for (attempt, seq, step) in [(1, 1, 2), (0, 2, 9), (0, 1, 1)] {
            rows.push_row(&Row {
                key: "k",
                rank: 0,
                step: Some(step),
                timestamp_us: 0,
                attempt,
                seq,
                value: ValueRef::Int(step),
            });
        }
        assert_eq!(exact([(&rows, 0..3)])[0].steps, [Some(1), Some(9), Some(2)]);
    }
}
