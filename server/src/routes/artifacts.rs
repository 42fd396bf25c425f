//! Files that a run saved: listed by walking its folder, fetched by their key in that list.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path as FsPath, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use expman_storage::{RunDir, StorageError};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Result, ServeError};
use crate::router::AppState;

/// Files listed of one run.
pub const FILES_MAX: usize = 10_000;
/// Folders within folders.
pub const DEPTH_MAX: usize = 16;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// One saved file.
#[derive(Debug, Clone, Serialize)]
pub struct Artifact {
    /// Says the same file whatever else comes into the list.
    key: String,
    name: String,
    size: u64,
    r#type: &'static str,
    hash: Option<String>,
}

/// `GET /api/runs/{key}/artifacts`
pub async fn list(
    State(state): State<AppState>,
    Path(key): Path<String>,
) -> Result<Json<Vec<Artifact>>> {
    let run = state.index.run(&key).await?;
    let what = run.dir.artifacts().display().to_string();
    Ok(Json(state.reads.run(what, move || find(&run.dir)).await?))
}

/// `GET /api/runs/{key}/artifacts/{artifact}/content`
pub async fn content(
    State(state): State<AppState>,
    Path((key, wanted)): Path<(String, String)>,
) -> Result<Response> {
    let missing = || ServeError::NotFound {
        what: "this artifact",
    };
    let run = state.index.run(&key).await?;
    let folder = run.dir.artifacts();
    let what = folder.display().to_string();
    let (artifact, file, size) = state
        .reads
        .run(what, move || {
            let mut all = find(&run.dir)?.into_iter();
            let artifact = all.find(|a| a.key == wanted).ok_or_else(missing)?;
            let file = open_beneath(run.dir.root(), &artifact.name)?;
            let size = file
                .metadata()
                .map_err(|source| io("stat", &folder.join(&artifact.name), source))?
                .len();
            Ok((artifact, file, size))
        })
        .await?;
    let name = artifact.name.rsplit('/').next().unwrap_or_default();
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(artifact.r#type),
        ),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
        // Never shown as a page of ours, whatever it is.
        (header::CONTENT_DISPOSITION, attachment(name)),
    ];
    Ok((
        headers,
        Body::from_stream(ReceiverStream::new(chunks(file, size))),
    )
        .into_response())
}

/// Those that the run told of, in that order; then what else lies there.
fn find(dir: &RunDir) -> Result<Vec<Artifact>> {
    let mut there = HashMap::new();
    let folder = dir.artifacts();
    // A link in its place would lead to anything that this user can read.
    if std::fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
        walk(&folder, &mut String::new(), 0, &mut there)?;
    }
    let mut found = Vec::new();
    for event in expman_storage::events::read(&dir.events())?.0 {
        let Some(name) = event["name"]
            .as_str()
            .filter(|_| event["type"] == "artifact")
        else {
            continue;
        };
        if let Some(size) = there.remove(name) {
            let hash = event["hash"].as_str().map(str::to_owned);
            found.push(Artifact::new(name, size, hash));
        }
    }
    let mut rest: Vec<_> = there.into_iter().collect();
    rest.sort();
    found.extend(
        rest.iter()
            .map(|(name, size)| Artifact::new(name, *size, None)),
    );
    Ok(found)
}

impl Artifact {
    fn new(name: &str, size: u64, hash: Option<String>) -> Self {
        Self {
            key: blake3::hash(name.as_bytes()).to_hex()[..16].to_owned(),
            name: name.to_owned(),
            size,
            r#type: media_type(name),
            hash,
        }
    }
}

fn walk(
    folder: &FsPath,
    prefix: &mut String,
    depth: usize,
    found: &mut HashMap<String, u64>,
) -> Result<()> {
    // A link in place of a folder leads out of the run.
    if std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_symlink()) {
        return Ok(());
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io("list", folder, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| io("list", folder, source))?;
        // A name that is no text can't be asked for; a link may lead out of the folder.
        let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else {
            continue;
        };
        if found.len() >= FILES_MAX {
            return Ok(());
        }
        let length = prefix.len();
        prefix.push_str(&name);
        if kind.is_file() && !is_half_written(&name) {
            found.insert(
                prefix.clone(),
                entry.metadata().map_or(0, |meta| meta.len()),
            );
        } else if kind.is_dir() && depth < DEPTH_MAX {
            prefix.push('/');
            walk(&entry.path(), prefix, depth + 1, found)?;
        }
        prefix.truncate(length);
    }
    Ok(())
}

/// A copy that is being made has a name of its own until it is whole.
fn is_half_written(name: &str) -> bool {
    name.starts_with('.') && FsPath::new(name).extension().is_some_and(|e| e == "tmp")
}

/// Opens a saved file of a run; the kernel refuses every way out, and every link that was put in between.
fn open_beneath(run: &FsPath, name: &str) -> Result<File> {
    let root = File::open(run).map_err(|source| io("open", run, source))?;
    let beneath = |from: &File, path: &FsPath, flags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = rustix::fs::openat2(from, path, flags, Mode::empty(), resolve);
        let file = opened.map_err(|errno| io("open", &run.join(path), errno.into()))?;
        Ok::<_, ServeError>(File::from(file))
    };
    let folder = beneath(&root, FsPath::new("artifacts"), OFlags::DIRECTORY)?;
    beneath(&folder, FsPath::new(name), OFlags::empty())
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

fn media_type(name: &str) -> &'static str {
    match name
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "csv" => "text/csv",
        "json" => "application/json",
        "txt" | "log" | "md" | "yaml" | "yml" | "toml" | "py" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn io(action: &'static str, path: &FsPath, source: std::io::Error) -> ServeError {
    ServeError::Storage(StorageError::Io {
        action,
        path: PathBuf::from(path),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_folder_opens() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("artifacts");
        std::fs::create_dir(&folder).unwrap();
        File::create(tmp.path().join("secret")).unwrap();
        File::create(folder.join("model.bin")).unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("..", folder.join("up")).unwrap();
        assert!(open_beneath(tmp.path(), "model.bin").is_ok());
        for name in [
            "../secret",
            "link",
            "up/secret",
            "/etc/passwd",
            "./../secret",
        ] {
            assert!(open_beneath(tmp.path(), name).is_err(), "{name}");
        }
        let mut found = HashMap::new();
        walk(&folder, &mut String::new(), 0, &mut found).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["model.bin"]);
        // The folder itself may be a link.
        let other = tmp.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let out = other.join("artifacts");
        std::os::unix::fs::symlink(&folder, &out).unwrap();
        assert!(open_beneath(&other, "model.bin").is_err());
        found.clear();
        walk(&out, &mut String::new(), 0, &mut found).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_file_name_can_not_break_out_of_its_header() {
        assert_eq!(
            attachment("a\"b\r\nc/ü.html"),
            "attachment; filename*=UTF-8''a%22b%0D%0Ac%2F%C3%BC.html"
        );
    }
}
