//! The writer, its recovery and its readers, on real files.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a test ends at the first surprise"
)]

use std::path::Path;

use expman_model::limits::UNSEALED_ROWS_MAX;
use expman_model::{
    Incarnation, Level, Param, Point, RankState, Record, RecordBody, RunMeta, RunStatus, Value,
    WriterId,
};
use expman_storage::events::EventLog;
use expman_storage::{Filter, OwnerLock, RunDir, RunWriter, Tail, durable, snapshot};

fn dir(base: &Path) -> RunDir {
    RunDir::under(base, "exp", "run").unwrap()
}

fn open(dir: &RunDir) -> (OwnerLock, RunWriter) {
    let lock = OwnerLock::take(dir).unwrap();
    let (writer, _) = RunWriter::open(&lock, dir, RunMeta::default()).unwrap();
    (lock, writer)
}

fn rank(n: u32) -> WriterId {
    WriterId {
        rank: n,
        incarnation: Incarnation(u64::from(n) + 1),
    }
}

fn body(seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    for seq in seqs {
        let points = vec![
            Point::new("loss", Value::Float(seq as f64)),
            Point::new("n", Value::Int(seq.cast_signed())),
        ];
        Record {
            seq,
            timestamp_us: 1,
            body: RecordBody::Metrics {
                step: Some(seq.cast_signed()),
                points,
            },
        }
        .encode(&mut out);
    }
    out
}

fn losses(dir: &RunDir) -> Vec<f64> {
    let filter = Filter {
        keys: Some(["loss".to_owned()].into()),
        ..Filter::default()
    };
    let mut found: Vec<_> = snapshot(dir, &filter)
        .unwrap()
        .rows
        .iter()
        .map(|r| r.seq as f64)
        .collect();
    found.sort_by(f64::total_cmp);
    found
}

fn upto(n: u64) -> Vec<f64> {
    (1..=n).map(|s| s as f64).collect()
}

#[test]
fn synced_rows_survive_a_crash_and_repeats_are_dropped() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    {
        let (_lock, mut w) = open(&dir);
        let at = w.register(rank(0), "h", 1).index;
        assert_eq!(w.append(at, &body(1..=10)).unwrap(), 10);
        assert_eq!(w.append(at, &body(5..=12)).unwrap(), 12);
        w.sync().unwrap();
        w.append(at, &body(13..=20)).unwrap();
    }
    let (_lock, mut w) = open(&dir);
    let again = w.register(rank(0), "h", 1);
    assert_eq!(again.durable_seq, 12);
    assert_eq!(losses(&dir), upto(12));
    w.append(again.index, &body(1..=15)).unwrap();
    w.sync().unwrap();
    assert_eq!(losses(&dir), upto(15));
    assert_eq!(w.meta().owner_epoch, 2);
    w.leave(again.index, RankState::Left, RunStatus::Finished, "");
    w.finish().unwrap();
    assert_eq!(losses(&dir), upto(15));
    assert!(dir.wals().unwrap().is_empty() && dir.segments().unwrap().is_empty());
    let meta = expman_storage::catalog::open_run(dir.root()).unwrap().meta;
    assert_eq!(
        (meta.status, meta.rows, meta.metrics["loss"].count),
        (RunStatus::Finished, 30, 15)
    );
}

#[test]
fn a_step_that_is_logged_again_is_another_row() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    for seq in 1..=6 {
        let body = RecordBody::Metrics {
            step: Some([5, 5, 4, -1, 5, i64::MIN][usize::try_from(seq).unwrap() - 1]),
            points: vec![Point::new("loss", Value::Float(0.5))],
        };
        let mut bytes = Vec::new();
        Record {
            seq,
            timestamp_us: 1,
            body,
        }
        .encode(&mut bytes);
        w.append(at, &bytes).unwrap();
        w.sync().unwrap();
    }
    assert_eq!(losses(&dir), upto(6));
}

#[test]
fn a_log_that_a_power_cut_ended_with_zeros_is_a_torn_one_and_no_damage() {
    let tmp = tempfile::tempdir().unwrap();
    let first = dir(tmp.path());
    {
        let (_lock, mut w) = open(&first);
        let at = w.register(rank(0), "h", 1).index;
        for n in 0..3 {
            w.append(at, &body(n * 3 + 1..=n * 3 + 3)).unwrap();
            w.sync().unwrap();
        }
    }
    let whole = std::fs::read(&first.wals().unwrap()[0].path).unwrap();
    for kept in [whole.len() - 40, whole.len() - 5, whole.len()] {
        let copy = RunDir::under(tmp.path(), "copy", &format!("r{kept}")).unwrap();
        copy_tree(first.root(), copy.root());
        let mut bytes = whole[..kept].to_vec();
        bytes.resize(whole.len() + 5000, 0);
        std::fs::write(copy.wals().unwrap()[0].path.clone(), &bytes).unwrap();
        let lock = OwnerLock::take(&copy).unwrap();
        let (_w, recovery) = RunWriter::open(&lock, &copy, RunMeta::default()).unwrap();
        assert_eq!(recovery.problems, Vec::<String>::new(), "{kept} bytes kept");
        let batches = if kept == whole.len() { 3 } else { 2 };
        assert_eq!(losses(&copy).len(), batches * 3);
    }
}

