//! A folder of real runs, and the real binary.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, of which each test binary uses a part"
)]

pub mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use expman_model::record::RecordBody;
use expman_model::{
    Incarnation, Param, Point, Record, RunMeta, RunStatus, Value, WriterId, meta::RankState,
};
use expman_storage::spool::{SPOOL_FORMAT, Spool, SpoolHeader};
use expman_storage::{OwnerLock, RunDir, RunWriter};

/// A folder of experiments.
pub struct Base {
    dir: tempfile::TempDir,
}

impl Base {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Copies a run that expman-rs wrote to `exp/<name>`.
    pub fn add_expman_rs(&self, run: &str, name: &str) -> PathBuf {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../storage/tests/data/expman-rs")
            .join(run);
        let to = self.join("exp").join(name);
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        to
    }

    /// A run of two ranks with three steps each, still owned by this process.
    pub fn add_live(&self, name: &str) -> Live {
        Live::start(&self.join("exp").join(name), "host\u{1b}[31m", [100, 101])
    }

    /// The same run, whose ranks were processes of this host and have ended.
    pub fn add_live_of_the_dead(&self, name: &str) -> Live {
        let host = rustix::system::uname();
        let host = host.nodename().to_str().unwrap();
        let pids = [0, 1].map(|_| {
            let mut child = Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        });
        Live::start(&self.join("exp").join(name), host, pids)
    }

    /// The same run, finished.
    pub fn add_finished(&self, name: &str) -> PathBuf {
        let live = self.add_live(name);
        let path = live.path.clone();
        live.finish();
        path
    }

    /// Runs `expman` here, and never in a terminal.
    pub fn expman(&self, args: &[&str]) -> Done {
        Done::from(command(args).current_dir(self.path()).output().unwrap())
    }
}

/// The binary with none of this process's settings.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_expman"));
    command.args(args).stdin(Stdio::null());
    for name in ["EXPMAN_DIR", "EXPMAN_TOKEN", "EXPMAN_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Done {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// A run that is being written.
pub struct Live {
    pub path: PathBuf,
    writer: RunWriter,
    lock: OwnerLock,
    ranks: [u32; 2],
    ids: [WriterId; 2],
    host: String,
    pids: [u32; 2],
}

impl Live {
    fn start(path: &Path, host: &str, pids: [u32; 2]) -> Self {
        let dir = RunDir::at(path);
        let lock = OwnerLock::take(&dir).unwrap();
        let seed = RunMeta {
            world_size: Some(2),
            tags: vec!["t".into()],
            ..RunMeta::default()
        };
        let (mut writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
        let ids = [0, 1].map(|rank| WriterId {
            rank,
            incarnation: Incarnation::generate(),
        });
        let ranks = [0, 1].map(|n| writer.register(ids[n], host, pids[n]).index);
        let mut live = Self {
            path: path.to_owned(),
            writer,
            lock,
            ranks,
            ids,
            host: host.to_owned(),
            pids,
        };
        let params = Param::Map(vec![(
            "opt".into(),
            Param::Map(vec![("lr".into(), Param::Float(0.1))]),
        )]);
        for rank in 0..2 {
            for step in 0..3u8 {
                let loss = if step == 1 {
                    f64::NAN
                } else {
                    f64::from(step) + 0.5
                };
                let points = vec![
                    Point::new("loss", Value::Float(loss)),
                    Point::new("n", Value::Int(i64::MAX)),
                    Point::new("step", Value::Bool(true)),
                ];
                live.log(
                    rank,
                    u64::from(step) + 1,
                    RecordBody::Metrics {
                        step: Some(step.into()),
                        points,
                    },
                );
            }
        }
        live.log(0, 4, RecordBody::Params(params));
        live.log(
            0,
            5,
            RecordBody::Scalar(Point::new("best", Value::Float(f64::NEG_INFINITY))),
        );
        live.writer.save().unwrap();
        live
    }

    /// Puts records of a rank, each a point, into its spool.
    pub fn spool(&self, rank: usize, seqs: std::ops::RangeInclusive<u64>) {
        let header = SpoolHeader {
            format: SPOOL_FORMAT,
            id: self.ids[rank],
            host: self.host.clone(),
            pid: self.pids[rank],
            launch_key: String::new(),
        };
        let mut spool = Spool::new(RunDir::at(&self.path), header, 1 << 20);
        let points = vec![Point::new("late", Value::Int(1))];
        let body = RecordBody::Metrics { step: None, points };
        let bytes: Vec<u8> = seqs
            .clone()
            .flat_map(|seq| encoded(seq, body.clone()))
            .collect();
        spool.append(*seqs.start(), *seqs.end(), &bytes).unwrap();
    }

    /// Stores one record.
    pub fn log(&mut self, rank: usize, seq: u64, body: RecordBody) {
        self.log_unsynced(rank, seq, body);
        self.writer.sync().unwrap();
    }

    /// Takes in one record.
    pub fn log_unsynced(&mut self, rank: usize, seq: u64, body: RecordBody) {
        let bytes = encoded(seq, body);
        self.writer.append(self.ranks[rank], &bytes).unwrap();
    }

    /// Ends it in good order.
    pub fn finish(self) {
        self.finish_as(RunStatus::Finished);
    }

    /// Ends it so that its first rank tells this status, and the second that it finished.
    pub fn finish_as(mut self, status: RunStatus) {
        for (rank, status) in self.ranks.into_iter().zip([status, RunStatus::Finished]) {
            self.writer.leave(rank, RankState::Left, status, "");
        }
        self.writer.finish().unwrap();
        drop(self.lock);
    }

    /// Leaves it as a killed owner does.
    pub fn crash(self) -> PathBuf {
        self.path
    }

    /// The commit log.
    pub fn log_file(&self) -> PathBuf {
        RunDir::at(&self.path).wals().unwrap().pop().unwrap().path
    }
}

fn encoded(seq: u64, body: RecordBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    Record {
        seq,
        timestamp_us: 1_767_225_600_000_000 + seq.cast_signed(),
        body,
    }
    .encode(&mut bytes);
    bytes
}
