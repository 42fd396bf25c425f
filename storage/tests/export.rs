//! Tables written for other programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;
use expman_model::record::ValueRef;
use expman_storage::catalog::open_run;
use expman_storage::export::{Format, Shape, Table, to_file, to_writer};
use expman_storage::segment::{splice, write_sorted};
use expman_storage::{Filter, Row, Rows, RunDir, RunEntry};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

fn rows() -> Rows {
    let mut rows = Rows::default();
    let mut put = |key, rank, step, seq, value| {
        let timestamp_us = 1_767_225_600_123_456;
        rows.push_row(&Row {
            key,
            rank,
            step,
            timestamp_us,
            attempt: 0,
            seq,
            value,
        });
    };
    put("loss", 0, Some(0), 1, ValueRef::Float(0.1));
    put("n", 0, Some(0), 1, ValueRef::Int(i64::MIN));
    put("ok", 0, Some(0), 1, ValueRef::Bool(true));
    put("loss", 1, Some(0), 1, ValueRef::Float(f64::NAN));
    put(
        "say \"hi\", you",
        1,
        Some(0),
        1,
        ValueRef::Text("a,\"b\"\nc"),
    );
    put("loss", 0, Some(1), 2, ValueRef::Float(f64::NEG_INFINITY));
    put("say \"hi\", you", 0, Some(1), 2, ValueRef::Text(""));
    put("loss", 0, None, 3, ValueRef::Float(-0.0));
    rows
}

fn text(rows: &Rows, shape: Shape, format: Format) -> String {
    let mut out = Vec::new();
    to_writer(&mut out, Path::new("out"), rows, shape, format).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn csv_quotes_what_needs_it_and_tells_null_from_empty() {
    let want = "step,timestamp,rank,loss,n,ok,\"say \"\"hi\"\", you\"\n\
        ,2026-01-01T00:00:00.123456Z,0,-0.0,,,\n\
        0,2026-01-01T00:00:00.123456Z,0,0.1,-9223372036854775808,true,\n\
        0,2026-01-01T00:00:00.123456Z,1,NaN,,,\"a,\"\"b\"\"\nc\"\n\
        1,2026-01-01T00:00:00.123456Z,0,-inf,,,\"\"\n";
    assert_eq!(text(&rows(), Shape::Wide, Format::Csv), want);
}

#[test]
fn json_has_every_column_in_every_object_and_strings_for_what_is_not_finite() {
    let array: serde_json::Value =
        serde_json::from_str(&text(&rows(), Shape::Wide, Format::Json)).unwrap();
    let lines: Vec<serde_json::Value> = text(&rows(), Shape::Wide, Format::Jsonl)
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(array.as_array().unwrap(), &lines);
    assert_eq!(lines.len(), 4);
    assert!(
        lines
            .iter()
            .all(|line| line.as_object().unwrap().len() == 7)
    );
    assert_eq!(
        (&lines[2]["loss"], &lines[3]["loss"]),
        (&"NaN".into(), &"-inf".into())
    );
    assert_eq!(lines[1]["n"].as_i64(), Some(i64::MIN));
    assert_eq!(
        (&lines[0]["step"], &lines[1]["ok"]),
        (&serde_json::Value::Null, &true.into())
    );
    assert_eq!(lines[2]["say \"hi\", you"], "a,\"b\"\nc");
}

#[test]
fn long_tables_have_the_columns_of_the_run() {
    let csv = text(&rows(), Shape::Long, Format::Csv);
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("key,rank,step,timestamp,attempt,seq,kind,value,int_value,text")
    );
    assert_eq!(
        lines.next(),
        Some("loss,0,,2026-01-01T00:00:00.123456Z,0,3,0,-0.0,,")
    );
    assert_eq!(
        text(&rows(), Shape::Long, Format::Jsonl).lines().count(),
        rows().len()
    );
}

#[test]
fn no_rows_are_a_valid_file_in_every_format() {
    let none = Rows::default();
    assert_eq!(
        text(&none, Shape::Wide, Format::Csv),
        "step,timestamp,rank\n"
    );
    assert_eq!(text(&none, Shape::Wide, Format::Json), "[]\n");
    assert_eq!(text(&none, Shape::Wide, Format::Jsonl), "");
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("empty.parquet");
    assert_eq!(
        to_file(&path, &none, Shape::Wide, Format::Parquet).unwrap(),
        0
    );
    assert_eq!(
        ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap())
            .unwrap()
            .schema()
            .fields()
            .len(),
        3
    );
}

