//! Runs damaged for real: every kind of damage is found, mended if it can be, and then no longer there.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![expect(clippy::unwrap_used, reason = "only tests come here")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use expman_model::{
    Incarnation, Param, Point, RankState, Record, RecordBody, RunMeta, RunStatus, Value, WriterId,
};
use expman_storage::catalog::open_run;
use expman_storage::doctor::{self, Code, Finding, Life, Severity, Tools};
use expman_storage::{
    Filter, OwnerLock, Rows, RunDir, RunWriter, artifact, segment, snapshot, yaml,
};

/// Rows of a run made here: two ranks, ten steps, two metrics.
const ROWS: u64 = 40;

struct Bench {
    tmp: tempfile::TempDir,
}

/// A run that is being written.
struct Writing {
    writer: RunWriter,
    lock: OwnerLock,
    seqs: [u64; 2],
}

impl Bench {
    fn new() -> Self {
        Self {
            tmp: tempfile::tempdir().unwrap(),
        }
    }

    fn dir(&self, name: &str) -> RunDir {
        RunDir::under(&self.tmp.path().join("base"), "exp", name).unwrap()
    }

    fn start(&self, name: &str) -> Writing {
        let dir = self.dir(name);
        let lock = OwnerLock::take(&dir).unwrap();
        let seed = RunMeta {
            world_size: Some(2),
            name: name.to_owned(),
            experiment: "exp".to_owned(),
            description: Some("what the user said".into()),
            ..RunMeta::default()
        };
        let (mut writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
        for rank in 0..2 {
            let incarnation = Incarnation(u64::from(rank) + 7);
            writer.register(WriterId { rank, incarnation }, "here", 100 + rank);
        }
        let mut run = Writing {
            writer,
            lock,
            seqs: [0; 2],
        };
        let params = |n: i64| Param::Map(vec![("first".into(), Param::Int(n))]);
        run.log(0, RecordBody::Params(params(1)));
        run.steps(0..10);
        run.log(0, RecordBody::Scalar(Point::new("best", Value::Int(7))));
        let source = self.tmp.path().join("model.bin");
        fs::write(&source, "weights").unwrap();
        for saved in artifact::save(&dir, &source, "ckpt/model.bin").unwrap() {
            let (name, size, hash) = (saved.name, saved.size, saved.hash);
            run.log(1, RecordBody::Artifact { name, size, hash });
        }
        run.writer.save().unwrap();
        run
    }

    fn finished(&self, name: &str) -> RunDir {
        self.start(name).finish();
        self.dir(name)
    }

    /// As a killed owner leaves it.
    fn killed(&self, name: &str) -> RunDir {
        drop(self.start(name));
        self.dir(name)
    }
}

impl Writing {
    fn log(&mut self, rank: usize, body: RecordBody) {
        self.seqs[rank] += 1;
        let mut bytes = Vec::new();
        Record {
            seq: self.seqs[rank],
            timestamp_us: 1_767_225_600_000_000 + self.seqs[rank].cast_signed(),
            body,
        }
        .encode(&mut bytes);
        let writer = u32::try_from(rank).unwrap();
        self.writer.append(writer, &bytes).unwrap();
    }

    fn steps(&mut self, steps: std::ops::Range<u8>) {
        for step in steps {
            for rank in 0..2 {
                let points = vec![
                    Point::new("loss", Value::Float(1.0 / f64::from(step + 1))),
                    Point::new("phase", Value::Text(format!("step {step}"))),
                ];
                let step = Some(step.into());
                self.log(rank, RecordBody::Metrics { step, points });
            }
        }
    }

    fn finish(mut self) {
        for rank in 0..2 {
            self.writer
                .leave(rank, RankState::Left, RunStatus::Finished, "");
        }
        self.writer.finish().unwrap();
        drop(self.lock);
    }
}

fn gone(_host: &str, _pid: u32, _written: SystemTime) -> Life {
    Life::Gone
}

fn close(dir: &RunDir) -> Result<(), String> {
    doctor::close(dir).map_err(|e| e.to_string())
}

const TOOLS: Tools<'_> = Tools {
    life: &gone,
    close: &close,
};

fn look(dir: &RunDir) -> Vec<Finding> {
    TOOLS.look(&open_run(dir.root()).unwrap())
}

fn mend(dir: &RunDir) -> Vec<Finding> {
    TOOLS.mend(&open_run(dir.root()).unwrap())
}

fn codes(findings: &[Finding]) -> Vec<Code> {
    let todo = findings.iter().filter(|f| f.severity > Severity::Note);
    let mut codes: Vec<_> = todo.map(|f| f.code).collect();
    codes.sort();
    codes.dedup();
    codes
}

