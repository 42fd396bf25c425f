//! What dead processes left is brought in: by `recover`, and by the next owner.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a test ends at the first surprise"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use expman_actors::owner::{Owner, OwnerSpec};
use expman_actors::{FlushOptions, MeshError, OwnerMode, Run, RunConfig, host, recover};
use expman_model::{Incarnation, Point, Record, RecordBody, RunMeta, RunStatus, Value, WriterId};
use expman_storage::spool::{self, SPOOL_FORMAT, Spool, SpoolHeader};
use expman_storage::{Filter, OwnerLock, RunDir, RunWriter, StorageError, snapshot};

fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    for seq in seqs {
        Record {
            seq,
            timestamp_us: 1,
            body: RecordBody::Metrics {
                step: Some(seq.cast_signed()),
                points: vec![Point::new("loss", Value::Float(seq as f64))],
            },
        }
        .encode(&mut out);
    }
    out
}

fn id(rank: u32) -> WriterId {
    WriterId {
        rank,
        incarnation: Incarnation(0xabc + u64::from(rank)),
    }
}

/// A process that has ended.
fn dead() -> u32 {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

fn spool(dir: &RunDir, rank: u32, pid: u32, frames: &[std::ops::RangeInclusive<u64>]) {
    let header = SpoolHeader {
        format: SPOOL_FORMAT,
        id: id(rank),
        host: host::name(),
        pid,
        launch_key: "k".to_owned(),
    };
    let mut spool = Spool::new(dir.clone(), header, 1 << 30);
    for frame in frames {
        let slot = spool.append(*frame.start(), *frame.end(), &records(frame.clone()));
        assert!(slot.unwrap().is_some());
    }
}

/// A run whose owner died after rank 0 had ten records durable.
fn abandoned(base: &Path, pid: u32) -> RunDir {
    let dir = RunDir::under(base, "exp", "run").unwrap();
    let lock = OwnerLock::take(&dir).unwrap();
    let seed = RunMeta {
        launch_key: Some("k".to_owned()),
        ..RunMeta::default()
    };
    let (mut writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
    let at = writer.register(id(0), &host::name(), pid).index;
    writer.append(at, &records(1..=10)).unwrap();
    writer.save().unwrap();
    dir
}

fn stored(dir: &RunDir, rank: u32) -> Vec<u64> {
    let rows = snapshot(dir, &Filter::default()).unwrap().rows;
    let mut seqs: Vec<_> = rows
        .iter()
        .filter(|r| r.rank == rank)
        .map(|r| r.seq)
        .collect();
    seqs.sort_unstable();
    seqs
}

#[test]
fn recover_brings_in_every_spool_once_and_closes_the_run() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = abandoned(tmp.path(), dead());
    // Frames that were sent already, and a writer that no owner ever saw.
    spool(&dir, 0, dead(), &[6..=12, 13..=30]);
    spool(&dir, 3, dead(), &[1..=4]);
    let report = recover(dir.root()).unwrap();
    assert!(report.changed && report.problems.is_empty());
    assert_eq!((report.status, report.rows), (RunStatus::Crashed, 34));
    assert_eq!(report.recovered_rows, 10);
    let imported: Vec<_> = report
        .imported
        .iter()
        .map(|i| (i.writer.rank, i.before_seq, i.upto_seq))
        .collect();
    assert_eq!(imported, [(0, 10, 30), (3, 0, 4)]);
    assert_eq!(stored(&dir, 0), (1..=30).collect::<Vec<_>>());
    assert_eq!(stored(&dir, 3), [1, 2, 3, 4]);
    assert!(!dir.spool().exists() && dir.wals().unwrap().is_empty());
    let meta = expman_storage::catalog::open_run(dir.root()).unwrap().meta;
    assert_eq!((meta.status, meta.dropped), (RunStatus::Crashed, 0));

    let again = recover(dir.root()).unwrap();
    assert!(!again.changed);
    assert_eq!((again.status, again.rows), (RunStatus::Crashed, 34));
    assert_eq!(
        expman_storage::catalog::open_run(dir.root()).unwrap().meta,
        meta
    );
}

#[test]
fn a_damaged_spool_gives_what_stands_in_front_of_the_damage_and_is_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = abandoned(tmp.path(), dead());
    spool(&dir, 0, dead(), &[11..=20, 21..=30]);
    let file = spool::files(&dir).unwrap().remove(0).path;
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    #[expect(clippy::disallowed_methods, reason = "the test damages a file")]
    std::fs::write(&file, bytes).unwrap();
    let report = recover(dir.root()).unwrap();
    assert_eq!(report.rows, 20);
    assert_eq!(stored(&dir, 0), (1..=20).collect::<Vec<_>>());
    let (events, _) = expman_storage::events::read(&dir.events()).unwrap();
    assert!(events.iter().any(|e| {
        e["type"] == "problem" && e["what"].as_str().unwrap().contains(".spool.corrupt")
    }));
    assert!(!recover(dir.root()).unwrap().changed);
    assert_eq!(std::fs::read_dir(dir.spool()).unwrap().count(), 1);
}

