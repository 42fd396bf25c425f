//! One metric of many runs, in as few points as a line in a table shows.

use std::collections::{BTreeMap, HashSet};

use axum::Json;
use axum::extract::State;
use expman_storage::pyramid::{EVERYWHERE, Series};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Params;
use crate::error::{Result, ServeError};
use crate::question::Question;
use crate::router::AppState;
use crate::sparks::Id;
use crate::wire::Number;

/// Runs of one answer.
const RUNS_MAX: usize = 100;
/// Points of a line that nobody said a number for, and at most.
const POINTS: usize = 48;
/// See [`POINTS`].
const POINTS_MAX: usize = 512;

/// Which metric of which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SparkParams {
    /// Keys of runs, separated by commas.
    runs: String,
    /// The metric.
    key: String,
    max_points: Option<usize>,
}

/// The mean over all ranks.
#[derive(Debug, Clone, Serialize)]
pub struct Spark {
    steps: Vec<i64>,
    values: Vec<Number>,
}

impl Spark {
    /// None for a metric that the run does not have as numbers.
    fn of(series: impl IntoIterator<Item = Series>, max: usize) -> Option<Self> {
        let mut all = Series::default();
        for one in series {
            all.merge(&one);
        }
        let shift = all.shift_for(max);
        let buckets = all.at(shift);
        (!buckets.is_empty()).then(|| Self {
            steps: buckets.iter().map(|b| b.index << shift).collect(),
            values: buckets.iter().map(|b| Number(b.mean())).collect(),
        })
    }
}

/// All lines that were asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sparks {
    /// By the run's key: `steps` and `values`.
    #[schema(value_type = Object)]
    runs: BTreeMap<String, Option<Spark>>,
}

/// `GET /api/sparklines?runs=&key=&max_points=`
#[utoipa::path(
    get,
    path = "/sparklines",
    tag = "metrics",
    params(SparkParams),
    responses((status = 200, description = "Lines by run; null for a run without the metric", body = Sparks))
)]
pub async fn sparklines(
    State(state): State<AppState>,
    Params(params): Params<SparkParams>,
) -> Result<Json<Sparks>> {
    let bad = |what: String| Err(ServeError::BadRequest { what });
    let keys: HashSet<String> = params.runs.split(',').map(str::to_owned).collect();
    if keys.len() > RUNS_MAX {
        return bad(format!(
            "{} runs, and at most {RUNS_MAX} are answered at once",
            keys.len()
        ));
    }
    let max = params.max_points.unwrap_or(POINTS);
    if !(1..=POINTS_MAX).contains(&max) {
        return bad(format!(
            "max_points is {max}, and must be from 1 to {POINTS_MAX}"
        ));
    }
    let mut runs = BTreeMap::new();
    for key in keys {
        let spark = line(&state, &key, &params.key, max).await;
        // A run that is gone or can't be read has no line, and hides no other.
        let spark = spark.unwrap_or_else(|e| {
            tracing::debug!(run = %key, "no sparkline: {e}");
            None
        });
        runs.insert(key, spark);
    }
    Ok(Json(Sparks { runs }))
}

async fn line(state: &AppState, run: &str, key: &str, max: usize) -> Result<Option<Spark>> {
    let run = state.index.run(run).await?;
    let question = Question {
        keys: Some(HashSet::from([key.to_owned()])),
        ranks: None,
        range: EVERYWHERE,
        max,
    };
    let what = run.dir.root().display().to_string();
    let (made, sparks) = (state.hub.made().clone(), state.sparks.clone());
    let work = move || {
        let id = Id::of(&run, &question);
        if let Some(known) = sparks.get(&id) {
            return Ok(known);
        }
        let answer = question.read(&run, &made)?;
        let series = answer.found.into_values().flat_map(BTreeMap::into_values);
        let spark = Spark::of(series, max);
        sparks.put(id, spark.clone());
        Ok(spark)
    };
    state.reads.run(what, work).await
}

#[cfg(test)]
mod tests {
    use expman_model::record::ValueRef;
    use expman_storage::Row;

    use super::*;

    #[test]
    fn a_line_is_the_mean_over_ranks() {
        let series = [1.0, 3.0].map(|x| {
            let mut series = Series::default();
            for step in 0..100 {
                let row = Row {
                    key: "k",
                    rank: 0,
                    step: Some(step),
                    timestamp_us: step,
                    attempt: 0,
                    seq: step.cast_unsigned(),
                    value: ValueRef::Float(x),
                };
                series.push(&row, 2048);
            }
            series
        });
        let spark = Spark::of(series, 10).unwrap();
        assert_eq!(spark.steps, [0, 16, 32, 48, 64, 80, 96]);
        assert!(spark.values.iter().all(|x| (x.0 - 2.0).abs() < 1e-12));
        assert!(Spark::of([Series::default()], 10).is_none());
    }
}