#[test]
fn a_log_cut_anywhere_recovers_a_prefix() {
    let tmp = tempfile::tempdir().unwrap();
    let first = dir(tmp.path());
    let mut ends = Vec::new();
    {
        let (_lock, mut w) = open(&first);
        let at = w.register(rank(0), "h", 1).index;
        w.sync().unwrap();
        for n in 0..5 {
            ends.push(
                std::fs::metadata(&first.wals().unwrap()[0].path)
                    .unwrap()
                    .len(),
            );
            let mut batch = body(n * 3 + 1..=n * 3 + 3);
            if n == 2 {
                let text = RecordBody::Message {
                    level: Level::INFO,
                    logger: String::new(),
                    file: String::new(),
                    line: 0,
                    text: "hello".to_owned(),
                };
                Record {
                    seq: 10,
                    timestamp_us: 1,
                    body: text,
                }
                .encode(&mut batch);
            }
            w.append(at, &batch).unwrap();
            w.sync().unwrap();
        }
    }
    let wal = first.wals().unwrap()[0].path.clone();
    let whole = std::fs::read(&wal).unwrap();
    for cut in (usize::try_from(ends[0]).unwrap()..=whole.len()).step_by(7) {
        let copy = RunDir::under(tmp.path(), "copy", &format!("r{cut}")).unwrap();
        copy_tree(first.root(), copy.root());
        std::fs::write(copy.wals().unwrap()[0].path.clone(), &whole[..cut]).unwrap();
        let (_lock, w) = open(&copy);
        let want = ends.iter().filter(|&&e| e <= cut as u64).count() as u64 - 1
            + u64::from(cut == whole.len());
        let rows = losses(&copy).len() as u64;
        assert!(
            rows == want * 3 || rows == want * 3 - 1,
            "cut at {cut}: {rows} rows, {want} batches"
        );
        let log = std::fs::read_to_string(copy.run_log()).unwrap();
        assert_eq!(log.contains("hello"), want >= 3, "cut at {cut}");
        drop(w);
    }
}

#[test]
fn a_tail_sees_every_row_once_while_files_move() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    let mut tail = Tail::new(dir.clone());
    let mut seen = Vec::new();
    for n in 0..20 {
        w.append(at, &body(n * 10 + 1..=n * 10 + 10)).unwrap();
        w.write().unwrap();
        if n % 3 == 0 {
            w.publish_now().unwrap();
        }
        if n % 4 != 2 {
            seen.extend(
                tail.poll()
                    .unwrap()
                    .iter()
                    .filter(|r| r.key == "n")
                    .map(|r| r.seq),
            );
        }
    }
    w.finish().unwrap();
    seen.extend(
        tail.poll()
            .unwrap()
            .iter()
            .filter(|r| r.key == "n")
            .map(|r| r.seq),
    );
    assert!(tail.poll().unwrap().is_empty());
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<u64>>());
}

#[test]
fn a_snapshot_has_every_row_it_counts_while_files_are_published() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    let done = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let seen = snapshot(&dir, &Filter::default()).unwrap();
                assert_eq!(seen.rows.len() as u64, seen.total);
                looks += 1;
            }
            looks
        });
        for n in 0..60 {
            w.append(at, &body(n * 2 + 1..=n * 2 + 2)).unwrap();
            w.publish_now().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(looks > 10);
}

#[test]
fn a_batch_that_is_no_records_changes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    let mut bad = body(1..=5);
    bad.extend_from_slice(b"\x20\0\0\0garbage that is long enough to be one record");
    assert!(
        w.append(at, &bad)
            .unwrap_err()
            .to_string()
            .contains("rank 0")
    );
    w.append(at, &body(1..=5)).unwrap();
    w.sync().unwrap();
    assert_eq!(losses(&dir), upto(5));
}

#[test]
fn parameters_and_scalars_survive_a_crash() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    {
        let (_lock, mut w) = open(&dir);
        let at = w.register(rank(3), "h", 1).index;
        let mut batch = Vec::new();
        let params = Param::Map(vec![("lr".to_owned(), Param::Float(0.1))]);
        Record {
            seq: 1,
            timestamp_us: 1,
            body: RecordBody::Params(params),
        }
        .encode(&mut batch);
        Record {
            seq: 2,
            timestamp_us: 1,
            body: RecordBody::Scalar(Point::new("best", Value::Float(f64::NAN))),
        }
        .encode(&mut batch);
        w.append(at, &batch).unwrap();
        w.sync().unwrap();
    }
    let (_lock, mut w) = open(&dir);
    w.save().unwrap();
    let config: Param = expman_storage::yaml::read(&dir.config()).unwrap().unwrap();
    assert_eq!(
        config,
        Param::Map(vec![("lr".to_owned(), Param::Float(0.1))])
    );
    assert!(matches!(w.meta().scalars["best"], Value::Float(x) if x.is_nan()));
}

