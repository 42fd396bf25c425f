//! Frames of both formats read back as what they were made of.

use std::path::Path;

use expman_model::codec::put_bytes;
use expman_model::record::ValueRef;
use expman_model::{Incarnation, WriterId};
use proptest::prelude::*;

use super::*;
use crate::durable;
use crate::rows::{Row, TEXT};

const HEAD: BatchHead = BatchHead {
    writer: 0,
    upto_seq: 9,
    text_ends: [5, 7],
};

fn header(format: u32) -> WalHeader {
    WalHeader {
        format,
        run_id: None,
        lo: 0,
        epoch: 1,
        text_ends: [0, 0],
        writers: vec![WalWriter {
            id: WriterId {
                rank: 3,
                incarnation: Incarnation(1),
            },
            attempt: 2,
            upto_seq: 0,
            host: String::new(),
            pid: 1,
        }],
    }
}

/// A frame as format 1 had it.
fn columns(told: &mut Vec<bool>, rows: &Rows, range: Range<usize>, others: &[u8]) -> Vec<u8> {
    let mut raw = vec![0; 4];
    let mut names = 0u32;
    told.resize(rows.keys.len(), false);
    for &id in &rows.key[range.clone()] {
        if !std::mem::replace(&mut told[id as usize], true) {
            names += 1;
            raw.extend(id.to_le_bytes());
            put_bytes(&mut raw, rows.keys.name(id).as_bytes());
        }
    }
    raw[..4].copy_from_slice(&names.to_le_bytes());
    raw.extend(
        rows.key[range.clone()]
            .iter()
            .flat_map(|id| id.to_le_bytes()),
    );
    let calls: Vec<_> = range.clone().map(|i| *rows.call(i)).collect();
    raw.extend(calls.iter().flat_map(|c| c.step.to_le_bytes()));
    raw.extend(calls.iter().flat_map(|c| c.timestamp.to_le_bytes()));
    raw.extend(calls.iter().flat_map(|c| c.seq.to_le_bytes()));
    raw.extend(calls.iter().map(|c| u8::from(c.has_step)));
    raw.extend(&rows.kind[range.clone()]);
    for i in range.clone() {
        let bits = if rows.kind[i] == TEXT {
            0
        } else {
            rows.bits[i]
        };
        raw.extend(bits.to_le_bytes());
    }
    for i in range.clone() {
        if let ValueRef::Text(text) = rows.value_ref(i) {
            put_bytes(&mut raw, text.as_bytes());
        }
    }
    put_bytes(&mut raw, others);
    let body = zstd::bulk::compress(&raw, 1).unwrap();
    let mut out = Vec::new();
    frame(&mut out, KIND_COLUMNS, |out| {
        out.extend(HEAD.writer.to_le_bytes());
        for n in [HEAD.upto_seq, HEAD.text_ends[0], HEAD.text_ends[1]] {
            out.extend(n.to_le_bytes());
        }
        put_u32(out, range.len());
        put_u32(out, raw.len());
        out.extend(body);
    });
    out
}

/// What a log of these bytes holds: the rows and the other records of each batch, and why it ends.
fn read(path: &Path, log: &[u8]) -> (Vec<(Rows, Vec<u8>)>, Next) {
    durable::replace(path, log).unwrap();
    let mut reader = WalReader::open(path).unwrap();
    let mut found = Vec::new();
    loop {
        match reader.next_frame().unwrap() {
            Ok(Frame::Batch(batch)) => {
                assert_eq!(
                    (batch.writer, batch.upto_seq, batch.text_ends),
                    (HEAD.writer, HEAD.upto_seq, HEAD.text_ends)
                );
                found.push((batch.rows, batch.others));
            }
            Ok(_) => {}
            Err(end) => return (found, end),
        }
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Float(u64),
    Int(i64),
    Bool(bool),
    Text(String),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => any::<u64>().prop_map(Kind::Float),
        1 => any::<i64>().prop_map(Kind::Int),
        1 => any::<bool>().prop_map(Kind::Bool),
        1 => "\\PC{0,30}".prop_map(Kind::Text),
    ]
}

