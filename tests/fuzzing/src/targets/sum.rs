//! The sum beside a run's rows, from which charts are made.

use std::sync::{Arc, LazyLock};

use expman_model::RunMeta;
use expman_model::record::ValueRef;
use expman_storage::pyramid::{EVERYWHERE, Found, MadeSums, Sum, SumFile, Want, encode, open};
use expman_storage::{Row, Rows, RunDir, RunEntry, RunKind, segment};

use crate::folder;
use crate::input::Input;

/// Rows of the run.
const ROWS: u64 = 60;
/// Magic number and three words.
const FRONT_BYTES: usize = 20;
/// Changes that are made to a good sum at once.
const CHANGES_MAX: usize = 4;

/// A run, its sum as a file, and what a chart of it shows.
struct Good {
    metrics: Vec<u8>,
    sum: Vec<u8>,
    answers: Vec<Found>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    let rows = rows();
    let path = folder.path().join("metrics");
    segment::write_sorted(&path, &rows, ROWS).expect("write");
    let metrics = std::fs::read(path).expect("read what was written");
    let sum = Sum::of(&rows, &rows.sorted(), 0, &|_, _| 0);
    let sum = encode(&sum).expect("bytes");
    std::fs::create_dir_all(dir.hidden()).expect("a folder");
    folder::put(&dir.metrics(), &metrics);
    let (answers, problems) = ask(&dir);
    assert_eq!(problems, 0, "no sum is no problem");
    Good {
        metrics,
        sum,
        answers,
    }
});

/// The first byte chooses what becomes of the rest: a file as it is, one whose checksum is set right,
/// or changes to a good one, which must show or change nothing.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let good = &*GOOD;
    let (sum, changed) = match input.byte() % 3 {
        0 => (input.rest().to_vec(), false),
        1 => (mended(input), false),
        _ => (changed(&good.sum, input), true),
    };
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    std::fs::create_dir_all(dir.hidden()).expect("a folder in a temporary folder");
    folder::put(&dir.metrics(), &good.metrics);
    folder::put(&dir.sum(0, ROWS), &sum);
    let whole = read(&dir);
    let (answers, _) = ask(&dir);
    if changed {
        assert_eq!(whole, sum == good.sum, "a change that no checksum tells");
        assert!(answers == good.answers, "a change that a chart shows");
    }
}

/// Reads a sum in all ways; whether it is whole.
fn read(dir: &RunDir) -> bool {
    let Ok(file) = SumFile::open(&dir.sum(0, ROWS)) else {
        return false;
    };
    let whole = file.check().is_ok();
    for stored in file.series.values().flat_map(|ranks| ranks.values()) {
        for range in [EVERYWHERE, -5..=30, 7..=7, i64::MAX..=i64::MAX] {
            drop(file.buckets(stored, &range, 10));
        }
    }
    if let Ok(sum) = file.load() {
        // What was read can be written and added up.
        encode(&sum).expect("bytes of a sum that was read");
        let mut twice = sum.clone();
        twice.append(&sum);
    }
    whole
}

/// What charts show, as the server asks for it, and how many problems are told.
fn ask(dir: &RunDir) -> (Vec<Found>, usize) {
    let entry = RunEntry {
        owned: false,
        key: "0".repeat(16),
        experiment: "e".to_owned(),
        run: "r".to_owned(),
        dir: dir.clone(),
        kind: RunKind::Mesh,
        meta: RunMeta::default(),
        problem: None,
    };
    let opened = open(&entry, &Arc::new(MadeSums::default())).expect("the rows are whole");
    let view = Arc::clone(&opened.view);
    let keys = view.totals().keys().map(ToString::to_string).collect();
    let found = [(EVERYWHERE, 8), (3..=20, 1024)].map(|(range, max)| {
        let want = Want {
            keys: &keys,
            ranks: None,
            range,
            max,
        };
        let found = view.series(&want).expect("the rows are whole");
        for series in found.values().flat_map(|ranks| ranks.values()) {
            let shift = series.shift_for(max);
            assert!(series.at(shift).len() <= max.max(2) || shift == 63);
        }
        found
    });
    let behind = opened.behind(|_rows| ()).expect("there is no log");
    (found.into(), behind.problems.len() + view.problems.len())
}

/// A head that is plain, its length in front, and chunks behind it, as the file of a writer that lies.
fn mended(mut input: Input<'_>) -> Vec<u8> {
    let length = input.short();
    let plain = input.take(length);
    let head = zstd::bulk::compress(plain, 1).expect("packed bytes");
    let mut out = b"EXPSUM01".to_vec();
    for length in [head.len(), plain.len()] {
        out.extend_from_slice(&u32::try_from(length).expect("a short head").to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &head);
    out.extend_from_slice(&crc.to_le_bytes());
    debug_assert_eq!(out.len(), FRONT_BYTES);
    out.extend(head);
    out.extend_from_slice(input.rest());
    out
}

/// Each change is a place and what its byte is combined with.
pub fn changed(good: &[u8], mut input: Input<'_>) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..CHANGES_MAX {
        let at = input.short() % good.len();
        bytes[at] ^= input.byte();
    }
    bytes
}

/// Three metrics of two ranks: with and without steps, a text, and values that no chart shows.
fn rows() -> Rows {
    let mut rows = Rows::default();
    for seq in 0..ROWS {
        let n = i64::try_from(seq).expect("few rows");
        let (key, value) = match seq % 6 {
            0 | 3 => ("a", ValueRef::Float(0.5)),
            1 | 4 => ("b", ValueRef::Int(n)),
            2 => ("c", ValueRef::Text("text")),
            _ if seq == 11 => ("c", ValueRef::Float(f64::NAN)),
            _ => ("c", ValueRef::Bool(true)),
        };
        rows.push_row(&Row {
            key,
            rank: u32::from(seq % 2 == 1),
            step: (key != "b").then_some(n),
            timestamp_us: 1_767_225_600_000_000 + n,
            attempt: 0,
            seq: seq + 1,
            value,
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_the_corpus_are_read_to_their_chunks() {
        for name in ["few", "levels", "wide"] {
            let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/sum");
            let plain = std::fs::read(format!("{corpus}/{name}-plain")).expect("a corpus");
            let folder = folder::fresh();
            let dir = RunDir::at(folder.path());
            std::fs::create_dir_all(dir.hidden()).expect("a folder");
            folder::put(&dir.sum(0, ROWS), &mended(Input::new(&plain[1..])));
            assert!(read(&dir), "{name}");
        }
    }
}