#[test]
fn numbers_that_never_come_are_counted_unless_a_gap_record_tells_of_them() {
    let gap = |seq, from_seq, to_seq, count, reason: &str| {
        let body = RecordBody::Gap {
            from_seq,
            to_seq,
            count,
            reason: reason.to_owned(),
        };
        let mut out = Vec::new();
        Record {
            seq,
            timestamp_us: 1,
            body,
        }
        .encode(&mut out);
        out
    };
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    w.append(at, &body(1..=3)).unwrap();
    // Refused for two reasons, 4 to 9 are told by two records of the same range.
    let told = [
        gap(10, 4, 9, 2, "queue full: console"),
        gap(11, 4, 9, 4, "queue full"),
        body(12..=13),
    ];
    w.append(at, &told.concat()).unwrap();
    // Nobody tells of 14 to 16, nor of 19 and 20 that a too short gap leaves over.
    w.append(at, &body(17..=18)).unwrap();
    w.append(
        at,
        &[gap(25, 21, 24, 4, "queue full"), body(26..=26)].concat(),
    )
    .unwrap();
    w.append_gap(at, 30, "lost with its process").unwrap();
    w.sync().unwrap();
    drop((w, lock));
    let (_lock, mut w) = open(&dir);
    w.save().unwrap();
    let meta = expman_storage::catalog::open_run(dir.root()).unwrap().meta;
    let dropped: Vec<_> = meta.ranks[&0][0]
        .dropped
        .iter()
        .map(|(reason, n)| (reason.as_str(), *n))
        .collect();
    assert_eq!(
        dropped,
        [
            ("lost on the way", 5),
            ("lost with its process", 4),
            ("queue full", 8),
            ("queue full: console", 2)
        ]
    );
    assert_eq!(meta.ranks[&0][0].durable_seq, 30);
    let (told, malformed) = expman_storage::events::read(&dir.events()).unwrap();
    assert!(malformed.is_empty());
    assert_eq!(told.iter().filter(|e| e["type"] == "gap").count(), 6);
}

#[test]
fn a_replaced_writer_writes_nothing_more() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut old) = open(&dir);
    let at = old.register(rank(0), "h", 1).index;
    old.append(at, &body(1..=5)).unwrap();
    old.sync().unwrap();
    old.append(at, &body(6..=9)).unwrap();
    std::fs::remove_file(dir.lock()).unwrap();
    let (_next, mut new) = open(&dir);
    let state = || {
        let mut files: Vec<_> = tree(dir.root());
        files.sort();
        files
    };
    let before = state();
    let fenced = |done: Result<(), expman_storage::StorageError>| {
        assert!(done.unwrap_err().to_string().starts_with("fenced"));
    };
    fenced(old.write());
    fenced(old.sync());
    fenced(old.save());
    fenced(old.publish_now());
    fenced(old.finish());
    drop(old);
    assert_eq!(state(), before);
    assert_eq!(new.register(rank(0), "h", 1).durable_seq, 5);
}

fn tree(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found
}

#[test]
fn a_second_owner_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let _first = open(&dir);
    assert!(
        OwnerLock::take(&dir)
            .unwrap_err()
            .to_string()
            .contains("locked by another owner")
    );
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn rows_that_wait_for_their_segment_are_bounded_by_what_still_counts_as_durable() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = dir(tmp.path());
    let (_lock, mut w) = open(&dir);
    let at = w.register(rank(0), "h", 1).index;
    let points: Vec<_> = (0..10_000)
        .map(|n| Point::new(format!("m{n}"), Value::Float(0.5)))
        .collect();
    let mut seq = 0;
    while w.total() < UNSEALED_ROWS_MAX {
        assert!(!w.is_behind());
        seq += 1;
        let mut record = Vec::new();
        let body = RecordBody::Metrics {
            step: None,
            points: points.clone(),
        };
        Record {
            seq,
            timestamp_us: 1,
            body,
        }
        .encode(&mut record);
        w.append(at, &record).unwrap();
    }
    assert!(w.is_behind());
    while w.is_behind() {
        w.tick().unwrap(); // until they are sealed
    }
    assert_eq!(w.total(), UNSEALED_ROWS_MAX.next_multiple_of(10_000));
}

#[test]
fn nothing_is_written_through_a_link() {
    let tmp = tempfile::tempdir().unwrap();
    let (victim, link) = (tmp.path().join("victim"), tmp.path().join("link"));
    std::fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    assert!(durable::open_rw(&link).is_err());
    assert!(durable::create(&link).is_err());
    assert!(EventLog::open(&link, "1").is_err());
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}
