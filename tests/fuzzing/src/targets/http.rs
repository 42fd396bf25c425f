//! Requests to the server, over a folder of runs of which one is a stranger's.

use std::cell::OnceCell;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use expman_model::record::Stream;
use expman_model::{
    Incarnation, Level, Point, RankState, Record, RecordBody, RunMeta, RunStatus, Value, WriterId,
};
use expman_server::{ServeConfig, app};
use expman_storage::catalog::key_of;
use expman_storage::{OwnerLock, RunDir, RunWriter};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tower::ServiceExt;

use crate::folder;

/// Stands in files outside of the served folder, to which links inside of it lead.
const CANARY: &str = "canary-8d0c2f61";
/// Bytes of one answer; the runs are small, so more would be made up.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long an endless answer is listened to.
const LISTEN: Duration = Duration::from_millis(5);
/// Pieces of an endless answer that are listened to.
const PIECES: usize = 8;

/// Runs that requests may name, as `{0}`, `{1}` and so on.
const RUNS: [(&str, &str); 4] = [
    ("exp", "done"),
    ("exp", "live"),
    ("exp", "strange"),
    ("old", "rs"),
];

struct Site {
    runtime: Runtime,
    app: Router,
    /// Keeps its run alive, and the folder from going away.
    _live: (RunWriter, OwnerLock),
    _folder: TempDir,
}

thread_local! {
    static SITE: OnceCell<Site> = const { OnceCell::new() };
}

/// The first line is method and path, every other one a header: an answer is no failure of the server,
/// and shows nothing from outside of the folder.
pub fn run(bytes: &[u8]) {
    let Some(request) = request(bytes) else {
        return;
    };
    let what = format!("{} {}", request.method(), request.uri());
    SITE.with(|site| {
        let site = site.get_or_init(site_over_runs);
        let (status, answer) = site.runtime.block_on(answer(&site.app, request));
        let text = String::from_utf8_lossy(&answer);
        // What a stranger's run lacks may be an error of that run.
        let strange = what.contains(&key_of(RUNS[2].0, RUNS[2].1));
        let failed = status >= 500 && status != 503 && !strange;
        assert!(!failed, "{what}: {status}: {text}");
        assert!(!text.contains(CANARY), "{what} shows what is outside");
    });
}

fn request(bytes: &[u8]) -> Option<Request<Body>> {
    let mut lines = bytes.split(|&b| b == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|&b| b == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let mut path = first[space + 1..].to_vec();
    for (n, (experiment, run)) in RUNS.iter().enumerate() {
        path = replaced(
            &path,
            format!("{{{n}}}").as_bytes(),
            key_of(experiment, run).as_bytes(),
        );
    }
    let uri = Uri::try_from(path).ok()?;
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    request.body(Body::empty()).ok()
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|w| w == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

async fn answer(app: &Router, request: Request<Body>) -> (u16, Vec<u8>) {
    let response = app.clone().oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let endless = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let mut shown = format!("{:?}", parts.headers).into_bytes();
    if endless {
        let mut pieces = body.into_data_stream();
        for _ in 0..PIECES {
            match tokio::time::timeout(LISTEN, pieces.next()).await {
                Ok(Some(Ok(piece))) => shown.extend_from_slice(&piece),
                _ => break,
            }
        }
    } else {
        let body = to_bytes(body, ANSWER_BYTES_MAX).await;
        shown.extend_from_slice(&body.expect("a whole answer of bounded size"));
    }
    (parts.status.as_u16(), shown)
}

fn site_over_runs() -> Site {
    let folder = folder::fresh();
    let outside = folder.path().join("outside");
    std::fs::create_dir_all(&outside).expect("a folder");
    for name in [
        "secret.txt",
        "run.yaml",
        "run.log",
        "console.log",
        "events.jsonl",
    ] {
        folder::put(&outside.join(name), format!("name: {CANARY}\n").as_bytes());
    }
    let base = folder.path().join("base");
    let (mut done, lock) = logged(&base, RUNS[0]);
    done.finish().expect("finish a run");
    drop(lock);
    let live = logged(&base, RUNS[1]);
    strange(&base, &outside);
    let old = base.join(RUNS[3].0).join(RUNS[3].1);
    std::fs::create_dir_all(&old).expect("a folder");
    folder::put(&old.join("run.yaml"), b"name: rs\nstatus: FINISHED\n");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let config = ServeConfig {
        base_dir: base,
        ..ServeConfig::default()
    };
    let app = {
        let _inside = runtime.enter();
        app(config, 8000).expect("a server")
    };
    Site {
        runtime,
        app,
        _live: live,
        _folder: folder,
    }
}

/// A run of two ranks with something of every kind.
fn logged(base: &Path, (experiment, run): (&str, &str)) -> (RunWriter, OwnerLock) {
    let dir = RunDir::under(base, experiment, run).expect("a good name");
    let lock = OwnerLock::take(&dir).expect("the lock of a new run");
    let (mut writer, _) = RunWriter::open(&lock, &dir, RunMeta::default()).expect("a new run");
    for rank in 0..2 {
        let id = WriterId {
            rank,
            incarnation: Incarnation(u64::from(rank) + 1),
        };
        let index = writer.register(id, "host", 100 + rank).index;
        let mut bytes = Vec::new();
        for seq in 1..=40 {
            let body = match seq % 4 {
                0 => RecordBody::Message {
                    level: Level::INFO,
                    logger: String::new(),
                    file: String::new(),
                    line: 0,
                    text: format!("line {seq}\nand more"),
                },
                1 => RecordBody::Console {
                    stream: Stream::Err,
                    ends_line: true,
                    bytes: b"\x1b[31mred\xff".to_vec(),
                },
                _ => RecordBody::Metrics {
                    step: i64::try_from(seq).ok(),
                    points: vec![
                        Point::new("loss", Value::Float(0.5)),
                        Point::new("a,b", Value::Text("<b>".to_owned())),
                    ],
                },
            };
            let record = Record {
                seq,
                timestamp_us: 1_767_225_600_000_000,
                body,
            };
            record.encode(&mut bytes);
        }
        writer.append(index, &bytes).expect("records");
        if experiment == RUNS[0].0 && run == RUNS[0].1 {
            writer.leave(index, RankState::Left, RunStatus::Finished, "");
        }
    }
    let saved = dir.artifacts().join("sub");
    std::fs::create_dir_all(&saved).expect("a folder");
    folder::put(&saved.join("page.html"), b"<script>1</script>");
    folder::put(&dir.artifacts().join("a.txt"), b"text");
    writer.save().expect("save");
    (writer, lock)
}

/// A folder that a stranger made: everything in it leads outside.
fn strange(base: &Path, outside: &Path) {
    let run = base.join(RUNS[2].0).join(RUNS[2].1);
    std::fs::create_dir_all(run.join(".expman")).expect("a folder");
    folder::put(&run.join("run.yaml"), b"format: 1\nstatus: FINISHED\n");
    for name in ["config.yaml", "run.log", "console.log", "events.jsonl"] {
        let to = outside.join(name.replace("config", "run"));
        symlink(to, run.join(name)).expect("a link");
    }
    symlink(outside, run.join("artifacts")).expect("a link");
    expman_storage::segment::write_sorted(
        &run.join("metrics.parquet"),
        &expman_storage::Rows::default(),
        0,
    )
    .expect("an empty file of rows");
}