/// Every file of a folder.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Looking finds these and changes nothing; mending leaves none; mending again changes no byte.
#[track_caller]
fn finds_and_mends(dir: &RunDir, wanted: &[Code]) -> Vec<Finding> {
    let before = files(dir.root());
    let found = look(dir);
    assert_eq!(codes(&found), wanted, "{found:#?}");
    assert!(files(dir.root()) == before, "looking changes nothing");
    let mended = mend(dir);
    assert!(mended.iter().all(|f| !f.is_left()), "{mended:#?}");
    let fixed = mended.iter().filter(|f| f.fixed);
    let mut fixed: Vec<_> = fixed.map(|f| f.code).collect();
    fixed.sort();
    fixed.dedup();
    for code in wanted {
        assert!(fixed.contains(code), "{code:?} in {mended:#?}");
    }
    let after = files(dir.root());
    let again = mend(dir);
    assert_eq!(codes(&again), [], "{again:#?}");
    assert!(
        files(dir.root()) == after,
        "the second time changes nothing"
    );
    mended
}

#[track_caller]
fn rows(dir: &RunDir) -> u64 {
    let found = snapshot(dir, &Filter::default()).unwrap();
    assert_eq!(found.rows.len() as u64, found.total);
    found.total
}

fn meta(dir: &RunDir) -> RunMeta {
    yaml::read(&dir.meta()).unwrap().unwrap()
}

#[test]
fn a_run_in_good_order_has_nothing() {
    let bench = Bench::new();
    assert_eq!(look(&bench.finished("a")), []);
    let live = bench.start("live");
    let found = mend(&bench.dir("live"));
    assert_eq!((found.len(), found[0].code), (1, Code::Owned), "{found:?}");
    live.finish();
    assert_eq!(look(&bench.dir("live")), []);
}

#[test]
fn a_run_whose_owner_died_is_closed_with_every_row_and_the_time_of_its_end() {
    let bench = Bench::new();
    let dir = bench.killed("a");
    finds_and_mends(&dir, &[Code::NotClosed]);
    let meta = meta(&dir);
    assert_eq!((rows(&dir), meta.rows), (ROWS, ROWS));
    assert_eq!(meta.status, RunStatus::Crashed);
    assert!(meta.duration_secs.unwrap() < 60.0);
    assert!(dir.wals().unwrap().is_empty() && dir.segments().unwrap().is_empty());
    // A copy's files are as old as the copy; what they tell is not.
    let later = SystemTime::now() + std::time::Duration::from_secs(100_000);
    let dir = bench.killed("b");
    for path in files(dir.root()).keys() {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(later).unwrap();
    }
    mend(&dir);
    assert!(self::meta(&dir).duration_secs.unwrap() < 60.0);
}

#[test]
fn a_run_whose_ranks_may_live_is_left_alone() {
    let bench = Bench::new();
    let dir = bench.killed("a");
    for life in [Life::Lives, Life::Elsewhere] {
        let lives = |_: &str, pid: u32, _: SystemTime| if pid == 101 { life } else { Life::Gone };
        let tools = Tools {
            life: &lives,
            close: &|_| panic!("it is not to be closed"),
        };
        let before = files(dir.root());
        let found = tools.mend(&open_run(dir.root()).unwrap());
        assert!(files(dir.root()) == before);
        assert!(
            found
                .iter()
                .any(|f| f.code == Code::RanksLive && f.what.contains("rank 1")),
            "{found:?}"
        );
        assert!(found.iter().all(|f| !f.is_left() && !f.fixed), "{found:?}");
    }
}

#[test]
fn a_broken_record_is_made_again_from_what_is_left_of_it_its_events_and_its_rows() {
    let bench = Bench::new();
    for (name, killed) in [("finished", false), ("killed", true)] {
        for (damage, keep) in [("cut", Some(500)), ("gone", None)] {
            let name = format!("{name}-{damage}");
            let dir = if killed {
                bench.killed(&name)
            } else {
                bench.finished(&name)
            };
            let before = meta(&dir);
            match keep {
                Some(keep) => {
                    let text = fs::read(dir.meta()).unwrap();
                    fs::write(dir.meta(), [&text[..keep], b"\n: [broken"].concat()).unwrap();
                }
                None => fs::remove_file(dir.meta()).unwrap(),
            }
            let wanted = if killed {
                &[Code::Record, Code::NotClosed][..]
            } else {
                &[Code::Record]
            };
            finds_and_mends(&dir, wanted);
            let after = meta(&dir);
            let want = if killed {
                RunStatus::Crashed
            } else {
                RunStatus::Finished
            };
            assert_eq!((after.status, after.rows), (want, ROWS), "{name}");
            assert_eq!(
                (after.id, &after.experiment),
                (before.id, &before.experiment)
            );
            assert_eq!(after.metrics.len(), 2, "{name}");
            assert_eq!(after.metrics["loss"].count, ROWS / 2);
            for rank in 0..2 {
                let process = &after.ranks[&rank][0];
                assert_eq!((process.points, process.rows), (20, 10), "{name}");
                assert_eq!(process.last_step, Some(9));
                assert_eq!(process.pid, 100 + rank);
            }
            if keep.is_some() {
                assert_eq!(after.description, before.description, "{name}");
                assert!(dir.root().join("run.yaml.corrupt").exists());
            }
            assert_eq!(rows(&dir), ROWS);
        }
    }
}

