//! Run folders that expman-rs itself wrote (see `data/expman-rs/generate.py`) read back.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use expman_model::{RunStatus, Value};
use expman_storage::catalog::open_run;
use expman_storage::legacy::{RunRows, read_rows};
use expman_storage::{Catalog, Filter, Rows, RunKind};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/expman-rs")
}

fn read(run: &Path, filter: &Filter) -> RunRows {
    read_rows(&open_run(run).unwrap(), filter).unwrap()
}

/// Values of one metric by step, in the order of the rows.
fn series(rows: &Rows, key: &str) -> Vec<(Option<i64>, Value)> {
    rows.iter()
        .filter(|row| row.key == key)
        .map(|row| (row.step, row.value.to_value()))
        .collect()
}

fn copy(run: &str, to: &Path) -> PathBuf {
    let to = to.join("exp").join("run");
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(data().join(run)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

#[test]
fn every_layout_gives_the_same_rows() {
    for run in ["v0_2_9/done", "v0_5_3/done", "v1_3_0/done", "v1_3_0/killed"] {
        let RunRows { rows, problems } = read(&data().join(run), &Filter::default());
        assert!(problems.is_empty(), "{run}: {problems:?}");
        let mut loss = series(&rows, "loss");
        loss.sort_by_key(|(step, _)| *step);
        #[expect(clippy::cast_precision_loss, reason = "twelve steps")]
        let want: Vec<_> = (0..12)
            .map(|i| (Some(i), Value::Float(1.0 / (i + 1) as f64)))
            .collect();
        assert_eq!(loss, want, "{run}");
        let steps: HashSet<_> = series(&rows, "val/loss")
            .into_iter()
            .map(|(step, _)| step)
            .collect();
        assert_eq!(
            steps,
            HashSet::from([Some(0), Some(3), Some(6), Some(9)]),
            "{run}"
        );
        assert_eq!(
            series(&rows, "count"),
            [(Some(20), Value::Float(3.0))],
            "{run}"
        );
        assert_eq!(
            series(&rows, "note"),
            [(Some(22), Value::Text("hello".into()))],
            "{run}"
        );
        assert_eq!(
            series(&rows, "stepless"),
            [(None, Value::Float(1.5))],
            "{run}"
        );
        assert!(
            rows.iter()
                .all(|row| row.rank == 0 && row.timestamp_us > 1_700_000_000_000_000),
            "{run}"
        );
        let calls: HashSet<_> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(calls.len(), 16, "{run}");
    }
}

#[test]
fn what_is_not_finite_is_as_the_files_have_it() {
    let nan = |run: &str| series(&read(&data().join(run), &Filter::default()).rows, "nan").len();
    // 1.3.0 loses it when it finishes a run.
    assert_eq!(
        (nan("v0_2_9/done"), nan("v1_3_0/killed"), nan("v1_3_0/done")),
        (1, 1, 0)
    );
}

#[test]
fn the_rank_of_a_group_is_the_rows_rank() {
    let rows = read(&data().join("v1_3_0/rank1"), &Filter::default()).rows;
    assert!(rows.iter().all(|row| row.rank == 1));
}

#[test]
fn rows_of_a_resumed_run_come_from_the_finished_file_and_the_segments() {
    let rows = read(&data().join("v1_3_0/resumed"), &Filter::default()).rows;
    let loss = series(&rows, "loss");
    assert_eq!(loss.len(), 13);
    assert_eq!(loss[12], (Some(100), Value::Float(9.0)));
}

#[test]
fn a_run_killed_while_it_was_finished_has_no_row_twice() {
    let tmp = tempfile::tempdir().unwrap();
    let run = copy("v1_3_0/resumed", tmp.path());
    for file in fs::read_dir(data().join("v1_3_0/killed"))
        .unwrap()
        .map(|f| f.unwrap().path())
    {
        if file.extension().is_some_and(|e| e == "arrow") {
            fs::remove_file(run.join("vectors-0000.arrow")).ok();
            fs::copy(&file, run.join(file.file_name().unwrap())).unwrap();
        }
    }
    // The finished file of another process has other times; take the segments' rows as the finished ones.
    fs::remove_file(run.join("vectors.parquet")).unwrap();
    let before = read(&run, &Filter::default()).rows;
    let wide = run.join("vectors.parquet");
    expman_storage::export::to_file(
        &wide,
        &before,
        expman_storage::export::Shape::Wide,
        expman_storage::export::Format::Parquet,
    )
    .unwrap();
    let after = read(&run, &Filter::default()).rows;
    assert_eq!(after.len(), before.len());
}

#[test]
fn filters_apply() {
    let filter = Filter {
        keys: Some(HashSet::from(["acc".to_owned()])),
        ranks: None,
        since_step: Some(5),
        ..Filter::default()
    };
    for run in ["v1_3_0/done", "v1_3_0/killed"] {
        let rows = read(&data().join(run), &filter).rows;
        assert_eq!(rows.len(), 7, "{run}");
        assert!(
            rows.iter()
                .all(|row| row.key == "acc" && row.step >= Some(5)),
            "{run}"
        );
    }
    let none = Filter {
        ranks: Some(HashSet::from([7])),
        ..Filter::default()
    };
    assert!(read(&data().join("v1_3_0/done"), &none).rows.is_empty());
}

#[test]
fn the_record_keeps_what_run_yaml_says() {
    let runs = Catalog::new(data()).runs(None).unwrap();
    let all: BTreeMap<_, _> = runs
        .into_iter()
        .map(|r| (format!("{}/{}", r.experiment, r.run), r))
        .collect();
    assert_eq!(all.len(), 6);
    for run in all.values() {
        assert_eq!(
            (run.kind, &run.problem),
            (RunKind::ExpmanRs, &None),
            "{}",
            run.run
        );
        assert!(run.meta.started_at.is_some() && run.meta.language.as_deref() == Some("python"));
    }
    let rank1 = &all["v1_3_0/rank1"].meta;
    assert_eq!(rank1.status, RunStatus::Finished);
    assert_eq!(rank1.tags, ["a", "b"]);
    assert_eq!(rank1.description.as_deref(), Some("what it is for"));
    assert_eq!(rank1.scalars["said"], Value::Text("hi".into()));
    assert_eq!(rank1.metrics["loss"].last, Value::Float(1.0 / 12.0));
    assert!(matches!(rank1.metrics["nan"].last, Value::Float(x) if x.is_nan()));
    assert_eq!(
        (&rank1.other["group"], &rank1.other["rank"]),
        (&"g1".into(), &1.into())
    );
    assert_eq!(all["v1_3_0/killed"].meta.status, RunStatus::Running);
}

#[test]
fn a_torn_segment_gives_its_whole_batches() {
    let tmp = tempfile::tempdir().unwrap();
    let run = copy("v1_3_0/killed", tmp.path());
    let cut = |name: &str| {
        let bytes = fs::read(run.join(name)).unwrap();
        fs::write(run.join(name), &bytes[..bytes.len() / 2]).unwrap();
    };
    // The newest one may be in the middle of being written …
    cut("vectors-0003.arrow");
    let newest = read(&run, &Filter::default());
    assert_eq!(
        (series(&newest.rows, "loss").len(), newest.problems.len()),
        (12, 0)
    );
    // … an older one may not.
    cut("vectors-0001.arrow");
    let older = read(&run, &Filter::default());
    assert_eq!(series(&older.rows, "loss").len(), 7);
    assert!(
        older.problems[0].contains("vectors-0001.arrow"),
        "{:?}",
        older.problems
    );
}

#[test]
fn a_run_that_logged_no_metric_has_no_rows() {
    let tmp = tempfile::tempdir().unwrap();
    let run = copy("v0_5_3/done", tmp.path());
    fs::remove_file(run.join("vectors.parquet")).unwrap();
    let read = read(&run, &Filter::default());
    assert!(read.rows.is_empty() && read.problems.is_empty());
}

#[test]
fn a_file_of_ours_in_a_folder_without_machinery_reads_as_what_it_is() {
    let tmp = tempfile::tempdir().unwrap();
    let run = copy("v0_5_3/done", tmp.path());
    let rows = read(&run, &Filter::default()).rows;
    expman_storage::segment::write_sorted(&run.join("metrics.parquet"), &rows, rows.len() as u64)
        .unwrap();
    fs::remove_file(run.join("vectors.parquet")).unwrap();
    let again = read(&run, &Filter::default()).rows;
    assert_eq!(series(&again, "loss"), series(&rows, "loss"));
    assert_eq!(again.len(), rows.len());
}

#[test]
fn a_parquet_file_without_its_footer_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let run = copy("v0_5_3/done", tmp.path());
    let path = run.join("vectors.parquet");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let error = read_rows(&open_run(&run).unwrap(), &Filter::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("vectors.parquet"), "{error}");
}

#[test]
fn no_flipped_byte_makes_reading_panic() {
    let tmp = tempfile::tempdir().unwrap();
    for (run, file) in [
        ("v1_3_0/killed", "vectors-0002.arrow"),
        ("v1_3_0/done", "vectors.parquet"),
    ] {
        let run = copy(run, &tmp.path().join(run));
        let bytes = fs::read(run.join(file)).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xFF;
            fs::write(run.join(file), &bad).unwrap();
            drop(read_rows(&open_run(&run).unwrap(), &Filter::default()));
        }
    }
}
