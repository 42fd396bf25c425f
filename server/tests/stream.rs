//! Event streams over a real socket.

mod common;

use std::time::{Duration, Instant};

use common::sse::{Events, PATIENCE, Server};
use common::{LiveRun, Sandbox};
use expman_model::record::Stream;
use expman_model::{Param, RecordBody, RunStatus, Value};
use serde_json::Value as Json;
use tokio::io::AsyncReadExt;

fn log(run: &mut LiveRun, steps: std::ops::Range<i64>) {
    for step in steps {
        run.metric(0, "loss", Some(step), Value::Float(0.5));
    }
    run.commit();
}

#[tokio::test]
async fn a_point_is_streamed_within_a_second_and_the_series_is_continued_without_a_gap() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    log(&mut run, 0..10);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let answer = server
        .json(&format!("/api/runs/{key}/metrics?max_points=1000"))
        .await;
    assert_eq!(answer["series"][0]["n"], 10);
    // Logged between the answer and the stream: the cursor must not lose it.
    log(&mut run, 10..13);
    let mut events = server
        .open(
            &key,
            &format!("?cursor={}", answer["cursor"].as_str().unwrap()),
            None,
        )
        .await;
    assert_eq!(events.steps_until(12).await.0, [10, 11, 12]);
    tokio::time::sleep(Duration::from_millis(700)).await;
    log(&mut run, 13..14);
    // How long a disk takes to sync is not this test's business.
    let started = Instant::now();
    assert_eq!(events.steps_until(13).await.0, [13]);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_cut_stream_goes_on_behind_its_last_event_over_seals_and_the_end_of_the_run() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let mut events = server.open(&key, "?topics=metrics", None).await;
    let (mut all, mut id, mut next) = (Vec::new(), String::new(), 0);
    for round in 0..6 {
        log(&mut run, next..next + 20);
        if round % 2 == 1 {
            run.publish();
        }
        let (steps, last) = events.steps_until(next + 19).await;
        all.extend(steps);
        id = last;
        next += 20;
        drop(events);
        log(&mut run, next..next + 5);
        next += 5;
        events = server.open(&key, "?topics=metrics", Some(&id)).await;
        all.extend(events.steps_until(next - 1).await.0);
    }
    log(&mut run, next..next + 3);
    run.finish(RunStatus::Finished);
    all.extend(events.steps_until(next + 2).await.0);
    assert_eq!(all, (0..next + 3).collect::<Vec<_>>());
    drop(events);
    let mut again = server.open(&key, "?topics=metrics,state", Some(&id)).await;
    // The server may have looked last before the run ended; then it tells of the end within a second.
    while again.next(&["state"]).await.unwrap().data["status"] != "finished" {}
}

#[tokio::test]
async fn lines_and_states_are_streamed_too() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 2);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let mut events = server.open(&key, "?topics=logs,state", None).await;
    let first = events.next(&["state"]).await.unwrap();
    assert_eq!(
        (first.data["status"].as_str(), first.data["live"].as_bool()),
        (Some("running"), Some(true))
    );
    assert_eq!(first.data["ranks"].as_object().unwrap().len(), 2);
    run.line(
        1,
        Stream::Err,
        b"\x1b[31mevent: reset\r\n\ndata: {}\n\nid: 1",
    );
    run.metric(0, "m", None, Value::Int(1));
    run.commit();
    let lines = events.next(&["logs", "metrics", "reset"]).await.unwrap();
    assert_eq!(
        (lines.name.as_str(), lines.data["file"].as_str()),
        ("logs", Some("console"))
    );
    assert_eq!(
        lines.data["lines"][0]["text"],
        "\u{1b}[31mevent: reset\r\n\ndata: {}\n\nid: 1"
    );
    run.finish(RunStatus::Failed);
    loop {
        let state = events.next(&["state", "reset"]).await.unwrap();
        assert_eq!(state.name, "state");
        if state.data["live"] == false && state.data["status"] == "failed" {
            break;
        }
    }
}

#[tokio::test]
async fn parameters_and_artifacts_that_come_while_a_page_is_open_are_told_of() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let now = server.json(&format!("/api/runs/{key}")).await["stamps"].clone();
    let mut events = server.open(&key, "?topics=state", None).await;
    assert_eq!(
        events.next(&["state"]).await.unwrap().data["stamps"],
        now,
        "nothing changed between the answer and the stream"
    );
    let params = Param::Map(vec![("lr".into(), Param::Float(0.1))]);
    run.log(0, RecordBody::Params(params));
    run.commit();
    let changed = async |events: &mut Events, part: &str, old: &Json| loop {
        let state = events.next(&["state"]).await.unwrap().data;
        if state["stamps"][part] != old[part] {
            break state["stamps"].clone();
        }
    };
    let then = changed(&mut events, "config", &now).await;
    assert_eq!(then["artifacts"], now["artifacts"]);
    let config = server.json(&format!("/api/runs/{key}/config")).await;
    assert_eq!(config, serde_json::json!({"lr": 0.1}));
    common::write(&run.dir.artifacts().join("deep/er.txt"), b"text");
    let last = changed(&mut events, "artifacts", &then).await;
    assert_eq!(last["config"], then["config"]);
    let list = server.json(&format!("/api/runs/{key}/artifacts")).await;
    assert_eq!(list[0]["name"], "deep/er.txt");
}