#[test]
fn broken_parameters_are_kept_as_far_as_they_can_be_read() {
    let bench = Bench::new();
    let dir = bench.finished("cut");
    fs::write(dir.config(), "first: 1\nsecond:\n  deep: [1, 2\nthird: }").unwrap();
    finds_and_mends(&dir, &[Code::Params]);
    let first = Param::Map(vec![("first".into(), Param::Int(1))]);
    assert_eq!(yaml::read(&dir.config()).unwrap(), Some(first.clone()));
    assert!(dir.root().join("config.yaml.corrupt").exists());

    // A commit log still knows what a file that is gone said.
    let dir = bench.killed("logged");
    fs::remove_file(dir.config()).unwrap();
    finds_and_mends(&dir, &[Code::Params, Code::NotClosed]);
    assert_eq!(yaml::read(&dir.config()).unwrap(), Some(first));

    let dir = bench.finished("gone");
    fs::remove_file(dir.config()).unwrap();
    let found = mend(&dir);
    assert_eq!(codes(&found), [Code::Params]);
    assert!(found.iter().all(|f| !f.fixable && !f.fixed), "{found:?}");
    assert!(!dir.config().exists(), "an empty file would hide the loss");
}

#[test]
fn metrics_that_segments_and_logs_still_hold_are_made_again() {
    let bench = Bench::new();
    for damage in ["gone", "cut", "flipped"] {
        let mut run = bench.start(damage);
        run.writer.publish_now().unwrap();
        run.steps(10..15);
        run.writer.save().unwrap();
        drop(run);
        let dir = bench.dir(damage);
        let bytes = fs::read(dir.metrics()).unwrap();
        // As if the crash had come before the publication removed what it was made of.
        fs::write(dir.segment(0, ROWS), &bytes).unwrap();
        let mut flipped = bytes.clone();
        flipped[20] ^= 0xFF;
        flipped[40] ^= 0xFF;
        match damage {
            "gone" => fs::remove_file(dir.metrics()).unwrap(),
            "cut" => fs::write(dir.metrics(), &bytes[..bytes.len() / 2]).unwrap(),
            _ => fs::write(dir.metrics(), &flipped).unwrap(),
        }
        finds_and_mends(&dir, &[Code::Metrics, Code::NotClosed]);
        assert_eq!((rows(&dir), meta(&dir).rows), (60, 60), "{damage}");
    }
    // Of a finished run they are the only ones.
    let dir = bench.finished("lost");
    fs::write(dir.metrics(), "PAR1").unwrap();
    let before = files(dir.root());
    let found = mend(&dir);
    assert_eq!(codes(&found), [Code::Metrics]);
    assert!(found.iter().any(|f| f.is_left() && !f.fixable), "{found:?}");
    assert!(files(dir.root()) == before);
}

#[test]
fn a_start_that_was_cut_short_becomes_a_run_without_rows() {
    let bench = Bench::new();
    let dir = bench.dir("a");
    drop(OwnerLock::take(&dir).unwrap());
    finds_and_mends(&dir, &[Code::Record, Code::Metrics]);
    assert_eq!((meta(&dir).status, rows(&dir)), (RunStatus::Crashed, 0));
}

