//! Saved files: ranges of them, and their beginnings for people.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use common::{HOST, Sandbox, get, key, ok, send, write};
use expman_model::RunStatus;
use parquet::arrow::ArrowWriter;
use serde_json::{Value as Json, json};

/// A run with these files saved; the app, and the address of each.
async fn saved(sandbox: &Sandbox, files: &[(&str, &[u8])]) -> (Router, Vec<String>) {
    sandbox.run("exp", "one", 1).finish(RunStatus::Finished);
    let folder = sandbox.base.path().join("exp/one/artifacts");
    for (name, bytes) in files {
        write(&folder.join(name), bytes);
    }
    let app = sandbox.app();
    let base = format!("/api/runs/{}/artifacts", key(&app, "one").await);
    let list = ok(&app, &base).await;
    let of = |name: &str| {
        let all = list.as_array().unwrap().iter();
        let one = all.clone().find(|a| a["name"] == name).unwrap();
        format!("{base}/{}", one["key"].as_str().unwrap())
    };
    let places = files.iter().map(|(name, _)| of(name)).collect();
    (app, places)
}

async fn ask(
    app: &Router,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::get(path).header("host", HOST);
    let request = headers
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value));
    send(app, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_range_of_a_file_is_those_bytes() {
    let sandbox = Sandbox::new();
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    let (app, places) = saved(&sandbox, &[("model.bin", &bytes)]).await;
    let path = format!("{}/content", places[0]);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=300000-599999", 300_000, 600_000),
        ("bytes=699990-", 699_990, 700_000),
        ("bytes=-5", 699_995, 700_000),
        ("bytes=699999-800000", 699_999, 700_000),
    ] {
        let (status, headers, body) = ask(&app, &path, &[("range", range)]).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(body, bytes[from..to], "{range}");
        let told = format!("bytes {from}-{}/700000", to - 1);
        assert_eq!(headers[header::CONTENT_RANGE], told, "{range}");
        assert!(
            headers[header::CONTENT_DISPOSITION]
                .to_str()
                .unwrap()
                .starts_with("attachment")
        );
    }
    let (status, headers, _) = ask(&app, &path, &[("range", "bytes=700000-")]).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(headers[header::CONTENT_RANGE], "bytes */700000");
    // No range that we know, and a range of another file: everything.
    let (_, headers, _) = ask(&app, &path, &[]).await;
    let tag = headers[header::ETAG].to_str().unwrap().to_owned();
    for headers in [
        vec![("range", "lines=1-2")],
        vec![("range", "bytes=0-9"), ("if-range", "\"other\"")],
    ] {
        let (status, _, body) = ask(&app, &path, &headers).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 700_000));
    }
    let same = [("range", "bytes=0-9"), ("if-range", tag.as_str())];
    assert_eq!(ask(&app, &path, &same).await.2.len(), 10);
}

#[tokio::test]
async fn the_beginning_of_a_file_is_shown_by_what_it_is() {
    let sandbox = Sandbox::new();
    let files: [(&str, &[u8]); 8] = [
        ("t.csv", b"name,loss\na,0.5\n\"b,c\",\n"),
        ("c.json", br#"{"b":[1,2],"a":"<script>"}"#),
        ("bad.json", b"{\"a\": "),
        ("readme.md", "# ünï".as_bytes()),
        ("x.bin", &[0, 159, 146, 150]),
        ("page.html", b"<script>alert(1)</script>"),
        ("bad.parquet", b"PAR1...."),
        ("p.png", b"\x89PNG"),
    ];
    let (app, places) = saved(&sandbox, &files).await;
    let shown = async |n: usize| ok(&app, &format!("{}/preview", places[n])).await;
    assert_eq!(
        shown(0).await,
        json!({
            "kind": "csv", "columns": [{"name": "name", "type": ""}, {"name": "loss", "type": ""}],
            "rows": [["a", "0.5"], ["b,c", ""]], "total_rows": 2, "truncated": false,
        })
    );
    let pretty = "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": \"<script>\"\n}";
    assert_eq!(
        shown(1).await,
        json!({"kind": "json", "text": pretty, "truncated": false})
    );
    assert_eq!(shown(2).await["kind"], "text");
    assert_eq!(
        shown(3).await,
        json!({"kind": "text", "text": "# ünï", "truncated": false})
    );
    assert_eq!(shown(4).await["kind"], "none");
    // A page is shown as its source, and never given to the browser as one.
    assert_eq!(shown(5).await["text"], "<script>alert(1)</script>");
    assert_eq!(shown(6).await["kind"], "none");
    assert_eq!(shown(7).await, json!({"kind": "image"}));
    let cut = ok(&app, &format!("{}/preview?max_bytes=3", places[3])).await;
    assert_eq!(
        cut,
        json!({"kind": "text", "text": "# ", "truncated": true})
    );
    assert_eq!(
        ask(&app, &format!("{}/inline", places[7]), &[]).await.1[header::CONTENT_TYPE],
        "image/png"
    );
    let (status, answer) = get(&app, &format!("{}/inline", places[5])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (_, headers, _) = ask(&app, &format!("{}/content", places[5]), &[]).await;
    assert!(
        headers[header::CONTENT_DISPOSITION]
            .to_str()
            .unwrap()
            .starts_with("attachment")
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
}

#[tokio::test]
async fn a_parquet_file_shows_its_schema_and_first_rows() {
    let sandbox = Sandbox::new();
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
    let values: ArrayRef = Arc::new(Float64Array::from(vec![0.1, f64::NAN, 3.0]));
    let batch =
        RecordBatch::try_from_iter_with_nullable([("n", names, true), ("x", values, false)])
            .unwrap();
    let path = sandbox.base.path().join("t.parquet");
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (app, places) = saved(&sandbox, &[("t.parquet", &bytes)]).await;
    let shown: Json = ok(&app, &format!("{}/preview?max_rows=2", places[0])).await;
    assert_eq!(
        shown,
        json!({
            "kind": "parquet",
            "columns": [{"name": "n", "type": "Utf8"}, {"name": "x", "type": "Float64"}],
            "rows": [["a", "0.1"], [null, "NaN"]], "total_rows": 3, "truncated": true,
        })
    );
}
