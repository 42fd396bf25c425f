//! Run folders from a stranger, and requests that only an attacker makes.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use common::{HOST, Sandbox, get, key, ok, send, write};
use expman_model::{RunStatus, Value};
use expman_server::{bind, serve_with_listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What must never be in an answer.
const CANARY: &str = "canary-91d2";
/// An answer to the worst of requests comes within this.
const PATIENCE: Duration = Duration::from_secs(20);

fn finished(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let mut run = sandbox.run("exp", name, 1);
    run.metric(0, "m", Some(1), Value::Int(1));
    let root = run.dir.root().to_owned();
    run.finish(RunStatus::Finished);
    root
}

/// However the asking ends, what runs beside it does too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for everything there is of a run; each answer comes in time and tells nothing of the canary.
async fn ask_everything(app: &Router, key: &str) -> Vec<(String, StatusCode)> {
    let mut answers = Vec::new();
    for part in [
        "",
        "/config",
        "/stats",
        "/events",
        "/keys",
        "/metrics",
        "/metrics?max_points=10",
        "/logs?file=run",
        "/logs?file=console",
        "/artifacts",
    ] {
        let path = format!("/api/runs/{key}{part}");
        let request = Request::get(&path).header("host", HOST);
        let asked = send(app, request.body(Body::empty()).unwrap());
        let (status, _, body) = tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_late| panic!("{path} is not answered"));
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains(CANARY), "{path} gave {text}");
        answers.push((part.to_owned(), status));
    }
    answers
}

#[tokio::test]
async fn a_link_in_place_of_any_file_leads_nowhere() {
    let sandbox = Sandbox::new();
    let secret = sandbox.base.path().join("secret");
    // As a log line, as YAML, and as an event it could be read.
    let line = format!("[2026-01-01T00:00:00.000000Z] [r0] [INFO] {CANARY}\n");
    let files = [
        ("run.log", line.clone()),
        ("console.log", line),
        ("config.yaml", format!("key: {CANARY}\n")),
        ("run.yaml", format!("format: 1\ndescription: {CANARY}\n")),
        (
            "events.jsonl",
            format!("{{\"type\":\"{CANARY}\",\"id\":\"1\"}}\n"),
        ),
    ];
    for (name, text) in files {
        let run = format!("linked-{}", name.replace('.', "-"));
        let root = finished(&sandbox, &run);
        write(&secret, text.as_bytes());
        let target = secret.with_file_name(format!("secret-{name}"));
        std::fs::rename(&secret, &target).unwrap();
        std::fs::remove_file(root.join(name)).unwrap();
        symlink(&target, root.join(name)).unwrap();
        let app = sandbox.app();
        let key = key(&app, &run).await;
        ask_everything(&app, &key).await;
        let list = ok(&app, "/api/runs").await.to_string();
        assert!(!list.contains(CANARY), "{list}");
    }
    // The rows of somebody else's run are nobody's business either.
    let other = tempfile::tempdir().unwrap();
    let mut run = common::start(other.path(), "exp", "private", 1);
    run.metric(0, CANARY, Some(1), Value::Text(CANARY.into()));
    run.finish(RunStatus::Finished);
    let root = finished(&sandbox, "linked-rows");
    std::fs::remove_file(root.join("metrics.parquet")).unwrap();
    let private = other.path().join("exp/private/metrics.parquet");
    symlink(private, root.join("metrics.parquet")).unwrap();
    let app = sandbox.app();
    let key = key(&app, "linked-rows").await;
    ask_everything(&app, &key).await;
}

