//! `expman inspect --crash` on real files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use expman_model::record::RecordBody;
use expman_model::time::now_us;
use expman_model::{Incarnation, Level, RankState, Record, RunMeta, RunStatus, Stream, WriterId};
use expman_storage::{OwnerLock, RunDir, RunWriter};
use support::Base;

/// A run of so many ranks, whose records are stored as they come.
struct Launch {
    writer: RunWriter,
    lock: OwnerLock,
    seqs: Vec<u64>,
    begun_us: i64,
}

impl Launch {
    fn of(ranks: u32, path: &Path) -> Self {
        let dir = RunDir::at(path);
        let lock = OwnerLock::take(&dir).unwrap();
        let seed = RunMeta {
            world_size: Some(ranks),
            ..RunMeta::default()
        };
        let (writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
        let mut launch = Self {
            writer,
            lock,
            seqs: Vec::new(),
            begun_us: now_us(),
        };
        for rank in 0..ranks {
            launch.join(rank);
        }
        launch
    }

    /// One more process, of this rank.
    fn join(&mut self, rank: u32) -> u32 {
        let id = WriterId {
            rank,
            incarnation: Incarnation::generate(),
        };
        let pid = 100 + u32::try_from(self.seqs.len()).unwrap();
        self.seqs.push(0);
        self.writer.register(id, "node\u{1b}[31m", pid).index
    }

    /// Stores a record, so many milliseconds after the start.
    fn log(&mut self, process: u32, at_ms: i64, body: RecordBody) {
        let seq = &mut self.seqs[process as usize];
        *seq += 1;
        let mut bytes = Vec::new();
        Record {
            seq: *seq,
            timestamp_us: self.begun_us + at_ms * 1000,
            body,
        }
        .encode(&mut bytes);
        self.writer.append(process, &bytes).unwrap();
    }

    fn say(&mut self, process: u32, at_ms: i64, stream: Stream, text: &str) {
        for line in text.lines() {
            let body = RecordBody::Console {
                stream,
                ends_line: true,
                bytes: line.into(),
            };
            self.log(process, at_ms, body);
        }
    }

    fn raise(&mut self, process: u32, at_ms: i64, thread: &str, text: &str) {
        let body = RecordBody::Message {
            level: Level::CRITICAL,
            logger: "uncaught".into(),
            file: "train.py".into(),
            line: 7,
            text: format!("uncaught in thread {thread}\n{text}"),
        };
        self.log(process, at_ms, body);
        if thread != "MainThread" {
            self.say(
                process,
                at_ms,
                Stream::Err,
                &format!("Exception in thread {thread}:"),
            );
        }
        self.say(process, at_ms, Stream::Err, text);
    }

    fn fail(&mut self, process: u32, at_ms: i64, text: &str) {
        self.raise(process, at_ms, "MainThread", text);
        let body = RecordBody::Outcome {
            status: RunStatus::Failed,
            message: text.lines().last().unwrap().into(),
            traceback: text.into(),
        };
        self.log(process, at_ms + 1, body);
        self.writer
            .leave(process, RankState::Left, RunStatus::Failed, "");
    }

    fn leave(&mut self, process: u32) {
        self.writer
            .leave(process, RankState::Left, RunStatus::Finished, "");
    }

    fn lose(&mut self, process: u32, heard_ms: i64) {
        self.writer.seen(process, self.begun_us + heard_ms * 1000);
        let (state, status) = (RankState::Lost, RunStatus::Crashed);
        self.writer
            .leave(process, state, status, "its process is gone");
    }

    fn finish(mut self) {
        self.writer.finish().unwrap();
        drop(self.lock);
    }
}

fn traceback(error: &str) -> String {
    format!(
        "Traceback (most recent call last):\n  File \"train.py\", line 7, in main\n    step()\n{error}"
    )
}

#[test]
fn the_first_rank_to_fail_comes_first_and_the_same_traceback_once() {
    let base = Base::new();
    let mut launch = Launch::of(9, &base.join("exp/a"));
    for n in 0..30 {
        for rank in 0..9 {
            launch.say(rank, i64::from(n), Stream::Out, &format!("step {n}"));
        }
    }
    // Rank 5 is the first one, though what it says is the last that arrives.
    for rank in [3, 0, 1, 2, 7] {
        let error = format!("RuntimeError: [rank {rank}] peer 5 is gone");
        launch.fail(rank, 900 + i64::from(rank), &traceback(&error));
    }
    launch.fail(5, 500, &traceback("ValueError: loss is nan"));
    launch.fail(4, 950, &traceback("ValueError: loss is 0.5"));
    launch.leave(6);
    launch.leave(8);
    launch.finish();

    let done = base
        .expman(&["inspect", "./exp/a", "--crash", "-n", "3"])
        .expect(0);
    let first = done
        .out
        .find("first to fail rank 5, failed: ValueError: loss is nan");
    assert!(
        first.is_some() && !done.out.contains('\u{1b}'),
        "{}",
        done.out
    );
    let then: Vec<&str> = done
        .out
        .lines()
        .filter(|l| l.starts_with("then "))
        .collect();
    assert!(
        then[0].contains("rank 0,") && then[5].contains("rank 4,"),
        "{then:?}"
    );
    assert_eq!(then.len(), 6);
    assert!(
        done.out
            .contains("\ntraceback 2 of ranks 0-3,7\n  as rank 3 had it:\n  Traceback"),
        "{}",
        done.out
    );
    assert!(
        done.out
            .contains("\n  line 4 of rank 7: RuntimeError: [rank 7] peer 5 is gone\n"),
        "{}",
        done.out
    );
    // Each traceback stands there once, and its place among the lines is marked.
    assert_eq!(
        done.out.matches("Traceback (most recent").count(),
        3,
        "{}",
        done.out
    );
    let lines = done.out.split("last lines of rank 5\n").nth(1).unwrap();
    let lines: Vec<&str> = lines
        .lines()
        .take(4)
        .map(|l| l.get(27..).unwrap_or_default())
        .collect();
    assert_eq!(
        lines,
        [
            "out      step 29",
            "CRITICAL (traceback 1)",
            "err      (traceback 1)",
            ""
        ]
    );

    let json = base
        .expman(&["inspect", "./exp/a", "--crash", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&json["healthy"], &json["status"]),
        (&false.into(), &"failed".into())
    );
    assert_eq!(json["failures"][0]["rank"], 5);
    assert_eq!(json["failures"][0]["tracebacks"], serde_json::json!([0]));
    assert_eq!(json["failures"][0]["lines"].as_array().unwrap().len(), 20);
    assert_eq!(json["tracebacks"][1]["rank_set"], "0-3,7");
    let wordings = json["tracebacks"][1]["wordings"].as_array().unwrap();
    assert_eq!(wordings.len(), 5);
    assert_eq!(
        wordings[4]["text"],
        traceback("RuntimeError: [rank 7] peer 5 is gone")
    );
}

#[test]
fn a_rank_that_vanished_is_told_with_its_reason_and_its_last_lines() {
    let base = Base::new();
    let mut launch = Launch::of(3, &base.join("exp/a"));
    launch.say(1, 10, Stream::Out, "allocating 80 GB");
    launch.say(1, 11, Stream::Err, "Traceback (most recent call last):\n  File \"native.py\", line 1\nMemoryError: caught by nobody we know\n");
    launch.say(1, 12, Stream::Err, "\u{1b}[31mdying\u{1b}[0m");
    launch.lose(1, -5);
    launch.leave(0);
    launch.leave(2);
    launch.finish();
    let done = base
        .expman(&["inspect", "exp/a", "-d", ".", "--crash"])
        .expect(0);
    assert!(
        done.out
            .contains("first to fail rank 1, lost: its process is gone\n"),
        "{}",
        done.out
    );
    assert!(done.out.contains("between "), "{}", done.out);
    assert!(
        done.out.contains("out      allocating 80 GB\n"),
        "{}",
        done.out
    );
    assert!(done.out.contains("err      dying\n"), "{}", done.out);
    // It was printed and not logged, so it is found in the output.
    assert!(
        done.out
            .contains("\ntraceback 1 of rank 1\n  Traceback (most recent call last):\n  "),
        "{}",
        done.out
    );
    assert!(
        done.out.contains("err      (traceback 1)\n"),
        "{}",
        done.out
    );
}

#[test]
fn a_run_that_did_not_fail_says_so() {
    let base = Base::new();
    base.add_finished("a");
    let done = base.expman(&["inspect", "./exp/a", "--crash"]).expect(0);
    assert_eq!(done.out, "exp/a is finished\nno rank failed\n");
    let json = base
        .expman(&["inspect", "./exp/a", "--crash", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&json["healthy"], &json["failures"]),
        (&true.into(), &serde_json::json!([]))
    );
    let live = base.add_live("b");
    let done = base.expman(&["inspect", "./exp/b", "--crash"]).expect(0);
    assert_eq!(done.out, "exp/b is running (live)\nno rank failed\n");
    drop(live);
    base.expman(&["inspect", "./exp/a", "-n", "3"]).expect(2);
}

#[test]
fn a_thread_that_died_an_attempt_that_failed_and_a_child_are_told_apart() {
    let base = Base::new();
    let mut launch = Launch::of(2, &base.join("exp/a"));
    launch.raise(0, -5, "loader-1", &traceback("OSError: no such shard"));
    let child = launch.join(0);
    launch.lose(child, -3);
    launch.say(1, -7, Stream::Out, "first attempt");
    launch.fail(1, -6, &traceback("ValueError: bad"));
    std::thread::sleep(std::time::Duration::from_millis(2));
    let again = launch.join(1);
    launch.say(again, 1_000_000, Stream::Out, "second attempt");
    launch.leave(again);
    launch.leave(0);
    launch.finish();
    let done = base.expman(&["inspect", "./exp/a", "--crash"]).expect(0);
    assert!(done.out.starts_with("exp/a is finished\n"), "{}", done.out);
    assert!(
        done.out
            .contains("first to fail rank 1 (attempt 0), failed: ValueError: bad\n"),
        "{}",
        done.out
    );
    assert!(
        done.out
            .contains("in a thread   rank 0, finished: a thread raised"),
        "{}",
        done.out
    );
    assert!(
        done.out
            .contains("traceback 2 of rank 0\n  uncaught in thread loader-1\n  Traceback"),
        "{}",
        done.out
    );
    assert!(done.out.contains("1 forked child vanished"), "{}", done.out);
    assert!(
        done.out.contains("out      first attempt\n"),
        "{}",
        done.out
    );
    assert!(!done.out.contains("second attempt"), "{}", done.out);
}

#[test]
fn what_can_not_be_read_is_named_and_the_rest_is_told() {
    let base = Base::new();
    let mut launch = Launch::of(1, &base.join("exp/a"));
    launch.fail(0, 5, &traceback("ValueError: bad"));
    launch.finish();
    let log = base.join("exp/a/console.log");
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &log).unwrap();
    let done = base.expman(&["inspect", "./exp/a", "--crash"]).expect(4);
    assert!(
        done.err.contains("console.log") && done.out.contains("ValueError: bad"),
        "{done:?}"
    );
    assert!(!done.out.contains("root:"), "{}", done.out);
}
