//! Writes first inputs for every target, taken from runs made here: `cargo run -p expman-fuzzing --example seeds -- DIR`.
//!
//! What libFuzzer makes of them, minimised, is what `corpus/` holds.
#![expect(clippy::unwrap_used, reason = "a tool for developers")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Float64Array, Int32Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::Int32Type;
use bytes::{Bytes, BytesMut};
use expman_actors::link::frame::{
    Ack, Data, FlushDone, FlushRequest, Frame, Hello, Marker, PROTOCOL, Welcome,
};
use expman_model::forwarding::Forwarding;
use expman_model::record::Stream;
use expman_model::{
    FlushReport, FlushScope, Health, Incarnation, Level, Param, Point, RankOutcome,
    RankOutcomeState, Record, RecordBody, RunId, RunMeta, RunStatus, Value, Version, WriterId,
};
use expman_storage::pyramid::{Bucket, Moment, Series, Sum, Totals, encode};
use expman_storage::spool::{Spool, SpoolHeader, files};
use expman_storage::{OwnerLock, RunDir, RunWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

fn main() {
    let to = PathBuf::from(std::env::args().nth(1).expect("where to"));
    let run = tempfile::tempdir().unwrap();
    let dir = RunDir::at(run.path().join("run"));
    frames(&to);
    runs(&to, &dir);
    requests(&to);
    yaml(&to);
    left_behind(&to);
    sums(&to);
    packed(&to);
    tables(&to);
}

#[expect(clippy::disallowed_methods, reason = "half a file would be no loss")]
fn put(to: &Path, target: &str, name: &str, front: &[u8], bytes: &[u8]) {
    let folder = to.join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), [front, bytes].concat()).unwrap();
}

fn record(seq: u64, body: RecordBody) -> Vec<u8> {
    let mut out = Vec::new();
    let timestamp_us = 1_767_225_600_000_000 + i64::try_from(seq).unwrap();
    Record {
        seq,
        timestamp_us,
        body,
    }
    .encode(&mut out);
    out
}

fn bodies() -> Vec<RecordBody> {
    let words = ["loss", "acc", "lr"];
    let points = |n: usize| {
        let values = [
            Value::Float(0.5),
            Value::Int(-3),
            Value::Bool(true),
            Value::Text("some text".into()),
        ];
        let values = values.into_iter().cycle().take(n);
        words
            .iter()
            .cycle()
            .zip(values)
            .map(|(k, v)| Point::new(*k, v))
            .collect()
    };
    vec![
        RecordBody::Metrics {
            step: Some(1),
            points: points(1),
        },
        RecordBody::Metrics {
            step: None,
            points: points(4),
        },
        RecordBody::Message {
            level: Level::INFO,
            logger: "a.b".into(),
            file: "train.py".into(),
            line: 12,
            text: "one\ntwo".into(),
        },
        RecordBody::Console {
            stream: Stream::Err,
            ends_line: false,
            bytes: b"\x1b[1mx\xff".to_vec(),
        },
        RecordBody::Scalar(Point::new("best", Value::Float(f64::NAN))),
        RecordBody::Params(Param::Map(vec![
            ("lr".into(), Param::Float(0.1)),
            ("list".into(), Param::List(vec![Param::Null, Param::Int(1)])),
        ])),
        RecordBody::Artifact {
            name: "a/b.txt".into(),
            size: 4,
            hash: "00".into(),
        },
        RecordBody::Outcome {
            status: RunStatus::Failed,
            message: "why".into(),
            traceback: "where".into(),
        },
        RecordBody::Gap {
            from_seq: 4,
            to_seq: 9,
            count: 6,
            reason: "queue full".into(),
        },
    ]
}

