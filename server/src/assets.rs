//! The page, built from `dashboard/` and embedded.

use std::borrow::Cow;

use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "dashboard/dist"]
struct Dist;

/// Files below this folder carry a hash of their content in their name.
const HASHED: &str = "assets/";

const MISSING: &str = "The dashboard was not built into this server.\n\
    Build it with `npm ci && npm run build` in server/dashboard, then build expman again.\n\
    The data is served all the same: see /api/runs.\n";

/// Whether the page is there.
pub fn is_built() -> bool {
    Dist::get("index.html").is_some()
}

/// Answers every path that is no API route with a file of the page.
pub async fn page(request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = match request.uri().path().trim_start_matches('/') {
        "" => "index.html",
        // Compressed copies are reached by negotiation only.
        path if path.rsplit('.').next() == Some("gz") => {
            return StatusCode::NOT_FOUND.into_response();
        }
        path => path,
    };
    match Dist::get(path) {
        Some(file) => answer(path, &file, request.headers()),
        None if path == "index.html" => {
            let headers = [
                (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, MISSING).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn answer(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let accepts = |name: HeaderName, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|part| part.trim() == word))
    };
    let squeezed = accepts(header::ACCEPT_ENCODING, "gzip")
        .then(|| Dist::get(&format!("{path}.gz")))
        .flatten();
    // The two encodings of a file are two representations, so their tags differ.
    let tag = format!(
        "\"{}{}\"",
        hex(&file.metadata.sha256_hash()[..12]),
        if squeezed.is_some() { "-gz" } else { "" }
    );
    let caching = if path.starts_with(HASHED) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let common = [
        (
            header::ETAG,
            HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"?\"")),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    if accepts(header::IF_NONE_MATCH, &tag) || accepts(header::IF_NONE_MATCH, &format!("W/{tag}")) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = [(header::CONTENT_TYPE, content_type(path))];
    let body = |data: Cow<'static, [u8]>| match data {
        Cow::Borrowed(bytes) => axum::body::Body::from(bytes),
        Cow::Owned(bytes) => axum::body::Body::from(bytes),
    };
    match squeezed {
        Some(gz) => (
            common,
            kind,
            [(header::CONTENT_ENCODING, "gzip")],
            body(gz.data),
        )
            .into_response(),
        None => (common, kind, body(file.data.clone())).into_response(),
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string does not fail.
        _ = write!(out, "{byte:02x}");
        out
    })
}
