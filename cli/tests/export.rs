//! `expman export` on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use support::{Base, Done, command};

#[test]
fn one_row_per_call_with_exact_values() {
    let base = Base::new();
    let live = base.add_live("a");
    let want = "step,timestamp,rank,loss,n,metric:step\n\
        0,2026-01-01T00:00:00.000001Z,0,0.5,9223372036854775807,true\n\
        0,2026-01-01T00:00:00.000001Z,1,0.5,9223372036854775807,true\n\
        1,2026-01-01T00:00:00.000002Z,0,NaN,9223372036854775807,true\n\
        1,2026-01-01T00:00:00.000002Z,1,NaN,9223372036854775807,true\n\
        2,2026-01-01T00:00:00.000003Z,0,2.5,9223372036854775807,true\n\
        2,2026-01-01T00:00:00.000003Z,1,2.5,9223372036854775807,true\n";
    let export = || {
        base.expman(&["export", "-d", ".", "exp/a", "-f", "csv"])
            .expect(0)
    };
    assert_eq!(export().out, want);
    live.finish();
    assert_eq!(export().out, want, "the same once it is finished");
}

#[test]
fn selections_apply() {
    let base = Base::new();
    base.add_finished("a");
    let args = [
        "export",
        "-d",
        ".",
        "exp/a",
        "-f",
        "jsonl",
        "--keys",
        "loss,nope",
        "--rank",
        "1",
        "--since-step",
        "1",
    ];
    let done = base.expman(&args).expect(0);
    let lines: Vec<serde_json::Value> = done
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(
        lines.iter().map(|l| l["loss"].clone()).collect::<Vec<_>>(),
        ["NaN".into(), serde_json::json!(2.5)]
    );
    assert!(
        lines
            .iter()
            .all(|l| l["rank"] == 1 && l.as_object().unwrap().len() == 4)
    );
    assert!(done.err.contains("\"nope\""), "{done:?}");
}

#[test]
fn a_file_is_written_whole_in_the_format_of_its_name() {
    let base = Base::new();
    base.add_expman_rs("v0_2_9/done", "a");
    for (name, magic) in [
        ("t.csv", &b"step,"[..]),
        ("t.json", b"[\n{"),
        ("t.jsonl", b"{\""),
        ("t.parquet", b"PAR1"),
    ] {
        let done = base
            .expman(&["export", "-d", ".", "exp/a", "-o", name, "--json"])
            .expect(0);
        assert_eq!(
            (&done.json()["rows"], &done.json()["path"]),
            (&16.into(), &name.into())
        );
        assert!(
            fs::read(base.join(name)).unwrap().starts_with(magic),
            "{name}"
        );
    }
    assert!(
        !fs::read_dir(base.path()).unwrap().any(|f| f
            .unwrap()
            .path()
            .extension()
            .is_some_and(|e| e == "tmp"))
    );
    let done = base
        .expman(&["export", "-d", ".", "exp/a", "-o", "t.csv"])
        .expect(0);
    assert!(
        done.out.is_empty() && done.err.contains("16 rows in t.csv"),
        "{done:?}"
    );
}

#[test]
fn wrong_usage_is_refused_before_anything_is_written() {
    let base = Base::new();
    let run = base.add_finished("a");
    let before = fs::read(run.join("metrics.parquet")).unwrap();
    for args in [
        &["export", "-d", ".", "exp/a"][..],
        &["export", "-d", ".", "exp/a", "-o", "t.xlsx"],
        &["export", "-d", ".", "exp/a", "-f", "tensorboard"],
        &["export", "-d", ".", "exp/a", "-f", "csv", "--json"],
        &["export", "-d", ".", "exp/a", "-o", "exp/a/metrics.parquet"],
        &[
            "export",
            "-d",
            ".",
            "exp/a",
            "-f",
            "csv",
            "-o",
            "exp/a/.expman/LOCK",
        ],
    ] {
        let done = base.expman(args).expect(2);
        assert!(done.out.is_empty() && !done.err.is_empty(), "{done:?}");
    }
    assert_eq!(fs::read(run.join("metrics.parquet")).unwrap(), before);
    base.expman(&["export", "-d", ".", "exp/b", "-f", "csv"])
        .expect(3);
    let done = base
        .expman(&["export", "-d", ".", "exp/a", "-o", "missing/t.csv"])
        .expect(1);
    assert!(done.err.contains("missing/t.csv"), "{done:?}");
}

#[test]
fn a_parquet_file_without_its_footer_is_a_clear_error() {
    let base = Base::new();
    for (run, file) in [
        (base.add_finished("a"), "metrics.parquet"),
        (base.add_expman_rs("v1_3_0/done", "b"), "vectors.parquet"),
    ] {
        let bytes = fs::read(run.join(file)).unwrap();
        fs::write(run.join(file), &bytes[..bytes.len() - 50]).unwrap();
        let done = base
            .expman(&["export", &run.display().to_string(), "-f", "csv"])
            .expect(1);
        assert!(done.out.is_empty() && done.err.contains(file), "{done:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let base = Base::new();
    let mut live = base.add_live("a");
    let filler = "x".repeat(500_000);
    for seq in 10..14 {
        let text = expman_model::Value::Text(filler.clone());
        let points = vec![expman_model::Point::new("long", text)];
        live.log(
            0,
            seq,
            expman_model::RecordBody::Metrics { step: None, points },
        );
    }
    let mut child = command(&["export", "exp/a", "-d", ".", "-f", "csv"])
        .current_dir(base.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let done = Done::from(child.wait_with_output().unwrap()).expect(0);
    assert!(done.err.is_empty(), "{done:?}");
}