fn frames(to: &Path) {
    let version = Version {
        epoch: 2,
        number: 9,
    };
    let records: Vec<u8> = (1..)
        .zip(bodies())
        .flat_map(|(n, b)| record(n, b))
        .collect();
    let all = [
        Frame::Hello(Hello {
            protocol: PROTOCOL,
            launch_key: "key".into(),
            resume: false,
            rank: Some(1),
            world_size: Some(2),
            incarnation: Incarnation(7),
            host: "host".into(),
            pid: 12,
            forwarding: Forwarding::default(),
        }),
        Frame::Welcome(Welcome {
            run_id: RunId::generate(),
            rank: 1,
            attempt: 0,
            world_size: None,
            epoch: 1,
            durable_seq: 4,
            credit: 1 << 20,
            forwarding: Forwarding::default(),
        }),
        Frame::Refused("no".into()),
        Frame::Data(Data {
            first_seq: 1,
            last_seq: 9,
            records: Bytes::from(records),
        }),
        Frame::Ack(Ack {
            durable_seq: 7,
            written_seq: 9,
        }),
        Frame::Barrier(version),
        Frame::Marker(Marker {
            version,
            upto_seq: 4,
        }),
        Frame::Flush(FlushRequest {
            id: 1,
            scope: FlushScope::Run,
            publish: true,
            tag: Some("t".into()),
            timeout_ms: 1000,
        }),
        Frame::Bye(RunStatus::Finished),
        Frame::Farewell(true),
        Frame::Ping,
        Frame::Health(Health {
            dropped: [("queue full".to_owned(), 3)].into(),
            ..Health::default()
        }),
        Frame::Trouble("no space left".into()),
        Frame::FlushDone(FlushDone {
            id: 1,
            report: FlushReport {
                version,
                complete: true,
                ranks: [(
                    0,
                    RankOutcome {
                        state: RankOutcomeState::Durable,
                        seq: 4,
                        last_step: None,
                        last_seen_us: 5,
                        last_lines: Vec::new(),
                    },
                )]
                .into(),
                rows: 9,
                elapsed_secs: 0.25,
                forwarding: true,
            },
        }),
    ];
    let mut stream = BytesMut::new();
    for (n, frame) in all.iter().enumerate() {
        let mut one = BytesMut::new();
        frame.encode(&mut one).unwrap();
        put(to, "frames", &format!("body-{n}"), &[0], &one[8..]);
        stream.extend_from_slice(&one);
    }
    put(to, "frames", "stream", &[0b1101], &stream);
    put(to, "frames", "stream-mended", &[0b111], &stream);
}