#[test]
fn a_file_that_turns_into_a_link_while_it_is_asked_for_gives_nothing_away() {
    let sandbox = Sandbox::new();
    let root = finished(&sandbox, "race");
    let secret = sandbox.base.path().join("secret");
    write(&secret, CANARY.as_bytes());
    let artifacts = root.join("artifacts");
    let names = ["file", "folder/file"];
    for name in names {
        write(&artifacts.join(name), b"harmless");
    }
    let out = sandbox.base.path().join("out");
    write(&out.join("file"), CANARY.as_bytes());
    let app = sandbox.app();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (base, list) = runtime.block_on(async {
        let base = format!("/api/runs/{}/artifacts", key(&app, "race").await);
        let list = ok(&app, &base).await;
        (base, list)
    });
    let keys: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 2);
    let stop = AtomicBool::new(false);
    let swap = || {
        // The same names are a file and a link, a folder and a link, in turns.
        let (file, folder) = (artifacts.join("file"), artifacts.join("folder"));
        let aside = artifacts.with_file_name("aside");
        while !stop.load(Ordering::Relaxed) {
            std::fs::remove_file(&file).unwrap();
            symlink(&secret, &file).unwrap();
            std::fs::rename(&folder, &aside).unwrap();
            symlink(&out, &folder).unwrap();
            std::fs::remove_file(&file).unwrap();
            write(&file, b"harmless");
            std::fs::remove_file(&folder).unwrap();
            std::fs::rename(&aside, &folder).unwrap();
        }
    };
    let mut given = 0;
    std::thread::scope(|s| {
        s.spawn(swap);
        let _stop = Stop(&stop);
        runtime.block_on(async {
            for n in 0..600 {
                let path = format!("{base}/{}/content", keys[n % 2]);
                let request = Request::get(&path).header("host", HOST);
                let (status, _, body) = send(&app, request.body(Body::empty()).unwrap()).await;
                assert!(
                    !String::from_utf8_lossy(&body).contains(CANARY),
                    "after {given} good answers"
                );
                given += usize::from(status == StatusCode::OK);
            }
        });
    });
    assert!(given > 0, "some were asked for while they were files");
}

