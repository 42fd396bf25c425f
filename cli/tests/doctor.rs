//! `expman doctor` on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use expman_storage::RunDir;
use support::Base;

#[test]
fn a_folder_in_good_order_gives_nothing() {
    let base = Base::new();
    let path = base.add_finished("a");
    let edit = serde_json::from_str(r#"{"display_name": "the first"}"#).unwrap();
    expman_storage::edits::edit_run(&RunDir::at(&path), &edit).unwrap();
    let live = base.add_live("b");
    base.add_expman_rs("v0_5_3/done", "c");
    for dir in [".", "exp", "exp/a", &path.display().to_string()] {
        let done = base.expman(&["doctor", dir]).expect(0);
        assert!(done.err.contains("nothing to do"), "{dir}: {done:?}");
        assert!(!done.out.contains("exp/a"), "{dir}: {done:?}");
    }
    let done = base.expman(&["doctor", ".", "--fix", "--json"]).expect(0);
    let json = done.json();
    assert_eq!((&json["runs"], &json["left"]), (&3.into(), &0.into()));
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["code"], "owned");
    assert!(done.err.contains("3 runs looked at"), "{done:?}");
    live.finish();
    base.expman(&["doctor", "nowhere"]).expect(3);
    fs::create_dir(base.join("empty")).unwrap();
    base.expman(&["doctor", "empty"]).expect(0);
}

#[test]
fn damage_is_told_of_mended_once_and_then_gone() {
    let base = Base::new();
    base.add_live_of_the_dead("killed").crash();
    let broken = base.add_finished("broken");
    fs::write(broken.join("run.yaml"), "status: [unclosed").unwrap();
    let lost = base.add_finished("lost");
    fs::remove_file(lost.join("metrics.parquet")).unwrap();
    fs::write(base.join("exp/experiment.yaml"), "tags: [\u{1b}[31m").unwrap();

    let done = base.expman(&["doctor", "."]).expect(1);
    for line in [
        "damage   exp: ",
        "damage   exp/broken: ./exp/broken/run.yaml is no readable YAML",
        "warning  exp/killed: status running, and no process owns it",
        "damage   exp/lost: ./exp/lost/metrics.parquet is missing\n",
    ] {
        assert!(done.out.contains(line), "{line:?} in {done:?}");
    }
    assert!(
        done.err
            .contains("3 runs looked at, 4 findings left, 3 of them damage")
            && done.err.contains("--fix mends 3 of them"),
        "{done:?}"
    );
    let steers = |text: &str| text.contains(|c: char| c != '\n' && c.is_control());
    assert!(!steers(&done.out) && !steers(&done.err), "{done:?}");

    let done = base.expman(&["doctor", ".", "--fix"]).expect(1);
    assert!(done.out.contains("mended   exp/killed: "), "{done:?}");
    assert!(
        done.err
            .contains("4 findings mended, 1 finding left, 1 of them damage"),
        "{done:?}"
    );
    let json = base
        .expman(&["doctor", ".", "--fix", "--json"])
        .expect(1)
        .json();
    assert_eq!(json["left"], 1);
    let left: Vec<_> = json["findings"].as_array().unwrap().iter().collect();
    let damage = left.iter().find(|f| f["severity"] == "damage").unwrap();
    assert_eq!(
        (
            &damage["run"],
            &damage["code"],
            &damage["fixable"],
            &damage["fixed"]
        ),
        (
            &"exp/lost".into(),
            &"metrics".into(),
            &false.into(),
            &false.into()
        )
    );
    let killed = base
        .expman(&["inspect", "-d", ".", "exp/killed", "--json"])
        .expect(0);
    let killed = killed.json();
    assert_eq!(
        (&killed["rows"], &killed["meta"]["status"]),
        (&18.into(), &"crashed".into())
    );
}

#[test]
fn a_run_of_which_a_process_still_lives_is_left_alone() {
    let base = Base::new();
    let path = base.add_live("a").crash();
    // Its ranks were processes of a host of another name, a moment ago.
    let done = base.expman(&["doctor", ".", "--fix"]).expect(0);
    assert!(
        done.out.contains("may be alive; the run is left alone"),
        "{done:?}"
    );
    assert!(
        path.join(".expman")
            .read_dir()
            .unwrap()
            .any(|file| { file.unwrap().path().extension().is_some_and(|e| e == "wal") })
    );
}