fn runs(to: &Path, dir: &RunDir) {
    let lock = OwnerLock::take(dir).unwrap();
    let (mut writer, _) = RunWriter::open(&lock, dir, RunMeta::default()).unwrap();
    let mut batches = Vec::new();
    for rank in 0..2 {
        let id = WriterId {
            rank,
            incarnation: Incarnation(u64::from(rank) + 1),
        };
        let index = writer.register(id, "host", 100).index;
        for round in 0..2u64 {
            let n = bodies().len() as u64;
            let batch: Vec<u8> = (1 + round * n..)
                .zip(bodies())
                .flat_map(|(seq, body)| record(seq, body))
                .collect();
            writer.append(index, &batch).unwrap();
            batches.push(batch);
        }
    }
    writer.save().unwrap();
    let cut = u16::try_from(batches[0].len()).unwrap().to_le_bytes();
    put(to, "records", "two", &cut, &batches[..2].concat());
    for (n, body) in bodies().into_iter().enumerate() {
        put(
            to,
            "records",
            &format!("one-{n}"),
            &[0xff, 0xff],
            &record(1, body),
        );
    }
    let wal = std::fs::read(&dir.wals().unwrap()[0].path).unwrap();
    let half = wal.len() / 2;
    for choice in [0, 1] {
        put(to, "log", &format!("whole-{choice}"), &[choice], &wal);
        put(
            to,
            "log",
            &format!("torn-{choice}"),
            &[choice],
            &wal[..half],
        );
        let all = u16::try_from(wal.len()).unwrap().to_le_bytes();
        let front = [choice, 0, all[0], all[1], 9];
        put(to, "recover", &format!("one-{choice}"), &front, &wal);
        put(
            to,
            "recover",
            &format!("two-{choice}"),
            &front,
            &[&wal[..], &wal].concat(),
        );
        put(
            to,
            "recover",
            &format!("torn-{choice}"),
            &front,
            &wal[..half],
        );
    }
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    put(to, "text", "run", &[0, 30, 0], &read(dir.run_log()));
    put(to, "text", "console", &[1, 30, 0], &read(dir.console_log()));
    put(to, "text", "events", &[0, 30, 0], &read(dir.events()));
    put(to, "yaml", "run", &[1], &read(dir.meta()));
    put(to, "yaml", "config", &[0], &read(dir.config()));
    put(to, "yaml", "legacy", &[3], &read(dir.meta()));
    writer.publish_now().unwrap();
    let rows = read(dir.metrics());
    for choice in 0..3 {
        put(to, "parquet", &format!("rows-{choice}"), &[choice], &rows);
    }
    let small = tempfile::tempdir().unwrap();
    let small = small.path().join("m");
    expman_storage::segment::write_sorted(&small, &expman_storage::Rows::default(), 4).unwrap();
    put(to, "parquet", "empty", &[1], &read(small));
    let arrow = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../storage/tests/data");
    for entry in walk(&arrow) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        let choice = match entry.extension().and_then(|e| e.to_str()) {
            Some("parquet") => 2,
            Some("arrow") => 3,
            _ => continue,
        };
        put(to, "parquet", &name, &[choice], &read(entry));
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// A ring and a spool as a killed process leaves them.
fn left_behind(to: &Path) {
    let records: Vec<u8> = (1..4)
        .zip(bodies())
        .flat_map(|(seq, body)| record(seq, body))
        .collect();
    // The records go around the end, and two more were refused.
    let head = 4096 - 40;
    let mut memory = vec![0; 4096];
    memory[head..].copy_from_slice(&records[..40]);
    memory[..records.len() - 40].copy_from_slice(&records[40..]);
    let length = u32::try_from(records.len()).unwrap();
    let front = [
        vec![0],
        4096u32.to_le_bytes().to_vec(),
        4056u32.to_le_bytes().to_vec(),
        length.to_le_bytes().to_vec(),
        5u64.to_le_bytes().to_vec(),
        4u64.to_le_bytes().to_vec(),
    ]
    .concat();
    put(to, "ring", "around", &front, &memory);
    let front = [
        &[0, 0, 2, 0, 0, 0, 0, 0, 0][..],
        &length.to_le_bytes(),
        &[3, 0, 0, 0, 0, 0, 0, 0],
        &[0; 8],
    ]
    .concat();
    put(to, "ring", "front", &front, &records);
    let folder = tempfile::tempdir().unwrap();
    let dir = RunDir::at(folder.path());
    std::fs::create_dir_all(dir.hidden()).unwrap();
    let header = SpoolHeader {
        format: 1,
        id: WriterId {
            rank: 1,
            incarnation: Incarnation(2),
        },
        host: "host".into(),
        pid: 3,
        launch_key: "key".into(),
    };
    let mut spool = Spool::new(dir.clone(), header, 1 << 20);
    for (seq, body) in (1..).zip(bodies()) {
        spool.append(seq, seq, &record(seq, body)).unwrap();
    }
    let file = std::fs::read(&files(&dir).unwrap()[0].path).unwrap();
    put(to, "spool", "whole", &[0], &file);
    put(to, "spool", "mended", &[1], &file);
    put(to, "spool", "torn", &[0], &file[..file.len() - 9]);
}

/// Sums as files: heads packed and plain, with chunks behind them, and changes to a good one.
fn sums(to: &Path) {
    let bucket = |index: i64| Bucket {
        index,
        n: 3,
        min: -1.0,
        max: 1.0,
        sum: 0.5,
        last: 0.25,
        at: Moment::default(),
    };
    let series = |n: i64, shift| {
        let totals = Totals {
            points: 3 * n.cast_unsigned(),
            last: Some((Value::Int(1), Moment::default())),
            ..Totals::default()
        };
        Series::from_parts(totals, 0, shift, (0..n).map(bucket).collect())
    };
    for (name, n, shift) in [("few", 20, 0), ("levels", 2100, 3), ("wide", 2, 63)] {
        // As many rows as the target's run has.
        let mut sum = Sum::new(0, 60);
        sum.marks.insert((0, 0), 9);
        for (key, rank) in [("a", 0), ("a", 1), ("c", 0)] {
            let ranks = sum.series.entry(key.into()).or_default();
            ranks.insert(rank, series(n, shift));
        }
        let file = encode(&sum).unwrap();
        put(to, "sum", &format!("{name}-packed"), &[0], &file);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let (head, body) = file[20..].split_at(word(8));
        let head = zstd::bulk::decompress(head, word(12)).unwrap();
        let length = u16::try_from(head.len()).unwrap().to_le_bytes();
        let plain = [&length[..], &head, body].concat();
        put(to, "sum", &format!("{name}-plain"), &[1], &plain);
    }
    put(to, "sum", "unchanged", &[2], &[0; 12]);
    put(
        to,
        "sum",
        "changed",
        &[2],
        &[30, 0, 1, 200, 0, 8, 0, 1, 128],
    );
}

/// Packed pieces of one and of two frames, and changes to a good one.
fn packed(to: &Path) {
    let line = |n: usize| format!("[2026-01-01T00:00:00.000000Z] [rank 0 out {n}] {n:4000}\n");
    let text: String = (0..260).map(line).collect();
    for (name, text) in [("one", &text[..5000]), ("two", &text[..])] {
        let mut frames = Vec::new();
        let mut table = Vec::new();
        let word = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        for frame in text.as_bytes().chunks(1 << 20) {
            let packed = zstd::bulk::compress(frame, 3).unwrap();
            table.extend([word(packed.len()), word(frame.len())].concat());
            frames.extend(packed);
        }
        let count = table.len() / 8;
        let end = [
            &0x184D_2A5E_u32.to_le_bytes()[..],
            &word(table.len() + 9),
            &table,
            &word(count),
            &[0],
            &0x8F92_EAB1_u32.to_le_bytes(),
        ];
        let length = word(text.len());
        let piece = [frames, end.concat()].concat();
        let front = [0, length[0], length[1], length[2]];
        put(to, "packed", name, &front, &piece);
    }
    put(to, "packed", "unchanged", &[1], &[0; 12]);
    put(to, "packed", "changed", &[1], &[30, 0, 1, 90, 0, 8]);
}

/// Tables: good ones, and those that would cost more than they are worth.
fn tables(to: &Path) {
    let csv = "a,b,\"c,d\"\n1,\"x,\ny\",3\n2,,\n4\n5,6,7,8\n";
    put(to, "preview", "csv-whole", &[1], csv.as_bytes());
    put(to, "preview", "csv-cut", &[2], csv.as_bytes());
    put(to, "preview", "csv-wide", &[1], &[b','; 4000]);
    let column = |name: &str, array: ArrayRef| (name.to_owned(), array);
    let items = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some((0..500).map(Some).collect()),
    ]);
    parquet(
        to,
        "kinds",
        [
            column(
                "float",
                Arc::new(Float64Array::from(vec![0.5, f64::NAN, 2.0])),
            ),
            column(
                "text",
                Arc::new(StringArray::from(vec![Some("x"), None, Some("")])),
            ),
            column(
                "bytes",
                Arc::new(BinaryArray::from(vec![&b"\0\xff"[..], b"", b"z"])),
            ),
            column("items", Arc::new(items)),
        ],
    );
    // One text in a dictionary, named by every row.
    let long = "x".repeat(1 << 20);
    let texts: ArrayRef = Arc::new(StringArray::from(vec![long.as_str(); 120]));
    parquet(to, "one-long-text", [column("text", texts)]);
    let named: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    parquet(to, "long-name", [column(&"n".repeat(3000), named)]);
    let deep = deep(4_000);
    put(to, "preview", "deep", &[0], &deep);
    for choice in [0, 2] {
        put(to, "parquet", &format!("deep-{choice}"), &[choice], &deep);
    }
}

