//! A folder with real runs in it, written by storage, and ways to ask the server about them.
#![allow(dead_code, reason = "each test binary uses its own part of it")]
#![allow(clippy::unwrap_used, reason = "only tests come here")]

pub mod sse;

use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use expman_model::record::Stream;
use expman_model::{
    Incarnation, Level, Point, RankState, Record, RecordBody, RunMeta, RunStatus, Value, WriterId,
};
use expman_server::{ServeConfig, app};
use expman_storage::{OwnerLock, RunDir, RunWriter};
use serde_json::Value as Json;
use tower::ServiceExt;

pub const HOST: &str = "127.0.0.1:8000";

/// A base folder that goes away with the test.
pub struct Sandbox {
    pub base: tempfile::TempDir,
}

/// A run that is being written, by this process.
pub struct LiveRun {
    pub dir: RunDir,
    writer: RunWriter,
    lock: OwnerLock,
    ranks: Vec<(u32, u64)>,
}

impl Sandbox {
    pub fn new() -> Self {
        Self {
            base: tempfile::tempdir().unwrap(),
        }
    }

    pub fn config(&self) -> ServeConfig {
        ServeConfig {
            base_dir: self.base.path().to_owned(),
            port: 0,
            ..ServeConfig::default()
        }
    }

    pub fn app(&self) -> Router {
        app(self.config(), 8000).unwrap()
    }

    /// Starts a run with so many ranks.
    pub fn run(&self, experiment: &str, run: &str, ranks: u32) -> LiveRun {
        start(self.base.path(), experiment, run, ranks)
    }
}

/// Starts a run with so many ranks.
pub fn start(base: &Path, experiment: &str, run: &str, ranks: u32) -> LiveRun {
    let dir = RunDir::under(base, experiment, run).unwrap();
    let lock = OwnerLock::take(&dir).unwrap();
    let seed = RunMeta {
        world_size: Some(ranks),
        tags: vec!["test".into()],
        ..RunMeta::default()
    };
    let (mut writer, _) = RunWriter::open(&lock, &dir, seed).unwrap();
    let ranks = (0..ranks).map(|rank| {
        let id = WriterId {
            rank,
            incarnation: Incarnation(u64::from(rank) + 1),
        };
        (writer.register(id, "host", 100 + rank).index, 0)
    });
    let ranks = ranks.collect();
    let mut live = LiveRun {
        dir,
        writer,
        lock,
        ranks,
    };
    live.commit();
    live
}

impl LiveRun {
    pub fn log(&mut self, rank: u32, body: RecordBody) {
        let (writer, seq) = &mut self.ranks[rank as usize];
        *seq += 1;
        let mut bytes = Vec::new();
        let timestamp_us = 1_767_225_600_000_000 + i64::try_from(*seq).unwrap();
        Record {
            seq: *seq,
            timestamp_us,
            body,
        }
        .encode(&mut bytes);
        self.writer.append(*writer, &bytes).unwrap();
    }

    pub fn metric(&mut self, rank: u32, key: &str, step: Option<i64>, value: Value) {
        self.log(
            rank,
            RecordBody::Metrics {
                step,
                points: vec![Point::new(key, value)],
            },
        );
    }

    pub fn line(&mut self, rank: u32, stream: Stream, text: &[u8]) {
        self.log(
            rank,
            RecordBody::Console {
                stream,
                ends_line: true,
                bytes: text.to_vec(),
            },
        );
    }

    pub fn message(&mut self, rank: u32, level: Level, text: &str) {
        self.log(
            rank,
            RecordBody::Message {
                level,
                logger: String::new(),
                file: String::new(),
                line: 0,
                text: text.into(),
            },
        );
    }

    /// Makes all that was logged visible and durable.
    pub fn commit(&mut self) {
        self.writer.sync().unwrap();
        self.writer.save().unwrap();
    }

    pub fn publish(&mut self) {
        self.writer.publish_now().unwrap();
    }

    pub fn finish(mut self, status: RunStatus) {
        for (writer, _) in self.ranks.clone() {
            self.writer.leave(writer, RankState::Left, status, "");
        }
        self.writer.finish().unwrap();
        drop(self.lock);
    }

    /// Lets go of everything without closing it, as a killed owner does.
    pub fn abandon(self) {
        drop(self);
    }
}

/// Asks in process, as the page would.
pub async fn get(app: &Router, path: &str) -> (StatusCode, Json) {
    let (status, _, body) = send(
        app,
        Request::get(path)
            .header("host", HOST)
            .body(Body::empty())
            .unwrap(),
    )
    .await;
    let json = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(&body).into_owned()));
    (status, json)
}

/// A good answer.
pub async fn ok(app: &Router, path: &str) -> Json {
    let (status, json) = get(app, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {json}");
    json
}

pub async fn send(
    app: &Router,
    request: Request<Body>,
) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    (parts.status, parts.headers, body.to_vec())
}

/// The key of the only run, or of the one with this name.
pub async fn key(app: &Router, name: &str) -> String {
    let runs = ok(app, "/api/runs").await;
    let run = runs
        .as_array()
        .unwrap()
        .iter()
        .find(|run| run["name"] == name);
    run.unwrap_or_else(|| panic!("{name} is not in {runs}"))["key"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "these files are damaged on purpose, or stand for another program's"
)]
pub fn write(path: &Path, text: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
