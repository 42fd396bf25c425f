//! What the API answers about real runs, good and broken ones.

mod common;

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use common::{HOST, Sandbox, get, key, ok, send, write};
use expman_model::record::Stream;
use expman_model::{Level, Param, Point, RecordBody, RunStatus, Value};
use parquet::arrow::ArrowWriter;
use serde_json::json;

#[tokio::test]
async fn an_empty_or_missing_folder_has_no_runs() {
    let sandbox = Sandbox::new();
    let missing = expman_server::ServeConfig {
        base_dir: sandbox.base.path().join("none"),
        ..sandbox.config()
    };
    for app in [sandbox.app(), expman_server::app(missing, 8000).unwrap()] {
        assert_eq!(ok(&app, "/api/runs").await, json!([]));
        assert_eq!(ok(&app, "/api/experiments").await, json!([]));
    }
    let health = ok(&sandbox.app(), "/api/health").await;
    assert_eq!(
        (&health["status"], &health["live"]),
        (&json!("ok"), &json!(true))
    );
}

#[tokio::test]
async fn a_finished_run_is_listed_with_its_ranks_and_counts() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 3);
    for rank in 0..3 {
        run.metric(rank, "loss", Some(1), Value::Float(0.5));
    }
    run.log(
        0,
        RecordBody::Scalar(Point::new("best", Value::Float(f64::NAN))),
    );
    run.finish(RunStatus::Finished);
    let app = sandbox.app();
    let runs = ok(&app, "/api/runs").await;
    let run = &runs[0];
    assert_eq!(run["id"], "exp/one");
    assert_eq!(run["status"], "finished");
    assert_eq!(run["live"], false);
    assert_eq!(run["ranks"], json!({"live": 0, "left": 3, "lost": 0}));
    assert_eq!(
        (&run["rows"], &run["dropped"], &run["world_size"]),
        (&json!(3), &json!(0), &json!(3))
    );
    assert_eq!(run["scalars"], json!({"best": "NaN"}));
    assert_eq!(run["tags"], json!(["test"]));
    assert_eq!(run["problem"], json!(null));
    assert_eq!(ok(&app, "/api/runs?experiment=other").await, json!([]));
    assert_eq!(ok(&app, "/api/experiments").await[0]["runs"], 1);
    let key = key(&app, "one").await;
    let detail = ok(&app, &format!("/api/runs/{key}")).await;
    assert_eq!(detail["ranks"]["2"][0]["host"], "host");
    assert_eq!(detail["metrics"]["loss"]["count"], 3);
    assert_eq!(detail["key"], key.as_str());
    assert!(detail["format"].is_number() && detail["run_id"].is_string());
    assert!(
        ok(&app, &format!("/api/runs/{key}/stats")).await["bytes"]["metrics"]
            .as_u64()
            .unwrap()
            > 0
    );
}

#[tokio::test]
async fn a_run_is_live_only_while_its_owner_holds_it() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("exp", "live", 1);
    assert_eq!(ok(&sandbox.app(), "/api/runs").await[0]["live"], true);
    run.abandon();
    let runs = ok(&sandbox.app(), "/api/runs").await;
    assert_eq!(
        (&runs[0]["live"], &runs[0]["status"]),
        (&json!(false), &json!("crashed"))
    );
    assert_eq!(runs[0]["ranks"], json!({"live": 0, "left": 0, "lost": 1}));
    let detail = ok(
        &sandbox.app(),
        &format!("/api/runs/{}", runs[0]["key"].as_str().unwrap()),
    )
    .await;
    assert_eq!(detail["ranks"]["0"][0]["state"], "lost");
}