#[tokio::test]
async fn a_pipe_in_place_of_any_file_keeps_nobody_waiting() {
    let sandbox = Sandbox::new();
    let root = finished(&sandbox, "pipes");
    let app = sandbox.app();
    let key = key(&app, "pipes").await;
    for name in [
        "metrics.parquet",
        "run.log",
        "console.log",
        "config.yaml",
        "events.jsonl",
        ".expman/LOCK",
        "run.yaml",
    ] {
        let path = root.join(name);
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
    }
    ask_everything(&app, &key).await;
    let fresh = sandbox.app();
    let list = tokio::time::timeout(PATIENCE, get(&fresh, "/api/runs"));
    assert_eq!(list.await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn bombs_and_garbage_in_a_folder_are_told_of_and_hide_no_other_run() {
    let sandbox = Sandbox::new();
    finished(&sandbox, "good");
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let last = format!("*a{}, ", n - 1).repeat(9);
        bomb = [bomb, format!("a{n}: &a{n} [{last}]\n")].concat();
    }
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_event = format!("{{\"type\":\"x\",\"y\":{deep}}}\n");
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    let mut claims = b"PAR1".to_vec();
    claims.extend(&garbage[..64]);
    claims.extend(0x7FFF_FFF0_u32.to_le_bytes());
    claims.extend(b"PAR1");
    for (n, (file, bytes)) in [
        ("config.yaml", bomb.as_bytes()),
        ("run.yaml", bomb.as_bytes()),
        ("config.yaml", deep.as_bytes()),
        ("run.yaml", deep.as_bytes()),
        ("events.jsonl", deep_event.as_bytes()),
        ("metrics.parquet", garbage.as_slice()),
        ("metrics.parquet", claims.as_slice()),
        ("run.log", garbage.as_slice()),
        ("console.log", garbage.as_slice()),
        (
            ".expman/wal-0000000000000001-00000001.wal",
            garbage.as_slice(),
        ),
        (
            ".expman/seg-0000000000000001-00000000000000ff.parquet",
            garbage.as_slice(),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let root = finished(&sandbox, &format!("bad-{n}"));
        write(&root.join(file), bytes);
    }
    let app = sandbox.app();
    let asked = tokio::time::timeout(PATIENCE, ok(&app, "/api/runs"));
    let runs = asked.await.unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 12);
    for run in runs.as_array().unwrap() {
        let answers = ask_everything(&app, run["key"].as_str().unwrap()).await;
        if run["name"] == "good" {
            assert!(
                answers.iter().all(|(_, status)| status.is_success()),
                "{answers:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_browser_could_run_is_only_ever_a_download() {
    let sandbox = Sandbox::new();
    let root = finished(&sandbox, "files");
    let names = [
        "page.html",
        "image.svg",
        "x.xhtml",
        "code.js",
        "noext",
        "<img src=x onerror=alert(1)>",
        "a\u{202e}gnp.exe",
    ];
    for name in names {
        write(&root.join("artifacts").join(name), b"<svg onload=alert(1)>");
    }
    let app = sandbox.app();
    let base = format!("/api/runs/{}/artifacts", key(&app, "files").await);
    let list = ok(&app, &base).await;
    assert_eq!(list.as_array().unwrap().len(), names.len());
    for artifact in list.as_array().unwrap() {
        let path = format!("{base}/{}/content", artifact["key"].as_str().unwrap());
        let request = Request::get(&path).header("host", HOST);
        let (status, headers, _) = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{artifact}");
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/octet-stream",
            "{artifact}"
        );
        let disposition = headers[header::CONTENT_DISPOSITION].to_str().unwrap();
        assert!(
            disposition.starts_with("attachment; filename*=UTF-8''"),
            "{disposition}"
        );
        let name = disposition.rsplit('\'').next().unwrap();
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)),
            "{name}"
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }
}

/// One answer's head over a real connection, which the server may cut.
async fn raw(addr: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    // The server may answer, and close, before it has read everything.
    socket.write_all(request).await.ok();
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(PATIENCE, socket.read(&mut answer));
    let n = read.await.expect("an answer or the end").unwrap_or(0);
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[tokio::test]
async fn huge_heads_and_abused_ranges_are_refused_or_ignored() {
    let sandbox = Sandbox::new();
    let root = finished(&sandbox, "one");
    write(&root.join("artifacts/a.bin"), &[7; 1000]);
    let app = sandbox.app();
    let base = format!("/api/runs/{}/artifacts", key(&app, "one").await);
    let list = ok(&app, &base).await;
    let content = format!("{base}/{}/content", list[0]["key"].as_str().unwrap());
    let config = sandbox.config();
    let listener = bind(&config).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_with_listener(
        config,
        listener,
        std::future::pending(),
    ));
    let ask = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{more}connection: close\r\n\r\n")
    };
    let big = "x".repeat(4 << 20);
    let many = "x: y\r\n".repeat(5_000);
    for (what, request) in [
        ("a long header", ask("/api/runs", &format!("x: {big}\r\n"))),
        ("many headers", ask("/api/runs", &many)),
        ("a long address", ask(&format!("/api/runs/{big}"), "")),
        ("no HTTP", "\u{0}\u{1}\u{2} nonsense\r\n\r\n".to_owned()),
        (
            "no end",
            format!("GET / HTTP/1.1\r\nhost: {addr}\r\nx: {big}"),
        ),
        (
            "two lengths",
            format!(
                "POST /api/runs HTTP/1.1\r\nhost: {addr}\r\nx-expman: 1\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello"
            ),
        ),
    ] {
        let answer = raw(addr, request.as_bytes()).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{what}: {answer}");
    }
    let ranges = "3-3,".repeat(2_000);
    let one = raw(addr, ask(&content, "range: bytes=0-0\r\n").as_bytes()).await;
    assert!(
        one.starts_with("HTTP/1.1 206") && one.contains("content-length: 1\r"),
        "{one}"
    );
    for range in [
        "bytes=999999999999-",
        "bytes=-0",
        "bytes=5-1",
        &format!("bytes={ranges}1-"),
    ] {
        let answer = raw(
            addr,
            ask(&content, &format!("range: {range}\r\n")).as_bytes(),
        )
        .await;
        let whole = answer.starts_with("HTTP/1.1 200") && answer.contains("content-length: 1000");
        assert!(
            whole || answer.starts_with("HTTP/1.1 4"),
            "{}: {answer}",
            &range[..9]
        );
    }
    let answer = raw(addr, ask("/api/health", "").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "it goes on: {answer}");
    server.abort();
    assert!(Path::new(&root).exists());
}
