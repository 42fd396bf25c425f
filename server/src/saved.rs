//! Files that a run saved: found by walking its folder, opened so that nothing leads out of it.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path as FsPath, PathBuf};

use expman_storage::{RunDir, StorageError};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Result, ServeError};

/// Files listed of one run.
pub const FILES_MAX: usize = 10_000;
/// Folders within folders.
pub const DEPTH_MAX: usize = 16;

/// One saved file.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Artifact {
    /// Says the same file whatever else comes into the list.
    pub key: String,
    /// Its path below `artifacts/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What its name says that it is.
    pub r#type: &'static str,
    hash: Option<String>,
}

/// Those that the run told of, in that order; then what else lies there.
pub fn find(dir: &RunDir) -> Result<Vec<Artifact>> {
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

/// One saved file, open.
///
/// # Errors
/// When the run has no such file, or it can't be opened.
pub fn open(dir: &RunDir, key: &str) -> Result<(Artifact, File)> {
    let missing = || ServeError::NotFound {
        what: "this artifact",
    };
    let mut all = find(dir)?.into_iter();
    let mut artifact = all.find(|a| a.key == key).ok_or_else(missing)?;
    let file = open_beneath(dir.root(), &artifact.name)?;
    let meta = file
        .metadata()
        .map_err(|source| io("stat", &dir.artifacts().join(&artifact.name), source))?;
    artifact.size = meta.len();
    Ok((artifact, file))
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

/// An error about a file, with what was done to it.
pub fn io(action: &'static str, path: &FsPath, source: std::io::Error) -> ServeError {
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
}
