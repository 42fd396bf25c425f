//! Series for charts: JSON, columns of bytes, zooms and merged ranks.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::{HOST, Sandbox, get, key, ok, send, write};
use expman_model::{RunStatus, Value};
use serde_json::{Value as Json, json};

const COLUMNS: &str = "application/vnd.expman.columns";

async fn bytes(app: &Router, path: &str, accept: &str) -> (StatusCode, String, Vec<u8>) {
    let request = Request::get(path)
        .header("host", HOST)
        .header("accept", accept);
    let (status, headers, body) = send(app, request.body(Body::empty()).unwrap()).await;
    let kind = headers["content-type"].to_str().unwrap().to_owned();
    (status, kind, body)
}

/// Takes an answer in columns apart: its header, and the seven columns of each series of numbers.
fn columns(body: &[u8]) -> (Json, Vec<Vec<Vec<f64>>>) {
    let length = u32::from_le_bytes(body[..4].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&body[4..4 + length]).unwrap();
    let data = &body[(4 + length).next_multiple_of(8)..];
    let size = |json: &Json| usize::try_from(json.as_u64().unwrap()).unwrap();
    let series = header["series"].as_array().unwrap().iter();
    let numbers = series.filter(|s| s["kind"] == "number").map(|s| {
        let (at, len) = (size(&s["at"]), size(&s["len"]));
        let column = |n: usize| {
            let bytes = &data[at + n * len * 8..][..len * 8];
            bytes
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        (0..7).map(column).collect()
    });
    let numbers = numbers.collect();
    (header, numbers)
}

#[tokio::test]
async fn a_series_is_answered_as_json_and_as_columns_while_the_run_is_written_and_after() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 2);
    for step in 0..5000 {
        for rank in 0..2 {
            let value = if step == 3210 { 99.0 } else { f64::from(rank) };
            run.metric(rank, "loss", Some(step), Value::Float(value));
        }
    }
    run.metric(1, "loss", Some(5000), Value::Float(f64::NAN));
    run.metric(0, "note", None, Value::Text("hello".into()));
    run.commit();
    let app = sandbox.app();
    let base = format!("/api/runs/{}/series", key(&app, "one").await);
    let check = async || {
        let path = format!("{base}?keys=loss,note,none&max_points=100");
        let json = ok(&app, &path).await;
        assert_eq!(json["bucket"], 64);
        let heads: Vec<_> = json["series"].as_array().unwrap().iter().collect();
        let told: Vec<_> = heads
            .iter()
            .map(|s| json!([s["key"], s["rank"], s["kind"], s["n"], s["len"]]))
            .collect();
        assert_eq!(
            json!(told),
            json!([
                ["loss", 0, "number", 5000, 79],
                ["loss", 1, "number", 5001, 79],
                ["note", 0, "text", 1, 0]
            ])
        );
        assert_eq!(heads[2]["value"], "hello");
        assert_eq!(
            json!([
                heads[1]["non_finite"],
                heads[1]["last"],
                heads[1]["last_step"]
            ]),
            json!([1, "NaN", 5000])
        );
        let (status, kind, body) = bytes(&app, &path, &format!("{COLUMNS}, */*;q=0.1")).await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, COLUMNS));
        let (header, numbers) = columns(&body);
        assert_eq!(header["cursor"], json["cursor"]);
        for (columns, head) in numbers.iter().zip(&heads) {
            let names = ["steps", "times", "min", "max", "mean", "values", "counts"];
            for (column, name) in columns.iter().zip(names) {
                let told: Vec<_> = head[name].as_array().unwrap().iter().collect();
                let told: Vec<f64> = told.iter().map(|x| x.as_f64().unwrap()).collect();
                assert_eq!(*column, told, "{name}");
            }
            assert!((columns[3][3210 / 64] - 99.0).abs() < 1e-9);
        }
        header["cursor"].clone()
    };
    let live = check().await;
    run.finish(RunStatus::Finished);
    assert_eq!(check().await, live);
}

