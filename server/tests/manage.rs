//! The list of runs as it changes, and what can be changed by way of the API.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use common::{HOST, Sandbox, get, key, ok, send, write};
use expman_model::record::Stream;
use expman_model::{Level, Param, Point, RecordBody, RunStatus, Value};
use expman_server::{ServeConfig, app};
use serde_json::{Value as Json, json};

async fn patch(app: &Router, path: &str, body: &str) -> (StatusCode, Json) {
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(path)
        .header("host", HOST)
        .header("x-expman", "1")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let (status, _, body) = send(app, request).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// The walk is believed for a second: asks until it has the answer.
async fn changes(app: &Router, since: &str) -> Json {
    for _ in 0..50 {
        let now = ok(app, &format!("/api/runs?since={since}")).await;
        if now["changed"] != json!([]) || now["removed"] != json!([]) {
            return now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("nothing changed");
}

#[tokio::test]
async fn a_client_learns_what_changed_since_its_version_and_nothing_else() {
    let sandbox = Sandbox::new();
    for name in ["one", "two"] {
        sandbox.run("exp", name, 1).finish(RunStatus::Finished);
    }
    let app = sandbox.app();
    let all = ok(&app, "/api/runs?since=").await;
    assert_eq!(
        (
            &all["full"],
            all["changed"].as_array().unwrap().len(),
            &all["total"]
        ),
        (&json!(true), 2, &json!(2))
    );
    let version = all["version"].as_str().unwrap().to_owned();
    let same = ok(&app, &format!("/api/runs?since={version}")).await;
    assert_eq!(
        (&same["full"], &same["changed"], &same["removed"]),
        (&json!(false), &json!([]), &json!([]))
    );
    let live = sandbox.run("exp", "three", 2);
    let new = changes(&app, &version).await;
    assert_eq!(new["changed"][0]["name"], "three");
    assert_eq!(new["changed"].as_array().unwrap().len(), 1);
    assert_eq!(new["changed"][0]["live"], true);
    let version = new["version"].as_str().unwrap().to_owned();
    // Nothing is written when an owner is killed: the list still learns of it.
    live.abandon();
    let dead = changes(&app, &version).await;
    assert_eq!(dead["changed"][0]["live"], false);
    let version = dead["version"].as_str().unwrap().to_owned();
    let gone = key(&app, "one").await;
    std::fs::remove_dir_all(sandbox.base.path().join("exp/one")).unwrap();
    assert_eq!(changes(&app, &version).await["removed"], json!([gone]));
    // A version of another server, or none at all, brings everything.
    for version in ["1-1", "x", "9-99999999999999999999", ""] {
        let all = ok(&app, &format!("/api/runs?since={version}")).await;
        assert_eq!((&all["full"], &all["total"]), (&json!(true), &json!(2)));
    }
}

#[tokio::test]
async fn columns_show_metrics_scalars_and_parameters() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    for (step, x) in [(0, 3.0), (1, 1.0), (2, 2.0)] {
        run.metric(0, "loss, all", Some(step), Value::Float(x));
    }
    run.log(
        0,
        RecordBody::Scalar(Point::new("acc", Value::Float(f64::NAN))),
    );
    let params = Param::Map(vec![(
        "optimizer".into(),
        Param::Map(vec![("lr".into(), Param::Float(0.1))]),
    )]);
    expman_storage::yaml::write(&run.dir.config(), &params).unwrap();
    run.commit();
    sandbox.run("exp", "bare", 1).finish(RunStatus::Finished);
    let app = sandbox.app();
    let asked = r"metric:loss\,%20all,min:loss\,%20all,max:loss\,%20all,scalar:acc,param:optimizer.lr,metric:none";
    let found = ok(&app, &format!("/api/runs?columns={asked}")).await;
    let of = |name: &str| {
        let runs = found["changed"].as_array().unwrap().iter();
        runs.clone().find(|run| run["name"] == name).unwrap()["columns"].clone()
    };
    assert_eq!(
        of("one"),
        json!({
            "metric:loss, all": 2.0, "min:loss, all": 1.0, "max:loss, all": 3.0,
            "scalar:acc": "NaN", "param:optimizer.lr": 0.1,
        })
    );
    assert_eq!(of("bare"), json!({}));
    let names = ok(&app, "/api/columns").await;
    assert_eq!(
        names,
        json!({"metrics": ["loss, all"], "scalars": ["acc"], "params": ["optimizer.lr"], "more": false})
    );
    let (status, answer) = get(&app, "/api/runs?columns=loss").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["error"].as_str().unwrap().contains("\"loss\""),
        "{answer}"
    );
}

#[tokio::test]
async fn names_and_tags_are_edited_whoever_owns_the_run() {
    let sandbox = Sandbox::new();
    let mut live = sandbox.run("exp", "live", 1);
    sandbox.run("exp", "done", 1).finish(RunStatus::Finished);
    let app = sandbox.app();
    for name in ["live", "done"] {
        let path = format!("/api/runs/{}", key(&app, name).await);
        let body = r#"{"display_name": "the best", "tags": ["a", "b"], "description": "x\ny"}"#;
        let (status, line) = patch(&app, &path, body).await;
        assert_eq!(status, StatusCode::OK, "{line}");
        assert_eq!(
            (&line["display_name"], &line["tags"], &line["description"]),
            (&json!("the best"), &json!(["a", "b"]), &json!("x\ny")),
            "{name}"
        );
        let detail = ok(&app, &path).await;
        assert_eq!(detail["display_name"], "the best", "{name}");
    }
    // The owner takes it in, and keeps it.
    live.metric(0, "x", Some(1), Value::Float(1.0));
    live.commit();
    live.finish(RunStatus::Finished);
    let text = std::fs::read_to_string(sandbox.base.path().join("exp/live/run.yaml")).unwrap();
    assert!(text.contains("the best"), "{text}");
    let edits = sandbox.base.path().join("exp/live/.expman/edits");
    assert_eq!(std::fs::read_dir(edits).unwrap().count(), 0);
    let (status, meta) = patch(
        &app,
        "/api/experiments/exp",
        r#"{"description": "all of it"}"#,
    )
    .await;
    assert_eq!(
        (status, &meta["meta"]["description"]),
        (StatusCode::OK, &json!("all of it"))
    );
    assert_eq!(
        ok(&app, "/api/experiments").await[0]["description"],
        "all of it"
    );
}

#[tokio::test]
async fn bad_edits_are_named_and_change_nothing() {
    let sandbox = Sandbox::new();
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let app = sandbox.app();
    let key = key(&app, "one").await;
    let path = format!("/api/runs/{key}");
    let before = ok(&app, &path).await["tags"].clone();
    let long = format!(r#"{{"display_name": "{}"}}"#, "x".repeat(201));
    for (body, word) in [
        (r#"{"status": "failed"}"#, "status"),
        (r#"{"tags": "a"}"#, "tags"),
        (r#"{"tags": ["\u0007"]}"#, "control"),
        (&long, "display_name"),
        ("[null, null]", "object"),
        ("{", "JSON"),
        ("", "JSON"),
    ] {
        let (status, answer) = patch(&app, &path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let text = answer["error"].as_str().unwrap();
        assert!(
            text.contains(word) || word == "JSON" && text.contains("EOF"),
            "{body}: {text}"
        );
    }
    assert_eq!(ok(&app, &path).await["tags"], before);
    for (path, status) in [
        ("/api/runs/0000000000000000", StatusCode::NOT_FOUND),
        ("/api/experiments/none", StatusCode::NOT_FOUND),
        ("/api/experiments/..%2Fexp", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(patch(&app, path, "{}").await.0, status, "{path}");
    }
    let read_only = ServeConfig {
        read_only: true,
        ..sandbox.config()
    };
    let app = expman_server::app(read_only, 8000).unwrap();
    let (status, answer) = patch(&app, &path, r#"{"tags": []}"#).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        answer["error"].as_str().unwrap().contains("read"),
        "{answer}"
    );
    assert_eq!(ok(&app, "/api/health").await["read_only"], true);
}

#[tokio::test]
async fn a_run_of_another_tool_is_not_written() {
    let sandbox = Sandbox::new();
    write(
        &sandbox.base.path().join("exp/old/run.yaml"),
        b"name: old\nstatus: FINISHED\n",
    );
    let app = sandbox.app();
    let path = format!("/api/runs/{}", key(&app, "old").await);
    let (status, answer) = patch(&app, &path, r#"{"tags": ["a"]}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(answer["error"].as_str().unwrap().contains("another tool"));
}

#[tokio::test]
async fn everything_is_there_below_a_prefix_as_at_the_root() {
    let sandbox = Sandbox::new();
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let config = ServeConfig {
        base_path: "/hub/user-a/".to_owned(),
        ..sandbox.config()
    };
    let app = app(config, 8000).unwrap();
    for path in ["/api/runs", "/hub/user-a/api/runs"] {
        assert_eq!(ok(&app, path).await[0]["name"], "one", "{path}");
    }
    for path in ["/", "/hub/user-a/"] {
        assert_eq!(get(&app, path).await.0, StatusCode::OK, "{path}");
    }
    let request = Request::get("/hub/user-a").header("host", HOST);
    let (status, headers, _) = send(&app, request.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(headers[header::LOCATION], "/hub/user-a/");
    assert_eq!(get(&app, "/hub/other/").await.0, StatusCode::NOT_FOUND);
    for bad in ["/a b", "/../x", "/a//b", "/a?b"] {
        let config = ServeConfig {
            base_path: bad.to_owned(),
            ..sandbox.config()
        };
        assert!(expman_server::app(config, 8000).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn pages_that_may_frame_ours_are_in_the_policy() {
    let sandbox = Sandbox::new();
    let config = ServeConfig {
        embed: vec!["http://localhost:*".to_owned()],
        ..sandbox.config()
    };
    let app = app(config, 8000).unwrap();
    let request = Request::get("/").header("host", HOST);
    let (_, headers, _) = send(&app, request.body(Body::empty()).unwrap()).await;
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(
        policy.ends_with("frame-ancestors 'self' http://localhost:*"),
        "{policy}"
    );
}

#[tokio::test]
async fn lines_are_found_by_pattern_by_page_and_by_moment() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 2);
    for n in 0..3000 {
        let text = if n % 1000 == 7 {
            format!("needle {n}")
        } else {
            format!("hay {n}")
        };
        run.line(n % 2, Stream::Out, text.as_bytes());
    }
    run.message(0, Level::INFO, "a message");
    run.commit();
    let app = sandbox.app();
    let base = format!("/api/runs/{}/logs?file=console", key(&app, "one").await);
    let texts = |answer: &Json| -> Vec<String> {
        let lines = answer["lines"].as_array().unwrap().iter();
        lines
            .map(|l| l["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let found = ok(&app, &format!("{base}&grep=needle%20.*7$")).await;
    assert_eq!(texts(&found), ["needle 7", "needle 1007", "needle 2007"]);
    assert_eq!(found["more"], false);
    assert_eq!(
        texts(&ok(&app, &format!("{base}&grep=NEEDLE&ignore_case=true&rank=0")).await),
        Vec::<String>::new()
    );
    // Page by page backwards, then all of it forwards.
    let mut back = Vec::new();
    let mut before = String::new();
    loop {
        let page = ok(&app, &format!("{base}&tail=700{before}")).await;
        back.splice(0..0, texts(&page));
        if page["more"] == false {
            break;
        }
        before = format!("&before={}", page["first"]);
    }
    let all = ok(&app, &format!("{base}&after=0")).await;
    assert_eq!(back.len(), 3000);
    assert_eq!(back, texts(&all));
    // The 1500th line of each rank came 1500 µs after the start of the clock.
    let at = 1_767_225_600_000_000_i64 + 1_000;
    let around = ok(&app, &format!("{base}&around={at}&rank=1&tail=4")).await;
    let found = texts(&around);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.contains(&"hay 1997".to_owned()) && found.contains(&"hay 1999".to_owned()),
        "{found:?}"
    );
    for (query, word) in [
        ("grep=(", "grep"),
        ("rank=x", "x"),
        ("stream=both", "both"),
        ("level=loud", "loud"),
        ("after=1&before=2", "only one"),
    ] {
        let (status, answer) = get(&app, &format!("{base}&{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(answer["error"].as_str().unwrap().contains(word), "{answer}");
    }
}

#[tokio::test]
async fn how_a_run_failed_is_told_as_by_the_command() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 2);
    run.line(1, Stream::Err, b"the last words");
    run.commit();
    run.finish(RunStatus::Failed);
    let app = sandbox.app();
    let crash = ok(&app, &format!("/api/runs/{}/crash", key(&app, "one").await)).await;
    assert_eq!(crash["healthy"], false);
    let failures = crash["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2);
    let one = failures.iter().find(|f| f["rank"] == 1).unwrap();
    assert_eq!(one["lines"][0]["text"], "the last words");
}