fn parquet<const N: usize>(to: &Path, name: &str, columns: [(String, ArrayRef); N]) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_page_size_limit(1 << 30);
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    put(to, "preview", name, &[0], &bytes);
}

/// A footer whose columns are nested so deep that going down there would end the stack.
fn deep(levels: usize) -> Vec<u8> {
    // Compact Thrift: version 1; a list of so many elements.
    let mut footer = vec![0x15, 2, 0x19, 0xfc];
    let mut n = levels + 1;
    while n >= 0x80 {
        footer.push(0x80 | u8::try_from(n & 0x7f).unwrap());
        n >>= 7;
    }
    footer.push(u8::try_from(n).unwrap());
    for _ in 0..levels {
        // Required, named "a", with one child.
        footer.extend_from_slice(&[0x35, 0, 0x18, 1, b'a', 0x15, 2, 0]);
    }
    // A required Int32; then no rows and no row groups.
    footer.extend_from_slice(&[0x15, 2, 0x25, 0, 0x18, 1, b'a', 0]);
    footer.extend_from_slice(&[0x16, 0, 0x19, 0x0c, 0]);
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", &footer[..], &length, b"PAR1"].concat()
}

fn requests(to: &Path) {
    let run = [
        "",
        "/config",
        "/stats",
        "/events?after=1-3",
        "/keys",
        "/metrics?keys=loss,a%2Cb&rank=1&since_step=3&max_points=10",
        "/metrics",
        "/logs?file=console&rank=0&stream=err&tail=5",
        "/logs?level=INFO&after=18446744073709551615",
        "/artifacts",
        "/artifacts/0/content",
        "/artifacts/..%2f..%2foutside/content",
        "/stream?topics=metrics,logs,state&cursor=1-0-0-0",
    ];
    let mut n = 0;
    let mut ask = |line: &str, headers: &str| {
        n += 1;
        let text = format!("{line}\nhost: 127.0.0.1:8000\n{headers}");
        put(to, "http", &format!("ask-{n:02}"), &[], text.as_bytes());
    };
    for number in 0..4 {
        for path in run {
            if number == 0 || !path.contains('?') || number == 2 {
                ask(&format!("GET /api/runs/{{{number}}}{path}"), "");
            }
        }
    }
    ask("GET /api/runs/{1}/stream", "last-event-id: 1-5-0-0\n");
    ask("HEAD /", "if-none-match: \"x\"\nrange: bytes=0-5\n");
    ask(
        "POST /api/runs",
        "x-expman: 1\norigin: http://127.0.0.1:8000\n",
    );
    ask(
        "GET /api/experiments?token=x",
        "cookie: expman-8000=x\nauthorization: Bearer x\n",
    );
    ask("GET /api/health", "accept-encoding: gzip\n");
    ask("GET /assets/../../outside/secret.txt", "");
    ask("GET //outside/secret.txt", "");
    ask("GET /api/runs?experiment=exp&status=RUNNING", "");
}

fn yaml(to: &Path) {
    let texts: [(&str, &str); 8] = [
        (
            "words",
            "a: [on, 12:30:45, 1e-300, ~, 0x10, .inf, -.nan, 'it''s']\nb: !tag x\n",
        ),
        (
            "block",
            "a: |\n  one\n   two\nb: >-\n  three\n  four\n? complex\n: 1\n",
        ),
        ("alias", "a: &x [1, 2]\nb: *x\n<<: *x\n"),
        ("deep", "a: {b: {c: [[[{d: 1}]]]}}\n"),
        ("many", "---\na: 1\n...\n---\nb: 2\n"),
        ("quotes", "\"\\u263a\\n\\x00\": \"\\U0001f600\"\n"),
        (
            "experiment",
            "display_name: x\ndescription: y\ntags: [a, b]\n",
        ),
        (
            "numbers",
            "[0o17, 1_000, 9223372036854775808, -0, 1., .5, 18446744073709551615]\n",
        ),
    ];
    for (name, text) in texts {
        put(
            to,
            "yaml",
            name,
            &[if name == "experiment" { 2 } else { 0 }],
            text.as_bytes(),
        );
    }
}
