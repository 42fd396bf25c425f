//! Files that a run saved: listed, shown in part, fetched by their key in that list.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path as FsPath;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use expman_storage::preview::{Table, csv_table, parquet_table};
use expman_storage::stamp::FileStamp;
use http_range_header::parse_range_header;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::Params;
use crate::error::{Result, ServeError};
use crate::router::AppState;
use crate::saved::{Artifact, find, io, open};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Bytes of a text that are shown, when the number is not said, and at most.
const PREVIEW_BYTES: (u64, u64) = (256 << 10, 4 << 20);
/// What JSON may grow by when it is set out, beside four times its length.
const PRETTY_BYTES: usize = 256 << 10;
/// Rows of a table that are shown, likewise.
const PREVIEW_ROWS: (usize, usize) = (100, 2_000);

/// `GET /api/runs/{key}/artifacts`
#[utoipa::path(
    get,
    path = "/runs/{key}/artifacts",
    tag = "artifacts",
    params(("key" = String, Path, description = "The run's key, from the list of runs")),
    responses((status = 200, description = "Saved files", body = Vec<Artifact>))
)]
pub async fn list(
    State(state): State<AppState>,
    Path(key): Path<String>,
) -> Result<Json<Vec<Artifact>>> {
    let run = state.index.run(&key).await?;
    let what = run.dir.artifacts().display().to_string();
    Ok(Json(state.reads.run(what, move || find(&run.dir)).await?))
}

/// `GET /api/runs/{key}/artifacts/{artifact}/content`, whole or a range of its bytes
#[utoipa::path(
    get,
    path = "/runs/{key}/artifacts/{artifact}/content",
    tag = "artifacts",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), ("artifact" = String, Path, description = "The file's key, from the list of artifacts"), ("range" = Option<String>, Header, description = "`bytes=FROM-TO`")),
    responses((status = 200, description = "All of it", content_type = "*/*", body = Vec<u8>), (status = 206, description = "The range that was asked for", content_type = "application/octet-stream", body = Vec<u8>), (status = 416, description = "There is no such range"))
)]
pub async fn content(
    State(state): State<AppState>,
    Path((key, wanted)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let (artifact, file) = opened(&state, &key, wanted).await?;
    let name = artifact.name.rsplit('/').next().unwrap_or_default();
    // Never shown as a page of ours, whatever it is.
    let mut response = ranged(&artifact, file, &headers)?;
    let disposition = attachment(name);
    response
        .headers_mut()
        .insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// `GET /api/runs/{key}/artifacts/{artifact}/inline`: a picture for the page, nothing else
#[utoipa::path(
    get,
    path = "/runs/{key}/artifacts/{artifact}/inline",
    tag = "artifacts",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), ("artifact" = String, Path, description = "The file's key, from the list of artifacts"), ("range" = Option<String>, Header, description = "`bytes=FROM-TO`")),
    responses((status = 200, description = "All of it", content_type = "*/*", body = Vec<u8>), (status = 206, description = "The range that was asked for", content_type = "application/octet-stream", body = Vec<u8>), (status = 416, description = "There is no such range"))
)]
pub async fn inline(
    State(state): State<AppState>,
    Path((key, wanted)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let (artifact, file) = opened(&state, &key, wanted).await?;
    if !artifact.r#type.starts_with("image/") {
        return Err(ServeError::BadRequest {
            what: format!("{} is no picture that a page may show", artifact.name),
        });
    }
    ranged(&artifact, file, &headers)
}

async fn opened(state: &AppState, key: &str, wanted: String) -> Result<(Artifact, File)> {
    let run = state.index.run(key).await?;
    let what = run.dir.artifacts().display().to_string();
    state.reads.run(what, move || open(&run.dir, &wanted)).await
}