#[test]
fn a_run_that_is_still_used_is_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = abandoned(tmp.path(), std::process::id());
    let before = std::fs::read(dir.meta()).unwrap();
    assert!(matches!(
        recover(dir.root()),
        Err(MeshError::StillLive { .. })
    ));
    assert_eq!(std::fs::read(dir.meta()).unwrap(), before);
    let lock = OwnerLock::take(&dir).unwrap();
    assert!(matches!(
        recover(dir.root()),
        Err(MeshError::Storage(StorageError::Locked { .. }))
    ));
    drop(lock);
    assert!(matches!(
        recover(&tmp.path().join("nothing")),
        Err(MeshError::Storage(StorageError::NoRun { .. }))
    ));
    assert!(!tmp.path().join("nothing").exists());
}

#[test]
fn the_next_owner_brings_in_what_the_dead_left_and_leaves_the_living_theirs() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = abandoned(tmp.path(), dead());
    spool(&dir, 0, dead(), &[11..=15]);
    spool(&dir, 4, dead(), &[1..=2]);
    spool(&dir, 5, std::process::id(), &[1..=3]);
    let spec = OwnerSpec {
        run_dir: dir.root().to_owned(),
        seed: RunMeta::default(),
    };
    let runtime = runtime();
    let _owner = runtime.block_on(Owner::start(spec)).unwrap();
    let start = Instant::now();
    while spool::files(&dir).unwrap().len() > 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "not imported");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(stored(&dir, 0), (1..=15).collect::<Vec<_>>());
    assert_eq!(stored(&dir, 4), [1, 2]);
    assert_eq!(stored(&dir, 5), [0; 0]);
    assert_eq!(spool::files(&dir).unwrap()[0].id, id(5));
}

#[test]
fn an_owner_whose_run_is_renamed_ends_with_a_clear_word() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::under(tmp.path(), "exp", "run").unwrap();
    let seed = RunMeta {
        launch_key: Some("k".to_owned()),
        ..RunMeta::default()
    };
    let run_dir = dir.root().to_owned();
    let runtime = runtime();
    let owner = runtime
        .block_on(Owner::start(OwnerSpec { run_dir, seed }))
        .unwrap();
    let mut config = RunConfig::new("exp").base_dir(tmp.path());
    (config.run_name, config.launch_key) = (Some("run".to_owned()), Some("k".to_owned()));
    config.owner = OwnerMode::InProcess;
    let run = Run::open(config).unwrap();
    run.log_metrics([("loss", 1.0)], Some(1)).unwrap();
    run.flush_blocking(FlushOptions::default()).unwrap();
    let moved = tmp.path().join("moved");
    std::fs::rename(dir.root(), &moved).unwrap();
    run.log_metrics([("loss", 2.0)], Some(2)).unwrap();
    let ended = runtime.block_on(owner.closed()).unwrap_err();
    assert!(ended.contains("removed or renamed"), "{ended}");
    assert_eq!(stored(&RunDir::at(moved), 0), [1]);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