#[tokio::test]
async fn ranks_are_merged_when_asked_and_a_zoom_is_finer() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 3);
    for step in 0..2000 {
        for rank in 0..3 {
            let value = f64::from(rank) + f64::from(i32::try_from(step).unwrap());
            run.metric(rank, "x", Some(step), Value::Float(value));
        }
    }
    run.finish(RunStatus::Finished);
    let app = sandbox.app();
    let base = format!("/api/runs/{}/series?keys=x", key(&app, "one").await);
    let one = ok(&app, &format!("{base}&merge=ranks&max_points=10")).await;
    let [line] = one["series"].as_array().unwrap().as_slice() else {
        panic!("{one}")
    };
    assert_eq!(
        json!([line["rank"], line["ranks"], line["n"]]),
        json!([null, 3, 6000])
    );
    assert_eq!(line["counts"][0], 3 * one["bucket"].as_u64().unwrap());
    assert_eq!(
        json!([line["min"][1], line["max"][0]]),
        json!([256.0, 257.0])
    );
    let zoom = ok(
        &app,
        &format!("{base}&rank=1&from_step=512&to_step=575&max_points=64"),
    )
    .await;
    assert_eq!(zoom["bucket"], 1);
    let steps: Vec<_> = (512..576).collect();
    assert_eq!(zoom["series"][0]["steps"], json!(steps));
    assert_eq!(
        json!([zoom["series"][0]["n"], zoom["series"][0]["last"]]),
        json!([2000, 2000.0])
    );
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let sandbox = Sandbox::new();
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let app = sandbox.app();
    let base = format!("/api/runs/{}/series", key(&app, "one").await);
    let many: Vec<_> = (0..201).map(|n| format!("k{n}")).collect();
    let many = many.join(",");
    for bad in [
        "",
        "keys=a&max_points=0",
        "keys=a&max_points=4097",
        "keys=a&rank=x",
        "keys=a&merge=steps",
        "keys=a&from_step=2&to_step=1",
        &format!("keys={many}"),
    ] {
        let (status, told) = get(&app, &format!("{base}?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {told}");
    }
    assert_eq!(
        ok(&app, &format!("{base}?keys=a")).await["series"],
        json!([])
    );
}

/// Files in the machinery's folder that hold sums.
fn sums(run: &expman_storage::RunDir) -> Vec<std::path::PathBuf> {
    let sums = run.sums().unwrap();
    sums.into_iter().map(|sum| sum.path).collect()
}

#[tokio::test]
async fn a_long_run_is_charted_by_its_sums_at_any_zoom_whatever_becomes_of_them() {
    const STEPS: i64 = 90_000;
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "long", 1);
    for step in 0..STEPS {
        let value = if step == 54_321 { -77.0 } else { 1.0 };
        run.metric(0, "loss", Some(step), Value::Float(value));
        if step % 40_000 == 39_999 {
            run.publish();
        }
    }
    run.publish();
    for step in STEPS..STEPS + 100 {
        run.metric(0, "loss", Some(step), Value::Int(2));
    }
    run.commit();
    let dir = run.dir.clone();
    let base = format!(
        "/api/runs/{}/series?keys=loss",
        key(&sandbox.app(), "long").await
    );
    let check = async |problems: usize| {
        let app = sandbox.app();
        let whole = ok(&app, &base).await;
        assert_eq!(
            whole["problems"].as_array().unwrap().len(),
            problems,
            "{whole}"
        );
        let line = &whole["series"][0];
        assert_eq!(json!([line["n"], line["last"]]), json!([STEPS + 100, 2]));
        let numbers = |name: &str| -> Vec<f64> {
            let column = line[name].as_array().unwrap().iter();
            column.map(|x| x.as_f64().unwrap()).collect()
        };
        let counts = line["counts"].as_array().unwrap().iter();
        assert_eq!(
            counts.map(|n| n.as_i64().unwrap()).sum::<i64>(),
            STEPS + 100
        );
        assert!(
            (300..=1024).contains(&line["len"].as_u64().unwrap()),
            "{}",
            line["len"]
        );
        let width = whole["bucket"].as_i64().unwrap();
        let steps = line["steps"].as_array().unwrap().iter();
        let spikes = numbers("min").into_iter().zip(steps);
        let spikes: Vec<_> = spikes
            .filter(|(min, _)| *min < 0.0)
            .map(|(_, step)| step)
            .collect();
        assert_eq!(json!(spikes), json!([54_321 / width * width]));
        // Each row of a piece, from the middle and from where the log goes on behind the files.
        for (from, to) in [(54_000, 54_499), (STEPS - 50, STEPS + 49)] {
            let zoom = ok(&app, &format!("{base}&from_step={from}&to_step={to}")).await;
            let steps: Vec<_> = (from..=to).collect();
            assert_eq!(
                json!([zoom["bucket"], zoom["series"][0]["steps"]]),
                json!([1, steps])
            );
            assert_eq!(zoom["series"][0]["n"], STEPS + 100);
        }
        let half = ok(&app, &format!("{base}&from_step=45000&max_points=100")).await;
        let steps = half["series"][0]["steps"].as_array().unwrap();
        assert!((30..=100).contains(&steps.len()), "{}", steps.len());
        assert!(steps[0].as_i64().unwrap() <= 45_000);
        let keys = ok(&app, &base.replace("/series?keys=loss", "/keys")).await;
        assert_eq!(
            json!([keys[0]["points"], keys[0]["last_step"]]),
            json!([STEPS + 100, STEPS + 99])
        );
    };
    let [sum] = sums(&dir).try_into().unwrap();
    assert_eq!(sum, dir.sum(0, STEPS.cast_unsigned()));
    check(0).await;
    let good = std::fs::read(&sum).unwrap();
    write(&sum, &good[..good.len() / 2]);
    // The head is whole, and what it tells of is not: that is noticed where it is read.
    check(0).await;
    write(&sum, b"no sum");
    check(1).await;
    std::fs::remove_file(&sum).unwrap();
    check(0).await;
    run.finish(RunStatus::Finished);
    let [sum] = sums(&dir).try_into().unwrap();
    assert_eq!(sum, dir.sum(0, (STEPS + 100).cast_unsigned()));
    check(0).await;
}