#[test]
fn a_damaged_log_keeps_what_stands_in_front_of_the_damage() {
    let bench = Bench::new();
    let dir = bench.killed("middle");
    let log = dir.wals().unwrap().pop().unwrap().path;
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    fs::write(&log, &bytes).unwrap();
    let found = finds_and_mends(&dir, &[Code::Log, Code::NotClosed]);
    let left = rows(&dir);
    assert!(0 < left && left < ROWS, "{left}");
    assert_eq!(meta(&dir).rows, left);
    assert!(found.iter().any(|f| f.code == Code::Copy), "{found:?}");

    let dir = bench.killed("head");
    let log = dir.wals().unwrap().pop().unwrap().path;
    let mut bytes = fs::read(&log).unwrap();
    bytes[20] ^= 0xFF;
    fs::write(&log, &bytes).unwrap();
    finds_and_mends(&dir, &[Code::Log, Code::NotClosed]);
    assert_eq!((rows(&dir), meta(&dir).rows), (0, 0));
    assert!(files(dir.root()).values().any(|kept| *kept == bytes));
}

#[test]
fn lines_that_are_no_events_are_taken_out() {
    let bench = Bench::new();
    let dir = bench.finished("a");
    let good = fs::read(dir.events()).unwrap();
    let bad = [b"{torn\n", good.as_slice(), b"[]\n{\"half"].concat();
    fs::write(dir.events(), &bad).unwrap();
    finds_and_mends(&dir, &[Code::Events]);
    assert_eq!(fs::read(dir.events()).unwrap(), good);
    assert_eq!(
        fs::read(dir.root().join("events.jsonl.corrupt")).unwrap(),
        bad
    );
}

#[test]
fn half_written_files_are_removed() {
    let bench = Bench::new();
    let dir = bench.finished("a");
    let stale = [
        dir.root().join("run.yaml.tmp"),
        dir.hidden().join("seg-0-1.parquet.tmp"),
        dir.artifacts().join("ckpt/.0000abcd-00112233.tmp"),
    ];
    for path in &stale {
        fs::write(path, "half").unwrap();
    }
    // A file of the user's may be called so.
    let own = dir.artifacts().join("my.tmp");
    fs::write(&own, "mine").unwrap();
    finds_and_mends(&dir, &[Code::Temporary]);
    assert!(stale.iter().all(|path| !path.exists()) && own.exists());
}

#[test]
fn counts_that_are_not_those_of_the_rows_are_corrected() {
    let bench = Bench::new();
    let dir = bench.finished("a");
    let right = meta(&dir);
    let mut wrong = right.clone();
    wrong.rows = 3;
    wrong.metrics.remove("phase");
    wrong.metrics.get_mut("loss").unwrap().count = 1;
    wrong.ranks.get_mut(&1).unwrap()[0].points = 0;
    yaml::write(&dir.meta(), &wrong).unwrap();
    finds_and_mends(&dir, &[Code::Counts]);
    let mended = meta(&dir);
    assert_eq!(mended.metrics["loss"].last, right.metrics["loss"].last);
    let numbers = |meta: &RunMeta| {
        let metrics = meta.metrics.iter();
        let metrics: Vec<_> = metrics
            .map(|(name, m)| (name.clone(), m.count, m.min, m.max, m.step))
            .collect();
        (meta.rows, metrics, meta.ranks.clone())
    };
    assert_eq!(numbers(&mended), numbers(&right));
}

#[test]
fn artifacts_that_are_not_what_was_saved_are_named() {
    let bench = Bench::new();
    for (damage, word) in [
        ("missing", "missing"),
        ("short", "3 bytes"),
        ("other", "not what"),
    ] {
        let dir = bench.finished(damage);
        let path = dir.artifacts().join("ckpt/model.bin");
        match damage {
            "missing" => fs::remove_file(&path).unwrap(),
            "short" => fs::write(&path, "wei").unwrap(),
            _ => fs::write(&path, "weighty").unwrap(),
        }
        let found = mend(&dir);
        assert_eq!(codes(&found), [Code::Artifact], "{found:?}");
        assert!(
            found[0].what.contains(word) && found[0].is_left(),
            "{found:?}"
        );
    }
    // A link is no saved file, wherever it leads; nor is a name that leads out.
    let dir = bench.finished("link");
    let path = dir.artifacts().join("ckpt/model.bin");
    fs::rename(&path, dir.root().join("model.bin")).unwrap();
    std::os::unix::fs::symlink("../../model.bin", &path).unwrap();
    let line = r#"{"type":"artifact","name":"../run.yaml","size":1,"hash":"0"}"#;
    let events = fs::read_to_string(dir.events()).unwrap();
    fs::write(dir.events(), format!("{events}{line}\n")).unwrap();
    let found = look(&dir);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|f| f.code == Code::Artifact));
}