#[tokio::test]
async fn a_foreign_or_broken_cursor_is_answered_with_reset_and_a_good_one() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    log(&mut run, 0..5);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let now = server
        .json(&format!("/api/runs/{key}/metrics?max_points=10"))
        .await["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let parts: Vec<u64> = now.split('-').map(|p| p.parse().unwrap()).collect();
    let other = |epoch: u64, rows: u64| format!("{epoch}-{rows}-{}-{}", parts[2], parts[3]);
    let bad = [
        other(parts[0] ^ 1, 5),
        other(parts[0], 6),
        other(parts[0], 4),
        "garbage".into(),
        String::new(),
        "1-2-3".into(),
    ];
    for id in bad {
        let mut events = server.open(&key, "", Some(&id)).await;
        let reset = events.next(&["reset", "metrics"]).await.unwrap();
        assert_eq!(
            (reset.name.as_str(), reset.id.as_str()),
            ("reset", now.as_str()),
            "{id}"
        );
        assert_eq!(reset.data["cursor"], now.as_str());
        assert!(
            events.next(&["metrics", "reset"]).await.is_none(),
            "the stream ends"
        );
    }
    let mut good = server.open(&key, "", Some(&now)).await;
    log(&mut run, 5..6);
    assert_eq!(good.steps_until(5).await.0, [5]);
}

#[tokio::test]
async fn a_folder_that_another_run_took_is_started_over() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    log(&mut run, 0..5);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let path = format!("/api/runs/{key}/metrics?max_points=10");
    let before = server.json(&path).await["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut events = server.open(&key, "", Some(&before)).await;
    run.abandon();
    std::fs::remove_dir_all(sandbox.base.path().join("exp/one")).unwrap();
    let mut run = sandbox.run("exp", "one", 1);
    log(&mut run, 100..103);
    let reset = events.next(&["reset", "metrics"]).await.unwrap();
    assert_eq!(reset.name, "reset");
    let started = Instant::now();
    // The reset may come before the new run's rows were read.
    loop {
        let answer = server.json(&path).await;
        if answer["series"][0]["steps"] == serde_json::json!([100, 101, 102]) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_read_for_a_while_costs_no_row() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    log(&mut run, 0..5);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let path = format!("/api/runs/{key}/metrics?max_points=10");
    assert_eq!(server.json(&path).await["series"][0]["n"], 5);
    let mut events = server.open(&key, "?topics=state", None).await;
    run.publish();
    let (file, away) = (run.dir.metrics(), run.dir.root().join("away"));
    std::fs::rename(&file, &away).unwrap();
    log(&mut run, 5..8);
    // Followed by its log, a live run needs the file only now and then; its record says that it is missing.
    loop {
        let state = events.next(&["state"]).await.unwrap();
        if state.data["problem"]
            .as_str()
            .is_some_and(|p| p.contains("metrics.parquet"))
        {
            break;
        }
    }
    std::fs::rename(&away, &file).unwrap();
    log(&mut run, 8..10);
    run.finish(RunStatus::Finished);
    loop {
        let state = events.next(&["state", "reset"]).await.unwrap();
        if state.name == "reset"
            || state.data["status"] == "finished" && state.data["problem"].is_null()
        {
            break;
        }
    }
    let series = &server.json(&path).await["series"][0];
    assert_eq!(
        (
            series["n"].as_u64(),
            series["counts"].as_array().unwrap().len()
        ),
        (Some(10), 10)
    );
}

#[tokio::test]
async fn a_hundred_readers_of_one_run_all_see_every_row() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let mut readers = Vec::new();
    for _ in 0..100 {
        readers.push(server.open(&key, "?topics=metrics,state", None).await);
        // Counted as here once it got its first word.
        readers.last_mut().unwrap().next(&["state"]).await.unwrap();
    }
    let mut tasks: Vec<_> = readers
        .into_iter()
        .map(|mut r| tokio::spawn(async move { r.steps_until(199).await.0 }))
        .collect();
    for n in 0..10 {
        log(&mut run, n * 20..(n + 1) * 20);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for task in tasks.drain(..) {
        assert_eq!(task.await.unwrap(), (0..200).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_freed_places_are_given_again() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("exp", "one", 1);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(server.open(&key, "?topics=metrics", None).await);
    }
    let refused = async || {
        let mut socket = server
            .ask(&format!("/api/runs/{key}/stream"), "connection: close\r\n")
            .await;
        let mut text = [0; 12];
        socket.read_exact(&mut text).await.unwrap();
        text == *b"HTTP/1.1 503"
    };
    assert!(refused().await);
    open.pop();
    let started = Instant::now();
    while refused().await {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.abandon();
}

#[tokio::test]
async fn stopping_the_server_ends_its_streams_at_once() {
    let sandbox = Sandbox::new();
    let _run = sandbox.run("exp", "one", 1);
    let mut server = Server::start(&sandbox).await;
    let key = server.key().await;
    let mut events = server.open(&key, "", None).await;
    events.next(&["state"]).await.unwrap();
    let started = Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    assert!(events.next(&["metrics"]).await.is_none());
    server.done.await.unwrap().unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn only_the_points_of_metrics_that_were_asked_for_are_streamed() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "r", 1);
    let server = Server::start(&sandbox).await;
    let key = server.key().await;
    let answer = server.json(&format!("/api/runs/{key}/series?keys=a")).await;
    let cursor = answer["cursor"].as_str().unwrap();
    let query = format!("?topics=metrics&keys=b%5C%2Cc&cursor={cursor}");
    let mut events = server.open(&key, &query, None).await;
    for step in 0..3 {
        run.metric(0, "a", Some(step), Value::Int(1));
        run.metric(0, "b,c", Some(step), Value::Int(step));
        run.commit();
    }
    let (steps, _) = events.steps_until(2).await;
    assert_eq!(steps, [0, 1, 2]);
}
