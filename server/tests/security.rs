//! Who is turned away, on every route.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

mod common;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use common::{HOST, Sandbox, key, send, write};
use expman_model::{RunStatus, Value};
use expman_server::{ServeConfig, ServeError, app, bind};

const TOKEN: &str = "a-token-of-some-length-0123";

async fn routes(app: &Router) -> Vec<String> {
    let key = key(app, "one").await;
    let list = common::ok(app, &format!("/api/runs/{key}/artifacts")).await;
    let content = format!("/artifacts/{}/content", list[0]["key"].as_str().unwrap());
    let run = [
        "",
        "/config",
        "/stats",
        "/events",
        "/keys",
        "/metrics",
        "/logs",
        "/artifacts",
        &content,
        "/stream",
    ];
    let mut all: Vec<_> = run
        .iter()
        .map(|part| format!("/api/runs/{key}{part}"))
        .collect();
    all.extend(
        [
            "/",
            "/index.html",
            "/assets/x.js",
            "/api/health",
            "/api/experiments",
            "/api/runs",
            "/api/nothing",
        ]
        .map(str::to_owned),
    );
    all
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut run = sandbox.run("exp", "one", 1);
    run.metric(0, "m", Some(1), Value::Int(1));
    write(&run.dir.artifacts().join("a.txt"), b"text");
    run.finish(RunStatus::Finished);
    sandbox
}

/// The status of an answer, without waiting for the end of a stream.
async fn status(app: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", HOST);
    }
    let request = headers
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value));
    let response = tower::ServiceExt::oneshot(app.clone(), request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(response.headers()[name], value, "{path}");
    }
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"));
    assert!(
        response
            .headers()
            .get("access-control-allow-origin")
            .is_none()
    );
    response.status()
}

#[tokio::test]
async fn evil_hosts_and_origins_are_refused_on_every_route_and_method() {
    let sandbox = sandbox();
    let app = sandbox.app();
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    for path in routes(&app).await {
        for method in methods.clone() {
            let ask =
                async |headers: &[(&str, &str)]| status(&app, method.clone(), &path, headers).await;
            let write = ("x-expman", "1");
            for host in ["evil.example", "127.0.0.1.evil.example:8000", ""] {
                assert_eq!(
                    ask(&[("host", host), write]).await,
                    StatusCode::MISDIRECTED_REQUEST,
                    "{method} {path} {host}"
                );
            }
            for origin in ["http://evil.example", "null", "http://127.0.0.1:8001"] {
                assert_eq!(
                    ask(&[("origin", origin), write]).await,
                    StatusCode::FORBIDDEN,
                    "{method} {path} {origin}"
                );
            }
            if !matches!(method, Method::GET | Method::HEAD) {
                assert_eq!(ask(&[]).await, StatusCode::FORBIDDEN, "{method} {path}");
                let answer = ask(&[write]).await;
                assert!(
                    matches!(
                        answer,
                        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_FOUND
                    ) || method == Method::PATCH && answer == StatusCode::BAD_REQUEST,
                    "{method} {path}: {answer}"
                );
            }
        }
    }
}

