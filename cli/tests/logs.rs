//! `expman logs` on real files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use expman_model::{Level, RecordBody, Stream};
use support::{Base, Live, command};

fn console(stream: Stream, ends_line: bool, bytes: &[u8]) -> RecordBody {
    RecordBody::Console {
        stream,
        ends_line,
        bytes: bytes.to_vec(),
    }
}

fn message(level: Level, text: &str) -> RecordBody {
    RecordBody::Message {
        level,
        logger: String::new(),
        file: String::new(),
        line: 0,
        text: text.into(),
    }
}

/// A run in which both ranks said something; the numbers are those of its records, and so their times.
fn talkative(base: &Base) -> Live {
    let mut live = base.add_live("a");
    live.log(0, 10_000, console(Stream::Out, true, b"step 1 loss=0.5"));
    live.log(1, 11_000, console(Stream::Out, true, b"step 1 loss=0.75"));
    live.log(1, 12_000, console(Stream::Err, false, b"half "));
    live.log(0, 13_000, message(Level::WARN, "slow disk\nsecond line"));
    live.log(1, 14_000, console(Stream::Err, true, b"a line"));
    live.log(
        0,
        15_000,
        console(Stream::Out, true, b"10%\r\x1b[32m100%\x1b[0m"),
    );
    live.log(1, 16_000, console(Stream::Out, true, b"step 1 loss=nan"));
    live.log(1, 17_000, console(Stream::Out, true, b"\xff raw"));
    live
}

#[test]
fn lines_of_both_files_come_by_time_with_their_rank() {
    let base = Base::new();
    talkative(&base).finish();
    let done = base.expman(&["logs", "./exp/a"]).expect(0);
    let expected = "\
[0] step 1 loss=0.5
[1] step 1 loss=0.75
[0] WARN slow disk
[0] WARN second line
[1] half a line
[0] 100%
[1] step 1 loss=nan
[1] \u{fffd} raw
";
    assert_eq!(done.out, expected);
    let timed = base.expman(&["logs", "./exp/a", "-t", "-n", "1"]).expect(0);
    assert_eq!(timed.out, "2026-01-01T00:00:00.017Z [1] \u{fffd} raw\n");
}

#[test]
fn lines_are_chosen_by_rank_stream_level_pattern_and_age() {
    let base = Base::new();
    talkative(&base).finish();
    let logs = |args: &[&str]| {
        let args = [&["logs", "./exp/a"][..], args].concat();
        base.expman(&args).expect(0).out
    };
    assert_eq!(logs(&["--stream", "err"]), "[1] half a line\n");
    assert_eq!(logs(&["--level", "warning"]), logs(&["--stream", "log"]));
    assert_eq!(
        logs(&["--rank", "0", "--grep", "loss"]),
        "[0] step 1 loss=0.5\n"
    );
    assert_eq!(
        logs(&["--rank", "1-7,9", "--grep", "^STEP.*5$", "-i"]),
        "[1] step 1 loss=0.75\n"
    );
    assert_eq!(
        logs(&["--grep", "loss", "-n", "1"]),
        "[1] step 1 loss=nan\n"
    );
    assert_eq!(
        logs(&["--since", "2026-01-01T00:00:00.017Z"]),
        "[1] \u{fffd} raw\n"
    );
    assert_eq!(logs(&["--since", "1s"]), "");
    assert_eq!(logs(&["-n", "0"]), "");
}

#[test]
fn alike_lines_are_folded_and_a_nan_is_not() {
    let base = Base::new();
    talkative(&base).finish();
    let done = base
        .expman(&["logs", "./exp/a", "--aggregate", "--grep", "loss"])
        .expect(0);
    assert_eq!(
        done.out,
        "[0-1] ×2 step 1 loss=0.5..0.75\n[1] step 1 loss=nan\n"
    );
}

#[test]
fn json_has_every_byte_and_every_field() {
    let base = Base::new();
    talkative(&base).finish();
    let done = base.expman(&["logs", "./exp/a", "--json"]).expect(0);
    let lines: Vec<serde_json::Value> = done
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[7]["text_base64"], "/yByYXc=");
    assert_eq!(lines[5]["text"], "10%\r\u{1b}[32m100%\u{1b}[0m");
    assert_eq!(
        (&lines[2]["ends_line"], &lines[2]["seq"]),
        (&false.into(), &12_000.into())
    );
    assert_eq!(
        (&lines[3]["level"], &lines[3]["text"]),
        (&"WARN".into(), &"slow disk\nsecond line".into())
    );
    assert_eq!(lines[0]["time"], "2026-01-01T00:00:00.010000Z");
}

#[test]
fn following_shows_what_comes_and_ends_with_the_run() {
    let base = Base::new();
    let mut live = talkative(&base);
    let mut child = command(&["logs", "./exp/a", "-f", "-n", "1"])
        .current_dir(base.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "[1] \u{fffd} raw");
    live.log(0, 20_000, console(Stream::Out, true, b"while it follows"));
    assert_eq!(lines.next().unwrap(), "[0] while it follows");
    std::thread::sleep(Duration::from_millis(150));
    live.log(0, 21_000, message(Level::INFO, "last word"));
    live.finish();
    assert_eq!(lines.collect::<Vec<_>>(), ["[0] last word"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_wrong_option_is_named() {
    let base = Base::new();
    talkative(&base).finish();
    let told = |args: &[&str]| {
        let args = [&["logs", "./exp/a"][..], args].concat();
        base.expman(&args).expect(2).err
    };
    let pattern = told(&["--grep", "loss[(0-9"]);
    assert!(
        pattern.contains("--grep") && pattern.contains("loss[(0-9"),
        "{pattern}"
    );
    for level in ["256", "-1", "LEVEL300"] {
        let what = told(&[&format!("--level={level}")]);
        assert!(what.contains(level) && what.contains("0 to 255"), "{what}");
    }
    assert!(told(&["--rank", "5-2"]).contains("5-2"));
    assert!(told(&["--since", "yesterday"]).contains("yesterday"));
    assert!(told(&["--level", "loud"]).contains("loud"));
    assert!(told(&["--aggregate", "-1"]).contains("-1"));
    assert!(told(&["--level", "info", "--stream", "out"]).contains("--level"));
}
