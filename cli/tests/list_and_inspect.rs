//! `expman list` and `expman inspect` on real folders.

#![expect(clippy::disallowed_methods, reason = "files are damaged on purpose")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;

use support::Base;

#[test]
fn runs_of_both_kinds_are_listed_with_what_is_wrong_with_them() {
    let base = Base::new();
    base.add_finished("a");
    let live = base.add_live("b");
    base.add_expman_rs("v0_5_3/done", "c");
    let broken = base.add_finished("d");
    fs::write(broken.join("run.yaml"), "status: [unclosed").unwrap();
    let crashed = base.add_live("e").crash();
    assert!(crashed.exists());

    let table = base.expman(&["list", "."]).expect(0).out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("RUN") && lines[0].contains("PROBLEM"),
        "{table}"
    );
    for (line, run, status) in [
        (1, "exp/a", "finished"),
        (2, "exp/b", "running"),
        (3, "exp/c", "finished"),
        (5, "exp/e", "crashed"),
    ] {
        assert!(
            lines[line].starts_with(run) && lines[line].contains(status),
            "{table}"
        );
    }
    assert!(lines[4].contains("run.yaml is no readable YAML"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours into a pipe");

    let json = base
        .expman(&["list", ".", "-e", "exp", "--json"])
        .expect(0)
        .json();
    let runs = json.as_array().unwrap();
    assert_eq!(runs.len(), 5);
    let field = |name: &str| runs.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("live"), [false, true, false, false, false]);
    assert_eq!(field("kind"), ["mesh", "mesh", "expman-rs", "mesh", "mesh"]);
    assert_eq!(
        (
            &runs[0]["rows"],
            &runs[0]["ranks"]["left"],
            &runs[1]["ranks"]["live"]
        ),
        (&18.into(), &2.into(), &2.into())
    );
    drop(live);
}

#[test]
fn nothing_to_list_is_told_on_stderr() {
    let base = Base::new();
    let done = base.expman(&["list", "nowhere"]).expect(0);
    assert!(
        done.out.is_empty() && done.err.contains("nowhere does not exist yet"),
        "{done:?}"
    );
    assert_eq!(
        base.expman(&["list", "nowhere", "--json"]).expect(0).json(),
        serde_json::json!([])
    );
    base.expman(&["list", ".", "-e", "missing"]).expect(3);
    base.add_finished("a");
    let done = base.expman(&["list", "exp"]).expect(0);
    assert!(done.err.contains("exp is an experiment"), "{done:?}");
    fs::write(base.join("file"), "").unwrap();
    let done = base.expman(&["list", "file"]).expect(1);
    assert!(done.err.contains("file"), "{done:?}");
}

#[test]
fn names_can_not_steer_the_terminal() {
    let base = Base::new();
    let path = base.add_expman_rs("v0_5_3/done", "x\u{1b}[2J\u{202e}\u{9b}");
    fs::write(path.join("config.yaml"), "\"a\\e[31m\": \"b\\e]0;t\\a\"\n").unwrap();
    for args in [
        &["list", "."][..],
        &["list", ".", "--json"],
        &["inspect", &path.display().to_string()],
    ] {
        let done = base.expman(args);
        let bad = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(
            !done.out.contains(bad) && !done.err.contains(bad),
            "{done:?}"
        );
        assert!(done.out.contains("\\u"), "{done:?}");
    }
}

#[test]
fn a_run_is_found_by_name_path_id_and_key() {
    let base = Base::new();
    let path = base.add_finished("a").display().to_string();
    let listed = base.expman(&["list", ".", "--json"]).json();
    let text = |name: &str| listed[0][name].as_str().unwrap().to_owned();
    let (id, key) = (text("id"), text("key"));
    for run in ["exp/a", "exp/a/", "a", "./exp/a", &path, &id, &key] {
        let found = base
            .expman(&["inspect", "-d", ".", run, "--json"])
            .expect(0)
            .json();
        assert_eq!(found["meta"]["id"], id, "{run}");
    }
    for missing in [
        "b",
        "exp/b",
        "./exp",
        "../a",
        "019b0000-0000-7000-8000-000000000000",
    ] {
        let done = base.expman(&["inspect", "-d", ".", missing]).expect(3);
        assert!(
            done.out.is_empty() && done.err.contains("hint: "),
            "{done:?}"
        );
    }
    base.add_expman_rs("v0_5_3/done", "a2");
    fs::rename(base.join("exp/a2"), base.join("a")).unwrap();
    fs::create_dir(base.join("other")).unwrap();
    fs::rename(base.join("a"), base.join("other/a")).unwrap();
    let done = base.expman(&["inspect", "-d", ".", "a"]).expect(2);
    assert!(done.err.contains("exp/a, other/a"), "{done:?}");
}