#[tokio::test]
async fn exact_rows_are_streamed_as_text_and_as_arrow() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "rows", 2);
    for step in 0..300 {
        for rank in 0..2 {
            run.metric(
                rank,
                "loss",
                Some(step),
                Value::Float(0.5 * f64::from(rank)),
            );
            run.metric(rank, "a,b", Some(step), Value::Int(step));
        }
        if step == 100 {
            run.publish();
        }
    }
    run.commit();
    let app = sandbox.app();
    let base = format!("/api/runs/{}/series", key(&app, "rows").await);
    let path = format!("{base}?keys=a%5C%2Cb&rank=1&from_step=90&to_step=109");
    let (status, kind, body) = bytes(&app, &path, "text/csv").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/csv"));
    let text = String::from_utf8(body).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("key,rank,step,timestamp,attempt,seq,kind,value"),
        "{text}"
    );
    let steps: Vec<_> = lines[1..]
        .iter()
        .map(|l| l.split(',').nth(3).unwrap())
        .collect();
    assert_eq!(steps, (90..110).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(lines[1].starts_with("\"a,b\",1,90,2026-"), "{}", lines[1]);

    let arrow = "application/vnd.apache.arrow.stream";
    let (status, _, body) = bytes(&app, &format!("{base}?keys=loss"), arrow).await;
    assert_eq!(status, StatusCode::OK);
    let mut seen: Vec<(i64, f64)> = Vec::new();
    for batch in StreamReader::try_new(body.as_slice(), None).unwrap() {
        let batch = batch.unwrap();
        let steps = batch
            .column_by_name("step")
            .unwrap()
            .as_primitive::<Int64Type>()
            .clone();
        let values = batch
            .column_by_name("value")
            .unwrap()
            .as_primitive::<Float64Type>()
            .clone();
        seen.extend(
            steps
                .values()
                .iter()
                .copied()
                .zip(values.values().iter().copied()),
        );
    }
    seen.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let expected: Vec<_> = (0..300)
        .flat_map(|step| [(step, 0.0), (step, 0.5)])
        .collect();
    assert_eq!(seen, expected);
    for kind in ["text/csv", arrow] {
        let path = format!("{base}?keys=loss&max_points=7");
        assert_eq!(bytes(&app, &path, kind).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn sparklines_tell_one_metric_of_many_runs_and_follow_it() {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 2);
    for step in 0..1000 {
        for rank in 0..2 {
            run.metric(rank, "loss", Some(step), Value::Float(f64::from(rank)));
        }
    }
    run.commit();
    sandbox.run("exp", "none", 1).finish(RunStatus::Finished);
    let app = sandbox.app();
    let (one, none) = (key(&app, "one").await, key(&app, "none").await);
    let path = format!("/api/sparklines?runs={one},{none},ffff&key=loss&max_points=10");
    let sparks = ok(&app, &path).await;
    assert_eq!(
        json!([sparks["runs"][&none], sparks["runs"]["ffff"]]),
        json!([null, null])
    );
    let line = &sparks["runs"][&one];
    assert_eq!(
        json!([line["steps"][1], line["values"][1]]),
        json!([128, 0.5])
    );
    assert_eq!(line["steps"].as_array().unwrap().len(), 8);
    run.metric(0, "loss", Some(5000), Value::Float(7.0));
    run.commit();
    let line = &ok(&app, &path).await["runs"][&one];
    assert_eq!(line["values"].as_array().unwrap().last().unwrap(), 7.0);
    run.finish(RunStatus::Finished);
    for bad in ["runs=a", "key=loss", "runs=a&key=loss&max_points=0"] {
        assert_eq!(
            get(&app, &format!("/api/sparklines?{bad}")).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}
