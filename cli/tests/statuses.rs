//! How a run stands is decided in one place: every command and the server tell the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use expman_model::{RecordBody, RunStatus};
use serde_json::{Value as Json, json};
use support::Base;
use support::server::Server;

#[test]
fn list_inspect_and_the_server_agree_about_every_status() {
    let base = Base::new();
    for status in RunStatus::ALL.into_iter().filter(|s| s.is_finished()) {
        let mut live = base.add_live(&format!("a-{status}"));
        if status == RunStatus::Failed {
            let message = "ValueError: no such \u{1b}[31mfile".to_owned();
            let traceback = "Traceback:\n  line 1\nValueError".to_owned();
            let outcome = RecordBody::Outcome {
                status,
                message,
                traceback,
            };
            live.log(0, 6, outcome);
        }
        live.finish_as(status);
    }
    base.add_live("b-killed").crash();
    let live = base.add_live("c-live");
    base.add_expman_rs("v0_5_3/done", "d-done");
    base.add_expman_rs("v1_3_0/killed", "d-killed");

    let mut wanted: Vec<(String, String, bool)> = RunStatus::ALL
        .into_iter()
        .filter(|s| s.is_finished())
        .map(|s| (format!("a-{s}"), s.to_string(), false))
        .collect();
    for (name, status, live) in [
        ("b-killed", "crashed", false),
        ("c-live", "running", true),
        ("d-done", "finished", false),
        // It takes its word for it, since it has no way to know better.
        ("d-killed", "running", false),
    ] {
        wanted.push((name.to_owned(), status.to_owned(), live));
    }
    let server = Server::start(&base, &[]);
    let listed = base.expman(&["list", ".", "--json"]).expect(0).json();
    let served = server.json("/api/runs");
    assert_eq!(listed.as_array().unwrap().len(), wanted.len());
    let find = |all: &Json, name: &str| -> Json {
        let mut all = all.as_array().unwrap().iter();
        all.find(|run| run["name"] == name).unwrap().clone()
    };
    for (name, status, live) in wanted {
        let (list, summary) = (find(&listed, &name), find(&served, &name));
        let run = format!("exp/{name}");
        let inspected = base.expman(&["inspect", "-d", ".", &run, "--json"]).json();
        let detail = server.json(&format!("/api/runs/{}", list["key"].as_str().unwrap()));
        let told = |status: &Json, live: &Json| (status.clone(), live.clone());
        for (who, told) in [
            ("list", told(&list["status"], &list["live"])),
            (
                "inspect",
                told(&inspected["meta"]["status"], &inspected["live"]),
            ),
            ("the API's list", told(&summary["status"], &summary["live"])),
            ("the API", told(&detail["status"], &detail["live"])),
        ] {
            assert_eq!(told, (json!(status), json!(live)), "{who} about {name}");
        }
        assert_eq!(list["ranks"], summary["ranks"], "{name}");
        let ranks = &inspected["meta"]["ranks"];
        let states = |ranks: &Json| -> Vec<Json> {
            let ranks = ranks.as_object().unwrap().values();
            let all = ranks.flat_map(|r| r.as_array().unwrap());
            all.map(|r| json!([r["state"], r["status"]])).collect()
        };
        assert_eq!(states(ranks), states(&detail["ranks"]), "{name}");
        if !live && name != "d-killed" {
            assert!(!ranks.to_string().contains("running"), "{name}: {ranks}");
        }
        for error in [&list["error"], &inspected["meta"]["error"]] {
            assert_eq!(*error, detail["error"], "{name}");
        }
    }
    let failed = base
        .expman(&["inspect", "exp/a-failed", "-d", "."])
        .expect(0);
    assert!(
        failed
            .out
            .contains("rank 0: ValueError: no such \\u{1b}[31mfile\n")
            && failed.out.contains("               line 1\n"),
        "{failed:?}"
    );
    drop(live);
}
