//! `expman export` on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use expman_model::{Level, RecordBody, Stream};
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

/// A run with every kind of line, and 3,000 that are alike.
fn talkative(base: &Base) {
    let mut live = base.add_live("a");
    let message = |level, file: &str, text: &str| RecordBody::Message {
        level: Level(level),
        logger: if file.is_empty() { "" } else { "my logger]" }.into(),
        file: file.into(),
        line: u32::from(!file.is_empty()) * 12,
        text: text.into(),
    };
    let output = |stream, ends_line, bytes: &[u8]| RecordBody::Console {
        stream,
        ends_line,
        bytes: bytes.to_vec(),
    };
    live.log(
        0,
        10_000,
        message(17, "a b.py", "two\nlines, \u{1b}[31mred"),
    );
    live.log(1, 11_000, message(20, "", ""));
    live.log(1, 12_000, output(Stream::Err, false, b"\xff\x00half "));
    live.log(1, 13_000, output(Stream::Err, true, b"a line\r"));
    for n in 0..3_000 {
        live.log_unsynced(0, 20_000 + n, output(Stream::Out, true, b"step"));
    }
    live.finish();
    let mut log = fs::OpenOptions::new()
        .append(true)
        .open(base.join("exp/a/console.log"))
        .unwrap();
    std::io::Write::write_all(&mut log, b"by another program\n").unwrap();
}

#[test]
fn every_field_of_every_line_is_exported_exactly() {
    let base = Base::new();
    talkative(&base);
    let args = ["export", "./exp/a", "--logs", "-f", "jsonl"];
    let done = base.expman(&args).expect(0);
    let rows: Vec<serde_json::Value> = done
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 3_005);
    let line = serde_json::json!({
        "time": "2026-01-01T00:00:00.010000Z", "rank": 0, "stream": "log", "level": "LEVEL17",
        "logger": "my logger]", "file": "a b.py", "line": 12, "seq": 10_000, "ends_line": true,
        "text": "two\nlines, \u{1b}[31mred",
    });
    // What another program wrote has no time, and stands where it stands in its file.
    let foreign = rows.iter().position(|r| r["text"] == "by another program");
    let foreign = &rows[foreign.unwrap()];
    assert!(foreign["time"].is_null() && foreign["rank"].is_null() && foreign["stream"].is_null());
    assert_eq!(rows[0], line);
    assert_eq!(
        (&rows[1]["text"], &rows[1]["logger"]),
        (&"".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (
            &rows[2]["text_base64"],
            &rows[2]["ends_line"],
            &rows[2]["stream"]
        ),
        (&"/wBoYWxmIA==".into(), &false.into(), &"err".into())
    );
    assert_eq!(
        (&rows[3]["text"], &rows[3]["ends_line"]),
        (&"a line\r".into(), &true.into())
    );

    let args = [
        "export",
        "./exp/a",
        "--logs",
        "--rank",
        "1",
        "-o",
        "lines.parquet",
        "--json",
    ];
    let told = base.expman(&args).expect(0).json();
    assert_eq!(told["rows"], 3);
    let whole = ["export", "./exp/a", "--logs", "-o", "all.parquet"];
    let done = base.expman(&whole).expect(0);
    assert_eq!(done.err, "note: 3005 lines in all.parquet\n");
    assert!(
        fs::read(base.join("all.parquet"))
            .unwrap()
            .starts_with(b"PAR1")
    );
}

#[test]
fn lines_are_refused_in_forms_that_can_not_hold_them() {
    let base = Base::new();
    base.add_finished("a");
    for args in [
        &["-f", "csv"][..],
        &["-o", "lines.json"],
        &["-f", "jsonl", "--keys", "loss"],
        &["-f", "jsonl", "--since-step", "1"],
        &["-f", "parquet", "--long"],
        &[],
    ] {
        let args = [&["export", "./exp/a", "--logs"][..], args].concat();
        let told = base.expman(&args).expect(2).err;
        assert!(
            told.contains("--logs") || told.contains("no format"),
            "{told}"
        );
    }
    let inside = ["export", "./exp/a", "--logs", "-o", "exp/a/lines.parquet"];
    base.expman(&inside).expect(2);
    let nowhere = ["export", "./exp/a", "--logs", "-o", "no/folder.jsonl"];
    assert!(
        base.expman(&nowhere)
            .expect(1)
            .err
            .contains("no/folder.jsonl")
    );
}