#[tokio::test]
async fn values_come_back_exact_while_the_run_is_written_and_after() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "types", 2);
    let values = [
        (Value::Float(0.1), json!(0.1)),
        (Value::Float(1.0), json!(1.0)),
        (Value::Float(f64::NAN), json!("NaN")),
        (Value::Float(f64::INFINITY), json!("inf")),
        (Value::Float(f64::NEG_INFINITY), json!("-inf")),
        (Value::Int(i64::MIN), json!(i64::MIN)),
        (Value::Int((1 << 53) + 1), json!((1_i64 << 53) + 1)),
        (Value::Bool(true), json!(true)),
    ];
    for (step, (value, _)) in (0..).zip(&values) {
        run.metric(1, "x", Some(step), value.clone());
    }
    run.metric(1, "x", None, Value::Text("NaN".into()));
    run.commit();
    let app = sandbox.app();
    let path = format!("/api/runs/{}/metrics", key(&app, "types").await);
    let live = ok(&app, &path).await;
    let [numbers, texts] = live["series"].as_array().unwrap().as_slice() else {
        panic!("{live}")
    };
    assert_eq!(
        numbers["values"],
        json!(values.iter().map(|v| v.1.clone()).collect::<Vec<_>>())
    );
    assert_eq!(numbers["steps"], json!([0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(
        (&numbers["rank"], &numbers["kind"], &numbers["n"]),
        (&json!(1), &json!("number"), &json!(8))
    );
    assert_eq!(
        (&texts["kind"], &texts["values"], &texts["steps"]),
        (&json!("text"), &json!(["NaN"]), &json!([null]))
    );
    run.finish(RunStatus::Finished);
    assert_eq!(ok(&app, &path).await["series"], live["series"]);
}

#[tokio::test]
async fn metrics_are_filtered_by_step_rank_and_key() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "filter", 3);
    for step in 0..10 {
        for rank in 0..3 {
            run.metric(rank, "a", Some(step), Value::Int(step));
            run.metric(rank, "b,c", Some(step), Value::Int(-step));
        }
    }
    run.commit();
    let app = sandbox.app();
    let base = format!("/api/runs/{}/metrics", key(&app, "filter").await);
    let shape = async |query: &str| {
        let answer = ok(&app, &format!("{base}?{query}")).await;
        let series = answer["series"].as_array().unwrap().clone();
        series
            .iter()
            .map(|s| {
                (
                    s["key"].as_str().unwrap().to_owned(),
                    s["rank"].as_u64().unwrap(),
                    s["n"].as_u64().unwrap(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(shape("").await.len(), 6);
    assert_eq!(shape("rank=1&keys=a").await, [("a".into(), 1, 10)]);
    assert_eq!(
        shape("rank=1&keys=a&since_step=7").await,
        [("a".into(), 1, 3)]
    );
    assert_eq!(
        shape("keys=b%5C%2Cc&rank=0,2").await,
        [("b,c".into(), 0, 10), ("b,c".into(), 2, 10)]
    );
    assert_eq!(
        shape("keys=a&rank=2&max_points=4").await,
        [("a".into(), 2, 10)]
    );
    for bad in [
        "rank=x",
        "rank=-1",
        "max_points=0",
        "max_points=1000000",
        "since_step=1.5",
    ] {
        assert_eq!(
            get(&app, &format!("{base}?{bad}")).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
    let keys = ok(&app, &base.replace("/metrics", "/keys")).await;
    assert_eq!(
        keys[0],
        json!({
            "key": "a", "ranks": [0, 1, 2], "points": 30, "last_step": 9,
            "kind": "number", "first": 1_767_225_600_000_001_i64
        })
    );
}

#[tokio::test]
async fn buckets_share_one_grid_and_never_hide_a_spike() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "spike", 2);
    for step in 0..5000 {
        run.metric(
            0,
            "loss",
            Some(step),
            Value::Float(if step == 3333 { 99.0 } else { 1.0 }),
        );
        if step % 7 == 0 {
            run.metric(1, "loss", Some(step), Value::Float(2.0));
        }
    }
    run.metric(1, "loss", Some(5000), Value::Float(f64::NAN));
    run.commit();
    let app = sandbox.app();
    let path = format!(
        "/api/runs/{}/metrics?max_points=100",
        key(&app, "spike").await
    );
    // From what is followed, and from the files (a filter by step is never in memory).
    for path in [path.clone(), format!("{path}&since_step=0")] {
        let answer = ok(&app, &path).await;
        assert_eq!(answer["bucket"], 64);
        for series in answer["series"].as_array().unwrap() {
            let steps = series["steps"].as_array().unwrap();
            assert!(steps.len() <= 100 && steps.iter().all(|s| s.as_i64().unwrap() % 64 == 0));
        }
        let spiky = &answer["series"][0];
        let at = spiky["steps"]
            .as_array()
            .unwrap()
            .iter()
            .position(|s| *s == 3333 / 64 * 64)
            .unwrap();
        assert_eq!(
            (&spiky["max"][at], &spiky["min"][at], &spiky["counts"][at]),
            (&json!(99.0), &json!(1.0), &json!(64))
        );
        assert_eq!(
            (
                &answer["series"][1]["non_finite"],
                &answer["series"][1]["n"]
            ),
            (&json!(1), &json!(716))
        );
    }
}

#[tokio::test]
async fn a_broken_run_is_told_of_and_hides_no_other() {
    let sandbox = Sandbox::new();
    let mut good = sandbox.run("exp", "good", 1);
    good.metric(0, "m", Some(1), Value::Int(1));
    good.finish(RunStatus::Finished);
    for name in ["no-footer", "bad-yaml", "no-parquet"] {
        let mut run = sandbox.run("exp", name, 1);
        run.metric(0, "m", Some(1), Value::Int(1));
        run.finish(RunStatus::Finished);
    }
    let dir = sandbox.base.path().join("exp");
    let whole = std::fs::read(dir.join("no-footer/metrics.parquet")).unwrap();
    write(
        &dir.join("no-footer/metrics.parquet"),
        &whole[..whole.len() / 2],
    );
    write(&dir.join("bad-yaml/run.yaml"), b"status: [finished\n  : :");
    std::fs::remove_file(dir.join("no-parquet/metrics.parquet")).unwrap();
    write(&sandbox.base.path().join("exp/not-a-run/readme.txt"), b"x");
    let app = sandbox.app();
    let runs = ok(&app, "/api/runs").await;
    assert_eq!(runs.as_array().unwrap().len(), 4);
    for run in runs.as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        let problem = run["problem"].as_str().unwrap_or_default();
        assert_eq!(
            problem.is_empty(),
            !matches!(name, "bad-yaml" | "no-parquet"),
            "{run}"
        );
        let metrics = format!("/api/runs/{}/metrics", run["key"].as_str().unwrap());
        for path in [metrics.clone(), format!("{metrics}?max_points=100")] {
            let (status, answer) = get(&app, &path).await;
            let readable = matches!(name, "good" | "bad-yaml");
            assert_eq!(status.is_success(), readable, "{name}: {answer}");
            assert!(
                readable || answer["error"].as_str().unwrap().contains(name),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn a_run_of_expman_rs_is_served_like_our_own() {
    let sandbox = Sandbox::new();
    let dir = sandbox.base.path().join("old/run");
    write(
        &dir.join("run.yaml"),
        b"name: run\nexperiment: old\nstatus: FINISHED\n",
    );
    write(
        &dir.join("run.log"),
        b"[2026-01-01T00:00:00.000Z] [INFO] hello\n",
    );
    let times = TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 3] = [
        ("timestamp", Arc::new(times)),
        (
            "step",
            Arc::new(Int64Array::from(vec![Some(1), Some(2), None])),
        ),
        (
            "loss",
            Arc::new(Float64Array::from(vec![Some(0.5), None, Some(0.25)])),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(dir.join("vectors.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let app = sandbox.app();
    let key = key(&app, "run").await;
    let detail = ok(&app, &format!("/api/runs/{key}")).await;
    assert_eq!(
        (&detail["status"], &detail["kind"], &detail["live"]),
        (&json!("finished"), &json!("expman-rs"), &json!(false))
    );
    let exact = ok(&app, &format!("/api/runs/{key}/metrics")).await;
    assert_eq!(exact["series"][0]["values"], json!([0.5, 0.25]));
    assert_eq!(exact["series"][0]["steps"], json!([1, null]));
    let chart = ok(&app, &format!("/api/runs/{key}/metrics?max_points=100")).await;
    assert_eq!(
        (&chart["series"][0]["n"], &chart["cursor"]),
        (&json!(2), &exact["cursor"])
    );
    let logs = ok(&app, &format!("/api/runs/{key}/logs?file=run")).await;
    assert!(
        logs["lines"][0]["text"].as_str().unwrap().contains("hello"),
        "{logs}"
    );
}

#[tokio::test]
async fn config_keeps_its_nesting_and_order() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "params", 1);
    let inner = Param::Map(vec![
        ("z".into(), Param::Int(1)),
        ("a".into(), Param::Text("on".into())),
    ]);
    let params = Param::Map(vec![
        ("lr".into(), Param::Float(1e-3)),
        ("model".into(), inner),
    ]);
    run.log(0, RecordBody::Params(params));
    run.commit();
    let app = sandbox.app();
    let config = ok(
        &app,
        &format!("/api/runs/{}/config", key(&app, "params").await),
    )
    .await;
    assert_eq!(
        config.to_string(),
        r#"{"lr":0.001,"model":{"z":1,"a":"on"}}"#
    );
}

#[tokio::test]
async fn logs_are_found_by_rank_stream_and_level_from_the_end_or_on_from_a_cursor() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "logs", 2);
    for n in 0..50 {
        run.line(
            n % 2,
            if n % 10 == 0 {
                Stream::Err
            } else {
                Stream::Out
            },
            format!("line {n}").as_bytes(),
        );
    }
    run.line(1, Stream::Out, b"two\nlines \xff");
    run.message(0, Level::INFO, "quiet");
    run.message(1, Level::ERROR, "loud");
    run.commit();
    let app = sandbox.app();
    let base = format!("/api/runs/{}/logs", key(&app, "logs").await);
    let texts = async |query: &str| {
        let answer = ok(&app, &format!("{base}?{query}")).await;
        answer["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["text"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts("file=console&tail=2").await,
        ["line 49", "two\nlines \u{fffd}"]
    );
    assert_eq!(texts("file=console&stream=err").await.len(), 5);
    assert_eq!(texts("file=console&rank=1&stream=err").await.len(), 0);
    assert_eq!(texts("file=console&rank=0").await.len(), 25);
    assert_eq!(texts("file=run").await, ["quiet", "loud"]);
    assert_eq!(texts("level=warn").await, ["loud"]);
    let cursor = ok(&app, &format!("{base}?file=console&tail=1")).await["cursor"]
        .as_u64()
        .unwrap();
    assert_eq!(
        texts(&format!("file=console&after={cursor}")).await,
        Vec::<String>::new()
    );
    run.line(0, Stream::Out, b"later");
    run.commit();
    assert_eq!(
        texts(&format!("file=console&after={cursor}")).await,
        ["later"]
    );
    let line = &ok(&app, &format!("{base}?file=console&tail=1")).await["lines"][0];
    assert_eq!(
        (&line["rank"], &line["stream"], &line["at"]),
        (&json!(0), &json!("out"), &json!(cursor))
    );
    assert!(
        line["t"]
            .as_str()
            .unwrap()
            .starts_with("2026-01-01T00:00:00.0000"),
        "{line}"
    );
    for bad in [
        "file=../../etc/passwd",
        "file=%2fetc%2fpasswd",
        "level=nonsense",
        "tail=-1",
        "after=x",
    ] {
        assert_eq!(
            get(&app, &format!("{base}?{bad}")).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn events_are_told_with_what_is_malformed_among_them() {
    let sandbox = Sandbox::new();
    let run = sandbox.run("exp", "events", 1);
    let path = run.dir.events();
    run.finish(RunStatus::Finished);
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"{broken\n");
    write(&path, &text);
    let app = sandbox.app();
    let base = format!("/api/runs/{}/events", key(&app, "events").await);
    let all = ok(&app, &base).await;
    let events = all["events"].as_array().unwrap();
    assert_eq!(events[0]["type"], "run_started");
    assert_eq!(all["malformed"][0]["line"], events.len() + 1);
    let after = ok(
        &app,
        &format!("{base}?after={}", events[0]["id"].as_str().unwrap()),
    )
    .await;
    assert_eq!(after["events"].as_array().unwrap().len(), events.len() - 1);
}

#[tokio::test]
async fn artifacts_are_listed_and_fetched_by_key_as_downloads() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "art", 1);
    let dir = run.dir.artifacts();
    write(&dir.join("model/w.bin"), &vec![7; 600_000]);
    write(&dir.join("page.html"), b"<script>alert(1)</script>");
    write(&sandbox.base.path().join("exp/art/secret.txt"), b"canary");
    std::os::unix::fs::symlink("../secret.txt", dir.join("link.txt")).unwrap();
    run.log(
        0,
        RecordBody::Artifact {
            name: "page.html".into(),
            size: 25,
            hash: "abc".into(),
        },
    );
    run.finish(RunStatus::Finished);
    let app = sandbox.app();
    let base = format!("/api/runs/{}/artifacts", key(&app, "art").await);
    let list = ok(&app, &base).await;
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["page.html", "model/w.bin"]);
    assert_eq!(
        (&list[0]["hash"], &list[1]["size"]),
        (&json!("abc"), &json!(600_000))
    );
    let key = |n: usize| list[n]["key"].as_str().unwrap();
    let ask = |key: &str| {
        Request::get(format!("{base}/{key}/content"))
            .header("host", HOST)
            .body(Body::empty())
            .unwrap()
    };
    let (status, headers, body) = send(&app, ask(key(0))).await;
    assert_eq!(
        (status, body.as_slice()),
        (StatusCode::OK, b"<script>alert(1)</script>".as_slice())
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
    assert!(
        headers[header::CONTENT_DISPOSITION]
            .to_str()
            .unwrap()
            .starts_with("attachment;")
    );
    let (_, headers, body) = send(&app, ask(key(1))).await;
    assert_eq!(
        (body.len(), &headers[header::CONTENT_LENGTH]),
        (600_000, &"600000".parse().unwrap())
    );
    for n in [
        "0",
        "-1",
        "",
        "page.html",
        "link.txt",
        "..%2fsecret.txt",
        "0000000000000000",
    ] {
        assert_eq!(send(&app, ask(n)).await.0, StatusCode::NOT_FOUND, "{n}");
    }
    // What comes later, and what is half written, changes nothing about the links of a page that is open.
    let first = key(1);
    write(&dir.join("a-new-one.txt"), b"new");
    write(&dir.join(".0000-1111.tmp"), b"half");
    assert_eq!(ok(&app, &base).await.as_array().unwrap().len(), 3);
    assert_eq!(send(&app, ask(first)).await.2.len(), 600_000);
}

#[tokio::test]
async fn without_live_updates_there_is_no_stream_and_the_rest_works() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "still", 1);
    run.metric(0, "m", Some(1), Value::Float(1.5));
    run.commit();
    let app = expman_server::app(
        expman_server::ServeConfig {
            live: false,
            ..sandbox.config()
        },
        8000,
    )
    .unwrap();
    let key = key(&app, "still").await;
    assert_eq!(
        get(&app, &format!("/api/runs/{key}/stream")).await.0,
        StatusCode::NOT_FOUND
    );
    let metrics = ok(&app, &format!("/api/runs/{key}/metrics?max_points=10")).await;
    assert_eq!(metrics["series"][0]["values"], json!([1.5]));
    assert_eq!(ok(&app, "/api/health").await["live"], false);
}

#[tokio::test]
async fn the_page_is_served_or_its_absence_is_explained() {
    let app = Sandbox::new().app();
    let ask = |path: &str, extra: &[(&str, &str)]| {
        let request = Request::get(path).header("host", HOST);
        extra
            .iter()
            .fold(request, |r, (name, value)| r.header(*name, *value))
            .body(Body::empty())
            .unwrap()
    };
    let (status, headers, body) = send(&app, ask("/", &[])).await;
    assert_eq!(
        (status, &headers[header::CACHE_CONTROL]),
        (StatusCode::OK, &"no-cache".parse().unwrap())
    );
    let text = String::from_utf8(body).unwrap();
    if !expman_server::has_dashboard() {
        assert!(text.contains("npm run build"), "{text}");
        return;
    }
    let tag = headers[header::ETAG].to_str().unwrap();
    assert_eq!(
        send(&app, ask("/", &[("if-none-match", tag)])).await.0,
        StatusCode::NOT_MODIFIED
    );
    let script = text
        .split('"')
        .find(|part| part.rsplit('.').next() == Some("js"))
        .unwrap()
        .trim_start_matches('.');
    let (status, headers, plain) = send(&app, ask(script, &[])).await;
    assert_eq!(
        (status, &headers[header::CONTENT_TYPE]),
        (
            StatusCode::OK,
            &"text/javascript; charset=utf-8".parse().unwrap()
        )
    );
    assert!(
        headers[header::CACHE_CONTROL]
            .to_str()
            .unwrap()
            .contains("immutable")
    );
    let (_, headers, small) = send(&app, ask(script, &[("accept-encoding", "gzip, br")])).await;
    assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
    assert!(small.len() < plain.len() / 2);
    assert_eq!(
        send(&app, ask("/nothing.js", &[])).await.0,
        StatusCode::NOT_FOUND
    );
}