#[test]
fn inspect_tells_ranks_metrics_and_parameters() {
    let base = Base::new();
    let live = base.add_live("a");
    let text = base.expman(&["inspect", "-d", ".", "exp/a"]).expect(0).out;
    for wanted in [
        "running (live)",
        "world size   2",
        "rows         18",
        "DURABLE SEQ",
        "host\\u{1b}[31m",
        "metric",
        "opt.lr  0.1",
        "best  -inf",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    let json = base
        .expman(&["inspect", "-d", ".", "exp/a", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&json["live"], &json["rows"], &json["problems"]),
        (&true.into(), &18.into(), &serde_json::json!([]))
    );
    assert_eq!(json["config"]["opt"]["lr"], 0.1);
    assert_eq!(json["meta"]["scalars"]["best"], "-inf");
    assert_eq!(
        json["meta"]["metrics"]["n"]["last"].as_i64(),
        Some(i64::MAX)
    );
    assert_eq!(json["meta"]["ranks"]["1"][0]["durable_seq"], 3);
    assert_eq!(json["path"], "./exp/a");
    drop(live);
}

#[test]
fn inspect_makes_the_summaries_that_expman_rs_lacks() {
    let base = Base::new();
    base.add_expman_rs("v1_3_0/killed", "k");
    let json = base
        .expman(&["inspect", "-d", ".", "exp/k", "--json"])
        .expect(0)
        .json();
    assert_eq!(json["rows"], 34);
    let loss = &json["meta"]["metrics"]["loss"];
    assert_eq!(
        (&loss["count"], &loss["max"], &loss["step"]),
        (&12.into(), &1.0.into(), &11.into())
    );
    assert_eq!(json["meta"]["metrics"]["nan"]["last"], "NaN");
}

#[test]
fn damage_is_named_and_the_rest_shown() {
    let base = Base::new();
    let yaml = base.add_finished("yaml");
    fs::write(yaml.join("config.yaml"), "a: [").unwrap();
    fs::write(
        yaml.join("events.jsonl"),
        "{broken\n{\"type\":\"x\"}\n{torn",
    )
    .unwrap();
    let done = base
        .expman(&["inspect", "-d", ".", "exp/yaml", "--json"])
        .expect(4);
    let json = done.json();
    let problems: Vec<&str> = json["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap())
        .collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("config.yaml") && problems[1].contains("events.jsonl:1: "),
        "{problems:?}"
    );
    assert!(problems.iter().all(|p| done.err.contains(p)), "{done:?}");
    assert_eq!(
        (&json["rows"], &json["meta"]["status"]),
        (&18.into(), &"finished".into())
    );

    let parquet = base.add_finished("parquet").join("metrics.parquet");
    let bytes = fs::read(&parquet).unwrap();
    fs::write(&parquet, &bytes[..bytes.len() / 2]).unwrap();
    let json = base
        .expman(&["inspect", "-d", ".", "exp/parquet", "--json"])
        .expect(4)
        .json();
    assert!(
        json["problems"][0]
            .as_str()
            .unwrap()
            .contains("metrics.parquet is no readable Parquet file"),
        "{json}"
    );
    assert!(json["rows"].is_null());
    assert_eq!(json["meta"]["ranks"]["0"][0]["points"], 9);
}

#[test]
fn a_log_damaged_in_its_middle_gives_what_stands_before() {
    let base = Base::new();
    let live = base.add_live("a");
    let log = live.log_file();
    let path = live.crash();
    let mut bytes = fs::read(&log).unwrap();
    let magic = bytes[..4].to_vec();
    let frames = bytes.windows(4).enumerate().filter(|(_, w)| *w == magic);
    let frames: Vec<usize> = frames.map(|(at, _)| at).collect();
    let middle = frames[frames.len() / 2];
    let name = path.display().to_string();
    // In its length, its checksum, its content.
    for damaged in [middle + 5, middle + 9, middle + 30] {
        bytes[damaged] ^= 0xFF;
        fs::write(&log, &bytes).unwrap();
        let done = base.expman(&["inspect", &name, "--json"]).expect(4);
        let rows = done.json()["rows"].as_u64().unwrap();
        assert!(rows > 0 && rows < 18, "{done:?}");
        let done = base
            .expman(&["export", &name, "-f", "jsonl", "--long"])
            .expect(4);
        assert_eq!(done.out.lines().count() as u64, rows);
        let place = format!("is damaged at byte {middle}");
        assert!(done.err.contains(&place), "{done:?}");
        bytes[damaged] ^= 0xFF;
    }
    // A torn tail is what every crash leaves, and no damage.
    bytes.truncate(bytes.len() - 3);
    fs::write(&log, &bytes).unwrap();
    base.expman(&["inspect", &name]).expect(0);
}