#[test]
fn parquet_reads_back_and_its_footer_suits_older_readers() {
    let tmp = tempfile::tempdir().unwrap();
    for shape in [Shape::Wide, Shape::Long] {
        let path = tmp.path().join("t.parquet");
        let count = to_file(&path, &rows(), shape, Format::Parquet).unwrap();
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
        let columns = builder.schema().fields().len();
        let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        assert_eq!(
            batches.iter().map(RecordBatch::num_rows).sum::<usize>(),
            count
        );
        let bytes = fs::read(&path).unwrap();
        let orders = &bytes[bytes.len() - 9 - 3 * columns..bytes.len() - 9];
        assert!(
            orders.chunks(3).all(|order| order == [0x1C, 0, 0]),
            "{orders:?}"
        );
    }
}

#[test]
fn a_table_too_large_for_one_piece_is_passed_on_whole() {
    let mut rows = Rows::default();
    for i in 0..200_000u64 {
        // Bits that don't compress, so that the file is written in several pieces.
        let x = f64::from_bits(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 2);
        let step = Some(i.cast_signed());
        rows.push_row(&Row {
            key: "x",
            rank: 0,
            step,
            timestamp_us: 0,
            attempt: 0,
            seq: i + 1,
            value: ValueRef::Float(x),
        });
    }
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("t.parquet");
    assert_eq!(
        to_file(&path, &rows, Shape::Wide, Format::Parquet).unwrap(),
        200_000
    );
    let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).unwrap()).unwrap();
    let read: usize = builder
        .build()
        .unwrap()
        .map(|b| b.unwrap().num_rows())
        .sum();
    assert_eq!(read, 200_000);
}

#[test]
fn a_failed_export_leaves_the_old_file() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("missing/t.csv");
    let error = to_file(&path, &rows(), Shape::Wide, Format::Csv)
        .unwrap_err()
        .to_string();
    assert!(error.contains("missing/t.csv"), "{error}");
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
}

/// A closed run of 360,000 rows, and its rows in memory; the last third has a name that nothing else has.
fn long_run(base: &Path) -> (RunEntry, Rows) {
    let dir = RunDir::under(base, "e", "r").unwrap();
    fs::create_dir_all(dir.hidden()).unwrap();
    let mut all = Rows::default();
    let mut files = Vec::new();
    for third in 0..3 {
        let mut rows = Rows::default();
        for at in 0..60_000 {
            let step = third * 60_000 + at;
            for key in ["loss", if third == 2 { "late" } else { "rate" }] {
                rows.push_row(&Row {
                    key,
                    rank: 0,
                    step: Some(step),
                    timestamp_us: step,
                    attempt: 0,
                    seq: step.unsigned_abs() + 1,
                    value: ValueRef::Float(1.0 / f64::from(u32::try_from(step + 1).unwrap())),
                });
            }
        }
        all.extend(&rows);
        let file = base.join(format!("{third}.parquet"));
        write_sorted(&file, &rows, all.len() as u64).unwrap();
        files.push(file);
    }
    let files: Vec<&Path> = files.iter().map(|file| &**file).collect();
    splice(&dir.metrics(), &files, all.len() as u64).unwrap();
    (open_run(dir.root()).unwrap(), all)
}

#[test]
fn a_long_run_is_written_in_parts_as_if_it_was_in_memory() {
    let tmp = tempfile::tempdir().unwrap();
    let (run, rows) = long_run(tmp.path());
    let table = Table::open(&run, &Filter::default(), Shape::Wide).unwrap();
    assert!(format!("{table:?}").contains("Parts"));
    for format in [Format::Csv, Format::Json, Format::Jsonl] {
        let mut written = Vec::new();
        let count = table.to_writer(&mut written, Path::new("out"), format);
        assert_eq!(count.unwrap(), 180_000);
        assert!(written == text(&rows, Shape::Wide, format).into_bytes());
    }
    let path = tmp.path().join("t.parquet");
    assert_eq!(table.to_file(&path, Format::Parquet).unwrap(), 180_000);

    let late = Filter {
        keys: Some(["late".to_owned()].into()),
        ..Filter::default()
    };
    let table = Table::open(&run, &late, Shape::Wide).unwrap();
    assert!(format!("{table:?}").contains("Parts"));
    assert!(table.has("late") && !table.has("loss"));
    let mut written = Vec::new();
    table
        .to_writer(&mut written, Path::new("out"), Format::Json)
        .unwrap();
    let read: Vec<serde_json::Value> = serde_json::from_slice(&written).unwrap();
    assert_eq!(read.len(), 60_000);
    assert_eq!(read[0]["step"], 120_000);
}