type Point = (u8, Kind);

fn call() -> impl Strategy<Value = (Option<i64>, i64, u64, Vec<Point>)> {
    let step = prop_oneof![
        Just(None),
        any::<i64>().prop_map(Some),
        (0..9i64).prop_map(Some)
    ];
    let points = prop_oneof![
        4 => prop::collection::vec(any::<u64>().prop_map(Kind::Float), 3)
            .prop_map(|values| (10u8..).zip(values).collect()),
        3 => prop::collection::vec((any::<u8>(), kind()), 1..9),
    ];
    (step, any::<i64>(), 0..u64::MAX >> 1, points)
}

fn table(calls: &[(Option<i64>, i64, u64, Vec<Point>)]) -> Rows {
    let mut rows = Rows::default();
    for (step, timestamp_us, seq, points) in calls {
        for (name, value) in points {
            rows.push_row(&Row {
                key: &format!("{}{name}", "n".repeat(usize::from(name % 40))),
                rank: 3,
                step: *step,
                timestamp_us: *timestamp_us,
                attempt: 2,
                seq: *seq,
                value: match value {
                    Kind::Float(bits) => ValueRef::Float(f64::from_bits(*bits)),
                    Kind::Int(n) => ValueRef::Int(*n),
                    Kind::Bool(b) => ValueRef::Bool(*b),
                    Kind::Text(text) => ValueRef::Text(text),
                },
            });
        }
    }
    rows
}

fn same(a: &Rows, b: &Rows) -> bool {
    // Compared by their text, in which a NaN is a NaN.
    let bits = |rows: &Rows| -> Vec<String> {
        rows.iter()
            .map(|row| match row.value {
                ValueRef::Float(x) => format!(
                    "{:?} {}",
                    Row {
                        value: ValueRef::Bool(true),
                        ..row
                    },
                    x.to_bits()
                ),
                _ => format!("{row:?}"),
            })
            .collect()
    };
    bits(a) == bits(b)
}

fn part(rows: &Rows, range: Range<usize>) -> Rows {
    let mut part = Rows::default();
    for i in range {
        part.push_row(&rows.row(i));
    }
    part
}

