//! The API's description, as it is kept in the tree and as it is answered.

mod common;

use std::path::Path;

use common::{Sandbox, ok};
use serde_json::Value as Json;

/// `EXPMAN_WRITE_OPENAPI=1 cargo nextest run -p expman-server openapi` brings it up to date.
#[test]
fn the_description_in_the_tree_is_that_of_the_routes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let now = expman_server::openapi() + "\n";
    if std::env::var_os("EXPMAN_WRITE_OPENAPI").is_some() {
        common::write(&path, now.as_bytes());
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == now,
        "docs/openapi.json is old: run this test with EXPMAN_WRITE_OPENAPI=1"
    );
}

#[tokio::test]
async fn every_path_is_described_with_its_refusals() {
    let sandbox = Sandbox::new();
    let app = sandbox.app();
    let answered = ok(&app, "/api/openapi.json").await;
    let kept: Json = serde_json::from_str(&expman_server::openapi()).unwrap();
    assert_eq!(answered, kept);
    let paths = answered["paths"].as_object().unwrap();
    for path in [
        "/experiments",
        "/runs",
        "/runs/{key}",
        "/runs/{key}/metrics",
        "/runs/{key}/config",
        "/runs/{key}/artifacts/{artifact}/content",
        "/runs/{key}/logs",
        "/runs/{key}/stats",
        "/runs/{key}/stream",
    ] {
        let get = &paths[path]["get"];
        assert!(get["responses"]["404"].is_object(), "{path}: {get}");
    }
    assert!(paths["/runs/{key}"]["patch"]["requestBody"].is_object());
    let asked = |path: &str| {
        let params = paths[path]["get"]["parameters"].as_array().unwrap().iter();
        params
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // What clients have relied on since there is an API.
    for name in ["since_step", "rank", "keys", "max_points"] {
        assert!(
            asked("/runs/{key}/metrics").contains(&name.to_owned()),
            "{name}"
        );
    }
}