/// The bytes that are asked for; what is no range that there is, is answered with all of them or refused, as HTTP has
/// it.
fn ranged(artifact: &Artifact, mut file: File, headers: &HeaderMap) -> Result<Response> {
    let size = artifact.size;
    let tag = tag(&file);
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    // A range of a file that was replaced meanwhile would be glued to the wrong one.
    let is_same = text(header::IF_RANGE).is_none_or(|known| Some(known) == tag.to_str().ok());
    let asked = text(header::RANGE).filter(|_| is_same);
    let ranges = asked.and_then(|asked| parse_range_header(asked).ok());
    let mut status = StatusCode::OK;
    let (mut from, mut len) = (0, size);
    let mut content_range = None;
    if let Some(ranges) = ranges {
        match ranges.validate(size).as_deref() {
            Ok([one]) => {
                status = StatusCode::PARTIAL_CONTENT;
                (from, len) = (*one.start(), one.end() - one.start() + 1);
                content_range = Some(format!("bytes {}-{}/{size}", one.start(), one.end()));
            }
            // Several at once: the whole is as good an answer.
            Ok(_) => {}
            Err(_) => {
                let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
            }
        }
    }
    if from > 0 {
        let at = FsPath::new(&artifact.name);
        file.seek(SeekFrom::Start(from))
            .map_err(|source| io("seek", at, source))?;
    }
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(artifact.r#type),
        ),
        (header::CONTENT_LENGTH, HeaderValue::from(len)),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::ETAG, tag),
    ];
    let body = Body::from_stream(ReceiverStream::new(chunks(file, len)));
    let mut response = (status, headers, body).into_response();
    if let Some(range) = content_range.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// Changes with the file.
fn tag(file: &File) -> HeaderValue {
    let meta = file.metadata().ok();
    let tag = meta.map(|meta| format!("\"{}\"", FileStamp::from(&meta)));
    tag.and_then(|tag| HeaderValue::from_str(&tag).ok())
        .unwrap_or(HeaderValue::from_static("\"?\""))
}

/// How much is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PreviewParams {
    /// Bytes of a text, or of a table in text, that are looked at.
    max_bytes: Option<u64>,
    /// Rows of a table.
    max_rows: Option<usize>,
}

/// The beginning of a saved file, for people.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Preview {
    /// A picture; it is fetched from `inline`.
    Image,
    /// Text.
    Text(Text),
    /// JSON, set out line by line.
    Json(Text),
    /// Comma-separated values.
    Csv {
        /// Its beginning.
        #[serde(flatten)]
        #[schema(value_type = Object)]
        table: Table,
    },
    /// Parquet.
    Parquet {
        /// Its beginning.
        #[serde(flatten)]
        #[schema(value_type = Object)]
        table: Table,
    },
    /// Nothing that can be shown.
    None {
        /// Why.
        why: String,
    },
}

/// The beginning of a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct Text {
    text: String,
    truncated: bool,
}

/// `GET /api/runs/{key}/artifacts/{artifact}/preview?max_bytes=&max_rows=`
#[utoipa::path(
    get,
    path = "/runs/{key}/artifacts/{artifact}/preview",
    tag = "artifacts",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), ("artifact" = String, Path, description = "The file's key, from the list of artifacts"), PreviewParams),
    responses((status = 200, description = "The beginning of the file", body = Preview))
)]
pub async fn preview(
    State(state): State<AppState>,
    Path((key, wanted)): Path<(String, String)>,
    Params(params): Params<PreviewParams>,
) -> Result<Json<Preview>> {
    let (artifact, file) = opened(&state, &key, wanted).await?;
    let bytes = params.max_bytes.unwrap_or(PREVIEW_BYTES.0);
    let rows = params.max_rows.unwrap_or(PREVIEW_ROWS.0);
    let (bytes, rows) = (bytes.min(PREVIEW_BYTES.1), rows.min(PREVIEW_ROWS.1));
    let what = artifact.name.clone();
    let shown = state
        .reads
        .run(what, move || shown(&artifact, file, bytes, rows));
    Ok(Json(shown.await?))
}