proptest! {
    #[test]
    fn batches_of_both_formats_read_back(
        calls in prop::collection::vec(call(), 0..20),
        cut in 0..120usize,
        others in prop::collection::vec(any::<u8>(), 0..40),
        repeated in 0..100usize,
    ) {
        let rows = table(&calls);
        let cut = cut.min(rows.len());
        let others = others.repeat(repeated);
        let tmp = tempfile::tempdir().unwrap();
        let mut encoder = FrameEncoder::default();
        let (mut new, mut old, mut told) = (Vec::new(), Vec::new(), Vec::new());
        encoder.header(&mut new, &header(2));
        FrameEncoder::default().header(&mut old, &header(1));
        for range in [0..cut, cut..rows.len()] {
            encoder.batch(&mut new, &HEAD, &rows, range.clone(), &others).unwrap();
            old.extend(columns(&mut told, &rows, range, &others));
        }
        for log in [new, old] {
            let (found, end) = read(&tmp.path().join("log"), &log);
            prop_assert_eq!(end, Next::End);
            prop_assert_eq!(found.len(), 2);
            for ((read, other), range) in found.iter().zip([0..cut, cut..rows.len()]) {
                prop_assert!(same(read, &part(&rows, range)));
                prop_assert_eq!(other, &others);
            }
        }
    }

    #[test]
    fn a_batch_with_a_right_checksum_and_wrong_bytes_is_refused_or_has_as_many_rows_as_it_says(
        calls in prop::collection::vec(call(), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let rows = table(&calls);
        let tmp = tempfile::tempdir().unwrap();
        let mut log = Vec::new();
        let mut encoder = FrameEncoder::default();
        encoder.header(&mut log, &header(2));
        let start = log.len();
        encoder.batch(&mut log, &HEAD, &rows, 0..rows.len(), b"others").unwrap();
        let mut payload = log.split_off(start)[HEADER_BYTES + 1..].to_vec();
        for (at, byte) in changes {
            // Behind what says whose it is.
            let at = 28 + at.index(payload.len() - 28);
            payload[at] ^= byte;
        }
        if let Some(cut) = cut {
            payload.truncate(28 + cut.index(payload.len() - 28));
        }
        frame(&mut log, KIND_CALLS, |out| out.extend_from_slice(&payload));
        let (found, end) = read(&tmp.path().join("log"), &log);
        match found.as_slice() {
            [] => prop_assert!(matches!(end, Next::Bad(_))),
            [(rows, _)] => {
                let said = u32::from_le_bytes(payload[28..32].try_into().unwrap());
                prop_assert_eq!(rows.len(), said as usize);
                prop_assert_eq!(rows.iter().count(), rows.len());
            }
            _ => prop_assert!(false, "one batch is read as more"),
        }
    }
}

#[test]
fn every_cut_of_the_calls_is_refused() {
    let rows = table(&[
        (
            Some(1),
            7,
            1,
            vec![(1, Kind::Float(5)), (2, Kind::Text("x".to_owned()))],
        ),
        (None, 8, 2, vec![(1, Kind::Bool(true)), (3, Kind::Int(-4))]),
    ]);
    let tmp = tempfile::tempdir().unwrap();
    let mut log = Vec::new();
    let mut encoder = FrameEncoder::default();
    encoder.header(&mut log, &header(2));
    let start = log.len();
    encoder
        .batch(&mut log, &HEAD, &rows, 0..rows.len(), b"")
        .unwrap();
    let payload = log.split_off(start)[HEADER_BYTES + 1..].to_vec();
    for cut in 0..payload.len() {
        let mut log = log.clone();
        frame(&mut log, KIND_CALLS, |out| {
            out.extend_from_slice(&payload[..cut]);
        });
        let (found, end) = read(&tmp.path().join("log"), &log);
        assert!(found.is_empty() && matches!(end, Next::Bad(_)), "{cut}");
    }
    let mut more = payload;
    more.push(0);
    frame(&mut log, KIND_CALLS, |out| out.extend_from_slice(&more));
    let (found, end) = read(&tmp.path().join("log"), &log);
    assert!(
        found.is_empty() && matches!(end, Next::Bad(_)),
        "a byte more"
    );
}

#[test]
fn calls_that_repeat_their_names_take_little_more_than_their_values() {
    let size = |points: &dyn Fn(i64) -> Vec<Point>| {
        let calls: Vec<_> = (0..100)
            .map(|i: i64| (Some(i), 1_000 + 37 * i, i.cast_unsigned(), points(i)))
            .collect();
        let rows = table(&calls);
        let mut log = Vec::new();
        FrameEncoder::default()
            .batch(&mut log, &HEAD, &rows, 0..rows.len(), b"")
            .unwrap();
        log.len() / 100
    };
    let five = |i: i64| (0..5).map(move |name| (name, Kind::Float(i.cast_unsigned() << 13)));
    assert!(size(&|i| five(i).collect()) < 5 * 8 + 6);
    let alike = |value: &dyn Fn(i64) -> Kind| size(&|i| vec![(1, value(i)); 4]);
    assert!(alike(&|_| Kind::Float(0.1_f64.to_bits())) < 8);
    assert!(alike(&|i| Kind::Int(i / 50)) < 8);
    assert!(alike(&|i| Kind::Bool(i % 2 == 0)) < 12);
    let single =
        |i: i64| Kind::Float(f64::from(f32::from(u16::try_from(i).unwrap()).sqrt()).to_bits());
    assert!(alike(&single) < 4 * 5 + 8);
}