#[tokio::test]
async fn no_parameter_leads_out_of_the_folder() {
    let sandbox = sandbox();
    let canary = "canary-7c1f";
    write(&sandbox.base.path().join("secret.txt"), canary.as_bytes());
    write(
        &sandbox.base.path().join("exp/one/secret.txt"),
        canary.as_bytes(),
    );
    std::os::unix::fs::symlink("/etc", sandbox.base.path().join("exp/linked")).unwrap();
    let app = sandbox.app();
    let key = key(&app, "one").await;
    let ways = [
        "..",
        "../secret.txt",
        "..%2fsecret.txt",
        "..%2f..%2fsecret.txt",
        "%2e%2e%2fsecret.txt",
        "..%252fsecret.txt",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "secret.txt",
        "exp%2fone",
        "exp/one",
        "%00",
        "..%5csecret.txt",
        "linked",
        "file:%2f%2f%2fetc%2fpasswd",
    ];
    for way in ways {
        let tries = [
            format!("/api/runs/{way}"),
            format!("/api/runs/{way}/config"),
            format!("/api/runs/{way}/metrics"),
            format!("/api/runs/{way}/logs"),
            format!("/api/runs/{way}/artifacts/0/content"),
            format!("/api/runs/{way}/stream"),
            format!("/api/runs/{key}/artifacts/{way}/content"),
            format!("/api/runs/{key}/{way}"),
            format!("/api/runs/{key}/logs?file={way}"),
            format!("/api/runs/{key}/events?after={way}"),
            format!("/api/runs/{key}/metrics?keys={way}"),
            format!("/api/runs?experiment={way}"),
            format!("/{way}"),
            format!("/assets/{way}"),
            format!("/api/{way}"),
        ];
        for path in tries {
            let Ok(request) = Request::get(&path).header("host", HOST).body(Body::empty()) else {
                continue;
            };
            let (_, _, body) = send(&app, request).await;
            let text = String::from_utf8_lossy(&body);
            assert!(
                !text.contains(canary) && !text.contains("root:"),
                "{path} gave {text}"
            );
        }
    }
    assert_eq!(
        common::ok(&app, "/api/runs")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn with_a_token_every_route_needs_it() {
    let sandbox = sandbox();
    let open = sandbox.app();
    let app = app(
        ServeConfig {
            token: Some(TOKEN.into()),
            ..sandbox.config()
        },
        8000,
    )
    .unwrap();
    let bearer = format!("Bearer {TOKEN}");
    for path in routes(&open).await {
        for wrong in [
            "",
            "Bearer x",
            "Bearer a-token-of-some-length-0124",
            "Basic YTpi",
        ] {
            assert_eq!(
                status(&app, Method::GET, &path, &[("authorization", wrong)]).await,
                StatusCode::UNAUTHORIZED,
                "{path}"
            );
        }
        let as_open = status(&open, Method::GET, &path, &[]).await;
        assert_eq!(
            status(&app, Method::GET, &path, &[("authorization", &bearer)]).await,
            as_open,
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_token_in_the_address_becomes_a_cookie_that_scripts_can_not_read() {
    let sandbox = sandbox();
    let app = app(
        ServeConfig {
            token: Some(TOKEN.into()),
            ..sandbox.config()
        },
        4321,
    )
    .unwrap();
    let visit = |path: &str| {
        Request::get(path)
            .header("host", "localhost:4321")
            .body(Body::empty())
            .unwrap()
    };
    let (first, headers, body) = send(&app, visit(&format!("/?token={TOKEN}"))).await;
    assert_eq!(first, StatusCode::OK);
    let cookie = headers[header::SET_COOKIE].to_str().unwrap();
    assert!(
        cookie.starts_with("expman_4321=")
            && cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    assert!(!cookie.contains(TOKEN) && !String::from_utf8(body).unwrap().contains(TOKEN));
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(
        status(
            &app,
            Method::GET,
            "/api/runs",
            &[("host", "localhost:4321"), ("cookie", pair)]
        )
        .await,
        StatusCode::OK
    );
    assert_eq!(
        send(&app, visit("/?token=wrong")).await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        send(&app, visit(&format!("/api/runs?token={TOKEN}")))
            .await
            .0,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn other_machines_are_let_in_only_with_a_token() {
    for host in ["0.0.0.0", "::", "[::]"] {
        let config = ServeConfig {
            host: host.into(),
            port: 0,
            ..ServeConfig::default()
        };
        let refused = bind(&config).await;
        assert!(
            matches!(refused, Err(ServeError::TokenNeeded { .. })),
            "{host}"
        );
        assert!(refused.unwrap_err().to_string().contains("--token"));
    }
    let weak = ServeConfig {
        token: Some("short".into()),
        port: 0,
        ..ServeConfig::default()
    };
    assert!(matches!(
        bind(&weak).await,
        Err(ServeError::WeakToken { .. })
    ));
    let good = ServeConfig {
        host: "0.0.0.0".into(),
        token: Some(TOKEN.into()),
        port: 0,
        ..ServeConfig::default()
    };
    bind(&good).await.unwrap();
    for host in ["127.0.0.1", "localhost"] {
        bind(&ServeConfig {
            host: host.into(),
            port: 0,
            ..ServeConfig::default()
        })
        .await
        .unwrap();
    }
}
