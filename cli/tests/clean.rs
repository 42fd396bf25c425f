//! `expman clean` on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use support::Base;

fn names(json: &serde_json::Value) -> Vec<&str> {
    json.as_array()
        .unwrap()
        .iter()
        .map(|run| run["run"].as_str().unwrap())
        .collect()
}

#[test]
fn nothing_is_deleted_without_force() {
    let base = Base::new();
    for name in ["a", "b", "c"] {
        base.add_finished(name);
    }
    let json = base
        .expman(&["clean", "exp", "-d", ".", "--keep", "1", "--json"])
        .expect(0)
        .json();
    assert_eq!(json["dry_run"], true);
    assert_eq!(
        (names(&json["kept"]), names(&json["would_delete"])),
        (vec!["exp/c"], vec!["exp/b", "exp/a"])
    );
    let done = base.expman(&["clean", "./exp", "--keep", "1"]).expect(0);
    assert!(
        done.out.contains("would delete") && done.err.contains("--force deletes"),
        "{done:?}"
    );
    assert!(
        ["a", "b", "c"]
            .iter()
            .all(|name| base.join("exp").join(name).join("run.yaml").exists())
    );
}

#[test]
fn force_deletes_the_old_ones_and_never_a_live_one() {
    let base = Base::new();
    let live = base.add_live("a");
    base.add_expman_rs("v1_3_0/killed", "b");
    for name in ["c", "d", "e"] {
        base.add_finished(name);
    }
    fs::create_dir(base.join("exp/.deleting-z")).unwrap();
    let json = base
        .expman(&[
            "clean", "exp", "-d", ".", "--keep", "1", "--force", "--json",
        ])
        .expect(0)
        .json();
    assert_eq!(json["dry_run"], false);
    // The fixture's clock may be ahead of or behind this machine's, so it counts as kept or as live.
    let kept = names(&json["kept"]);
    assert!(
        kept.contains(&"exp/a") && kept.contains(&"exp/b"),
        "{kept:?}"
    );
    assert!(base.join("exp/a/run.yaml").exists() && base.join("exp/b/run.yaml").exists());
    for gone in names(&json["deleted"]) {
        assert!(!base.join(gone).exists());
    }
    assert!(!base.join("exp/c").exists() && !base.join("exp/.deleting-z").exists());
    let left: Vec<_> = fs::read_dir(base.join("exp"))
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert!(left.contains(&"experiment.yaml".into()), "{left:?}");
    live.finish();
    let json = base
        .expman(&[
            "clean", "exp", "-d", ".", "--keep", "0", "--force", "--json",
        ])
        .expect(0)
        .json();
    assert!(names(&json["deleted"]).contains(&"exp/a"));
    assert!(!base.join("exp/a").exists() && base.join("exp/b").exists());
}

#[test]
fn a_broken_run_can_be_deleted_and_a_link_is_not_followed() {
    let base = Base::new();
    let broken = base.add_finished("broken");
    fs::write(broken.join("run.yaml"), "status: [").unwrap();
    let kept = tempfile::tempdir().unwrap();
    fs::write(kept.path().join("precious"), "x").unwrap();
    std::os::unix::fs::symlink(kept.path(), broken.join("artifacts/link")).unwrap();
    base.expman(&["clean", "exp", "-d", ".", "--keep", "0", "--force"])
        .expect(0);
    assert!(!broken.exists() && kept.path().join("precious").exists());
}

#[test]
fn an_unknown_experiment_is_not_found() {
    let base = Base::new();
    base.expman(&["clean", "nope", "-d", ".", "--keep", "1"])
        .expect(3);
    base.expman(&["clean", "./nope", "--keep", "1"]).expect(3);
    base.expman(&["clean", "..", "-d", ".", "--keep", "1"])
        .expect(3);
    base.expman(&["clean", "exp"]).expect(2);
}
