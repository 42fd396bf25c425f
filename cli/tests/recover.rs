//! `expman recover`, and what doctor does with it, on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use support::Base;

#[test]
fn what_dead_processes_left_is_brought_in_once() {
    let base = Base::new();
    let live = base.add_live_of_the_dead("a");
    let (log, path) = (live.log_file(), live.path.clone());
    live.spool(0, 4..=8); // of which two are in the commit log already
    live.spool(1, 4..=6);
    let done = base.expman(&["recover", "-d", ".", "exp/a"]).expect(1);
    assert!(done.err.contains("hint: its owner lives"), "{done:?}");
    live.crash();
    let done = base.expman(&["recover", "-d", ".", "exp/a"]).expect(0);
    for part in [
        "exp/a: closed as crashed, 24 rows, 18 of them out of its commit log",
        ", 3 records out of the spool of rank 0",
        ", 3 records out of the spool of rank 1",
    ] {
        assert!(done.out.contains(part), "{part:?} in {done:?}");
    }
    assert!(!log.exists() && !path.join(".expman/spool").exists());
    let json = base
        .expman(&["recover", "-d", ".", "a", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&json["changed"], &json["status"], &json["rows"]),
        (&false.into(), &"crashed".into(), &24.into())
    );
    let done = base.expman(&["doctor", "."]).expect(0);
    assert!(done.err.contains("nothing to do"), "{done:?}");
    base.expman(&["recover", "-d", ".", "exp/none"]).expect(3);
}

#[test]
fn a_run_whose_ranks_may_live_is_not_recovered() {
    let base = Base::new();
    base.add_live("a").crash();
    let done = base.expman(&["recover", "-d", ".", "exp/a"]).expect(1);
    assert!(
        done.err.contains("still has living processes") && done.err.contains("hint: "),
        "{done:?}"
    );
    assert!(!done.err.contains('\u{1b}'), "{done:?}");
}

#[test]
fn doctor_brings_in_spools_and_keeps_those_that_can_not_be_read() {
    let base = Base::new();
    let live = base.add_live_of_the_dead("a");
    live.spool(0, 6..=9);
    let path = live.crash();
    let spool = path.join(".expman/spool");
    fs::write(spool.join("r7-00000000000000aa.1.spool"), "no spool at all").unwrap();
    let done = base.expman(&["doctor", "."]).expect(1);
    assert!(
        done.out.contains("bytes of a dead process wait"),
        "{done:?}"
    );
    base.expman(&["doctor", ".", "--fix"]).expect(0);
    let inspected = base
        .expman(&["inspect", "-d", ".", "exp/a", "--json"])
        .expect(0);
    assert_eq!(inspected.json()["rows"], 22);
    let left: Vec<_> = fs::read_dir(&spool)
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(left, ["r7-00000000000000aa.1.spool.corrupt"]);
    let again = base
        .expman(&["doctor", ".", "--fix", "--json"])
        .expect(0)
        .json();
    assert_eq!(again["left"], 0);
}
