//! Series for charts: JSON, columns of bytes, zooms and merged ranks.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::{HOST, Sandbox, get, key, ok, send};
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