fn shown(artifact: &Artifact, file: File, bytes: u64, rows: usize) -> Result<Preview> {
    let name = FsPath::new(&artifact.name);
    let is = |ending: &str| {
        name.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(ending))
    };
    if artifact.r#type.starts_with("image/") {
        return Ok(Preview::Image);
    }
    if is("parquet") {
        return Ok(match parquet_table(file, name, rows) {
            Ok(table) => Preview::Parquet { table },
            Err(e) => Preview::None { why: e.to_string() },
        });
    }
    let mut head = Vec::new();
    let mut piece = file.take(bytes);
    piece
        .read_to_end(&mut head)
        .map_err(|source| io("read", name, source))?;
    let is_whole = head.len() as u64 >= artifact.size;
    if is("csv") {
        let table = csv_table(&head, is_whole, rows);
        return Ok(Preview::Csv { table });
    }
    let Some(text) = as_text(&head, is_whole) else {
        return Ok(Preview::None {
            why: "these bytes are no text".to_owned(),
        });
    };
    let pretty = (is("json") && is_whole)
        .then(|| serde_json::from_str::<serde_json::Value>(&text).ok())
        .flatten()
        .and_then(|tree| pretty(&tree, 4 * text.len()));
    let truncated = !is_whole;
    Ok(match pretty {
        Some(text) => Preview::Json(Text { text, truncated }),
        None => Preview::Text(Text { text, truncated }),
    })
}

/// JSON line by line; none where that is longer than `max` by much, as lists within lists can make it.
fn pretty(tree: &serde_json::Value, max: usize) -> Option<String> {
    let mut text = vec![0; max + PRETTY_BYTES];
    let mut room = &mut text[..];
    serde_json::to_writer_pretty(&mut room, tree).ok()?;
    let left = room.len();
    text.truncate(text.len() - left);
    String::from_utf8(text).ok()
}

/// UTF-8 without a NUL, but for a character that the end cut in two.
fn as_text(head: &[u8], is_whole: bool) -> Option<String> {
    if head.contains(&0) {
        return None;
    }
    match std::str::from_utf8(head) {
        Ok(text) => Some(text.to_owned()),
        Err(e) if !is_whole && e.error_len().is_none() => {
            let whole = &head[..e.valid_up_to()];
            Some(String::from_utf8_lossy(whole).into_owned())
        }
        Err(_) => None,
    }
}

/// Reads a file piece by piece, no faster than it is sent.
fn chunks(file: File, size: u64) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (to, from) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        // No more than was announced, should the file grow meanwhile.
        let mut file = file.take(size);
        loop {
            let mut chunk = vec![0; CHUNK];
            let piece = match file.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    Ok(Bytes::from(chunk))
                }
                Err(e) => Err(e),
            };
            let ends = piece.is_err();
            if to.blocking_send(piece).is_err() || ends {
                return;
            }
        }
    });
    from
}

/// A file name that no browser reads as anything else.
fn attachment(name: &str) -> HeaderValue {
    use std::fmt::Write;
    let mut value = "attachment; filename*=UTF-8''".to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            value.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            _ = write!(value, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_can_not_break_out_of_its_header() {
        assert_eq!(
            attachment("a\"b\r\nc/ü.html"),
            "attachment; filename*=UTF-8''a%22b%0D%0Ac%2F%C3%BC.html"
        );
    }

    #[test]
    fn json_that_grows_when_it_is_set_out_is_left_as_it_is() {
        let lists = |depth: usize, items: usize| {
            let items = vec!["1"; items].join(",");
            format!("{}{items}{}", "[".repeat(depth), "]".repeat(depth))
        };
        let set_out = |text: &str| {
            let tree: serde_json::Value = serde_json::from_str(text).unwrap();
            (
                pretty(&tree, 4 * text.len()),
                serde_json::to_string_pretty(&tree).unwrap(),
            )
        };
        let (shown, whole) = set_out(&lists(2, 1_000));
        assert_eq!(shown, Some(whole));
        let (shown, whole) = set_out(&lists(120, 10_000));
        assert!(whole.len() > 2_000_000 && shown.is_none());
    }
}
