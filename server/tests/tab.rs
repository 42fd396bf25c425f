//! One stream for all that a tab shows: several runs and the list of runs.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use std::collections::BTreeMap;

use common::sse::{Events, Server};
use common::{LiveRun, Sandbox};
use expman_model::record::Stream;
use expman_model::{RunStatus, Value};
use serde_json::json;
use tokio::io::AsyncReadExt;

fn log(run: &mut LiveRun, key: &str, steps: std::ops::Range<i64>) {
    for step in steps {
        run.metric(0, key, Some(step), Value::Float(0.5));
    }
    run.commit();
}

async fn keys(server: &Server) -> BTreeMap<String, String> {
    let runs = server.json("/api/runs").await;
    let text = |json: &serde_json::Value| json.as_str().unwrap().to_owned();
    let runs = runs.as_array().unwrap().iter();
    runs.map(|run| (text(&run["name"]), text(&run["key"])))
        .collect()
}

/// The steps of each run until all of them have this one.
async fn until(
    events: &mut Events,
    runs: &[&str],
    last: i64,
) -> (BTreeMap<String, Vec<i64>>, String) {
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    loop {
        let event = events.next(&["metrics", "reset"]).await.unwrap();
        assert_eq!(event.name, "metrics", "{}", event.data);
        let run = event.data["run"].as_str().unwrap().to_owned();
        for series in event.data["series"].as_array().unwrap() {
            let steps = series["steps"].as_array().unwrap().iter();
            found
                .entry(run.clone())
                .or_default()
                .extend(steps.map(|s| s.as_i64().unwrap()));
        }
        if runs
            .iter()
            .all(|run| found.get(*run).is_some_and(|steps| steps.contains(&last)))
        {
            return (found, event.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_runs_come_in_one_stream_and_go_on_where_it_was_cut() {
    let sandbox = Sandbox::new();
    let (mut one, mut two) = (sandbox.run("exp", "one", 1), sandbox.run("exp", "two", 1));
    log(&mut one, "loss", 0..3);
    log(&mut two, "loss", 0..3);
    let server = Server::start(&sandbox).await;
    let keys = keys(&server).await;
    let (a, b) = (keys["one"].as_str(), keys["two"].as_str());
    let mut cursors = Vec::new();
    for key in [a, b] {
        let answer = server
            .json(&format!("/api/runs/{key}/series?keys=loss"))
            .await;
        cursors.push(format!("{key}:{}", answer["cursor"].as_str().unwrap()));
    }
    let path = format!(
        "/api/stream?runs={a},{b}&topics=metrics,state&cursor={}",
        cursors.join(",")
    );
    let mut events = server.events(&path, None).await;
    log(&mut one, "loss", 3..6);
    log(&mut two, "loss", 3..6);
    let (found, id) = until(&mut events, &[a, b], 5).await;
    assert_eq!((&found[a], &found[b]), (&vec![3, 4, 5], &vec![3, 4, 5]));
    let state = events.next(&["state"]).await.unwrap();
    assert!(keys.values().any(|key| state.data["run"] == json!(key)));
    drop(events);
    // What came meanwhile is told to who comes back with the last id, once.
    log(&mut one, "loss", 6..9);
    log(&mut two, "loss", 6..9);
    let mut events = server.events(&path, Some(&id)).await;
    let (found, _) = until(&mut events, &[a, b], 8).await;
    assert_eq!((&found[a], &found[b]), (&vec![6, 7, 8], &vec![6, 7, 8]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_metrics_that_are_shown_are_sent() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    let server = Server::start(&sandbox).await;
    let key = keys(&server).await["one"].clone();
    let path = format!("/api/stream?runs={key}&topics=metrics,logs&keys=loss");
    let mut events = server.events(&path, None).await;
    log(&mut run, "other", 0..5);
    run.line(0, Stream::Out, b"a line");
    log(&mut run, "loss", 5..6);
    let metrics = events.next(&["metrics"]).await.unwrap();
    assert_eq!(metrics.data["series"][0]["key"], "loss");
    assert_eq!(metrics.data["series"].as_array().unwrap().len(), 1);
    let lines = events.next(&["logs"]).await.unwrap();
    assert_eq!(
        (&lines.data["run"], &lines.data["lines"][0]["text"]),
        (&json!(key), &json!("a line"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_runs_is_told_by_its_changes() {
    let sandbox = Sandbox::new();
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let server = Server::start(&sandbox).await;
    let mut events = server.events("/api/stream?topics=runs", None).await;
    let all = events.next(&["runs"]).await.unwrap();
    assert_eq!(
        (&all.data["full"], &all.data["total"]),
        (&json!(true), &json!(1))
    );
    let two = sandbox.run("exp", "two", 1);
    let new = events.next(&["runs"]).await.unwrap();
    assert_eq!(
        (&new.data["full"], &new.data["changed"][0]["name"]),
        (&json!(false), &json!("two"))
    );
    drop(events);
    two.finish(RunStatus::Failed);
    let mut events = server
        .events("/api/stream?topics=runs", Some(&new.id))
        .await;
    // The first may come of a walk in front of the end.
    let ended = loop {
        let told = events.next(&["runs"]).await.unwrap();
        assert_eq!(told.data["full"], false);
        if told.data["changed"] != json!([]) {
            break told;
        }
    };
    assert_eq!(ended.data["changed"][0]["status"], "failed");
    // Who has missed nothing hears so at once, and again while nothing happens.
    drop(events);
    let mut events = server
        .events("/api/stream?topics=runs", Some(&ended.id))
        .await;
    for _ in 0..2 {
        let still = events.next(&["runs"]).await.unwrap();
        assert_eq!((&still.data["full"], &still.id), (&json!(false), &ended.id));
        assert_eq!(still.data["changed"], json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_streamed_is_refused_by_its_name() {
    let sandbox = Sandbox::new();
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let server = Server::start(&sandbox).await;
    let key = keys(&server).await["one"].clone();
    let many: Vec<String> = (0..11).map(|n| format!("{n:016x}")).collect();
    for (path, word) in [
        ("/api/stream?runs=0000000000000000".to_owned(), "this run"),
        ("/api/stream?topics=weather".to_owned(), "weather"),
        (
            format!("/api/stream?runs={}", many.join(",")),
            "more than 10",
        ),
        (format!("/api/runs/{key}/stream?topics=runs"), "/api/stream"),
        ("/api/stream?topics=runs&columns=loss".to_owned(), "loss"),
    ] {
        let mut socket = server.ask(&path, "connection: close\r\n").await;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert!(
            text.starts_with("HTTP/1.1 4") && text.contains(word),
            "{path}: {text}"
        );
    }
    // A place that is none: the client is told to fetch anew.
    let mut events = server
        .events(
            &format!("/api/stream?runs={key}&cursor={key}:nonsense"),
            None,
        )
        .await;
    let reset = events.next(&["reset"]).await.unwrap();
    assert_eq!(reset.data["run"], json!(key));
}