#[test]
fn nothing_is_read_or_mended_through_a_link() {
    let bench = Bench::new();
    let target = bench.tmp.path().join("precious");
    for name in [
        "run.log",
        "run.yaml",
        ".expman/x.wal",
        "artifacts",
        "config.yaml",
    ] {
        let dir = bench.killed(&format!("r{}", name.replace('/', "-")));
        fs::write(&target, "not to be touched").unwrap();
        let path = dir.root().join(name);
        if path.is_dir() {
            fs::rename(&path, dir.root().join("aside")).unwrap();
        } else if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let found = mend(&dir);
        assert_eq!(codes(&found), [Code::NoPlainFile], "{name}: {found:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "not to be touched");
        assert!(
            !dir.wals().unwrap().is_empty(),
            "{name}: the run is as it was"
        );
    }
}

#[test]
fn what_a_newer_version_wrote_is_not_touched() {
    let bench = Bench::new();
    let dir = bench.killed("a");
    let mut newer = meta(&dir);
    newer.format = 99;
    yaml::write(&dir.meta(), &newer).unwrap();
    fs::write(dir.root().join("x.tmp"), "").unwrap();
    let before = files(dir.root());
    let found = mend(&dir);
    assert_eq!(codes(&found), [Code::NewerFormat]);
    assert!(found[0].what.contains("99"), "{found:?}");
    assert!(files(dir.root()) == before);
}

#[test]
fn what_stands_behind_missing_rows_is_kept_and_the_loss_is_told() {
    let bench = Bench::new();
    let mut run = bench.start("a");
    run.writer.publish_now().unwrap();
    run.steps(10..15);
    run.writer.save().unwrap();
    drop(run);
    let dir = bench.dir("a");
    // As if an older metrics.parquet had been put back.
    segment::write_sorted(&dir.metrics(), &Rows::default(), 0).unwrap();
    let found = look(&dir);
    assert!(codes(&found).contains(&Code::RowsMissing), "{found:?}");
    finds_and_mends(&dir, &[Code::RowsMissing, Code::NotClosed]);
    assert_eq!((rows(&dir), meta(&dir).rows), (20, 20));
    let told = fs::read_to_string(dir.events()).unwrap();
    let problem = told.lines().find(|line| line.contains("\"problem\""));
    assert!(
        problem.is_some_and(|line| line.contains("missing")),
        "{told}"
    );
}

#[test]
fn gaps_are_worth_a_note() {
    let bench = Bench::new();
    let mut run = bench.start("a");
    let (from_seq, to_seq, count, reason) = (13, 20, 8, "queue full".to_owned());
    run.log(
        0,
        RecordBody::Gap {
            from_seq,
            to_seq,
            count,
            reason,
        },
    );
    run.finish();
    let found = look(&bench.dir("a"));
    assert_eq!((found.len(), found[0].code), (1, Code::Gap), "{found:?}");
    assert!(found[0].what.contains("8 records: queue full"));
}

#[test]
fn a_broken_description_of_an_experiment_is_mended() {
    let bench = Bench::new();
    bench.finished("a");
    let folder = bench.tmp.path().join("base/exp");
    assert_eq!(doctor::experiment(&folder, true), None);
    let path = folder.join("experiment.yaml");
    fs::write(&path, "description: kept\ntags: [a\n").unwrap();
    let found = doctor::experiment(&folder, false).unwrap();
    assert!(found.is_left() && found.fixable, "{found:?}");
    assert!(doctor::experiment(&folder, true).unwrap().fixed);
    assert_eq!(doctor::experiment(&folder, true), None);
    assert!(fs::read_to_string(&path).unwrap().contains("kept"));
}

#[test]
fn sums_that_are_damaged_or_of_no_file_go_and_rows_stay() {
    let bench = Bench::new();
    let mut run = bench.start("sums");
    for step in 0..70 {
        let point = |n: i64| Point::new(format!("k{n}"), Value::Int(n * step));
        let points = (0..1000).map(point).collect();
        let step = Some(step);
        run.log(0, RecordBody::Metrics { step, points });
    }
    run.finish();
    let dir = bench.dir("sums");
    let [sum] = dir.sums().unwrap().try_into().unwrap();
    let count = rows(&dir);
    assert_eq!((sum.lo, sum.hi), (0, count));
    assert_eq!(codes(&look(&dir)), []);
    let good = fs::read(&sum.path).unwrap();
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    fs::write(&sum.path, wrong).unwrap();
    finds_and_mends(&dir, &[Code::Sum]);
    assert_eq!(dir.sums().unwrap().len(), 1);
    assert_eq!(codes(&look(&dir)), []);
    fs::copy(&sum.path, dir.sum(0, 7)).unwrap();
    finds_and_mends(&dir, &[Code::Sum]);
    assert_eq!(dir.sums().unwrap().len(), 1);
    assert_eq!(rows(&dir), count);
}
