//! Files saved with a run: copied below `artifacts/`, hashed, never overwritten by other content.

use std::fs;
use std::path::{Path, PathBuf};

use expman_model::check_artifact_name;

use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;

/// One saved file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its `/`-separated name below `artifacts/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content, hex.
    pub hash: String,
}

/// Copies a file, or every file of a folder, to `artifacts/name`.
///
/// # Errors
/// When the name would leave `artifacts/`, stands there with other content, or a file can't be read or written.
pub fn save(dir: &RunDir, source: &Path, name: &str) -> Result<Vec<Saved>> {
    check_artifact_name(name)?;
    let mut saved = Vec::new();
    for (source, name) in files(source, name)? {
        check_artifact_name(&name)?;
        saved.push(save_file(dir, &source, name)?);
    }
    Ok(saved)
}

fn files(source: &Path, name: &str) -> Result<Vec<(PathBuf, String)>> {
    let meta = fs::metadata(source).at("read artifact", source)?;
    if meta.is_file() {
        return Ok(vec![(source.to_owned(), name.to_owned())]);
    }
    if !meta.is_dir() {
        // A pipe or a device: reading it may never end.
        let source_error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(source_error).at("read artifact, which is neither file nor folder,", source);
    }
    let mut found = Vec::new();
    let mut entries = crate::layout::names(source)?;
    entries.sort();
    for (entry, path) in entries {
        found.extend(files(&path, &format!("{name}/{entry}"))?);
    }
    Ok(found)
}

fn save_file(dir: &RunDir, source: &Path, name: String) -> Result<Saved> {
    let root = dir.artifacts();
    let target = root.join(&name);
    let parent = target.parent().unwrap_or(&root);
    durable::create_dir(parent)?;
    // A link inside artifacts/ must not lead out of it.
    let real = fs::canonicalize(parent).at("resolve", parent)?;
    let real_root = fs::canonicalize(&root).at("resolve", &root)?;
    if !real.starts_with(&real_root) {
        return Err(StorageError::Name(expman_model::NameError::Escapes {
            what: "artifact name",
            name,
        }));
    }
    let tmp = parent.join(format!(
        ".{:08x}-{}.tmp",
        std::process::id(),
        blake3::hash(name.as_bytes()).to_hex().split_at(16).0
    ));
    let mut file = durable::create(&tmp)?;
    let mut hasher = blake3::Hasher::new();
    let copied = durable::copy(source, &mut file, &tmp, |bytes| {
        hasher.update(bytes);
    });
    let hash = hasher.finalize().to_hex().to_string();
    let done = copied.and_then(|size| {
        file.sync_all().at("sync", &tmp)?;
        match fs::hard_link(&tmp, &target) {
            Ok(()) => Ok(size),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && same(&target, &hash) => {
                Ok(size)
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(StorageError::ArtifactExists {
                    name: name.clone(),
                    path: target.clone(),
                })
            }
            Err(e) => Err(e).at("save", &target),
        }
    });
    crate::sealer::remove(&tmp)?;
    let size = done?;
    durable::sync_dir(parent)?;
    Ok(Saved { name, size, hash })
}

fn same(path: &Path, hash: &str) -> bool {
    hash_of(path).is_ok_and(|h| h == hash)
}

/// BLAKE3 of a file's content, hex.
///
/// # Errors
/// When it can't be read.
pub fn hash_of(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = durable::open_read(path)?;
    hasher.update_reader(file).at("read", path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Every file below `artifacts/`, by name; links are left out.
///
/// # Errors
/// When a folder can't be listed.
pub fn list(dir: &RunDir) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let mut open = vec![(dir.artifacts(), String::new())];
    while let Some((folder, prefix)) = open.pop() {
        for (name, path) in crate::layout::names(&folder)? {
            let meta = fs::symlink_metadata(&path).at("stat", &path)?;
            if meta.is_dir() {
                open.push((path, format!("{prefix}{name}/")));
            } else if meta.is_file() && path.extension().is_none_or(|e| e != "tmp") {
                found.push((format!("{prefix}{name}"), meta.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_clash_is_an_error_and_the_same_content_is_not() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        fs::create_dir_all(dir.artifacts()).unwrap();
        let source = tmp.path().join("a.txt");
        durable::replace(&source, b"one").unwrap();
        let saved = save(&dir, &source, "x/a.txt").unwrap();
        assert_eq!(saved[0].hash, hash_of(&source).unwrap());
        save(&dir, &source, "x/a.txt").unwrap();
        durable::replace(&source, b"two").unwrap();
        assert!(
            save(&dir, &source, "x/a.txt")
                .unwrap_err()
                .to_string()
                .contains("x/a.txt")
        );
        assert!(save(&dir, &source, "../a.txt").is_err());
        assert!(
            save(&dir, &tmp.path().join("missing"), "m")
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        assert_eq!(list(&dir).unwrap(), [("x/a.txt".to_owned(), 3)]);
    }

    #[test]
    fn a_folder_is_saved_with_everything_in_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        fs::create_dir_all(dir.artifacts()).unwrap();
        let source = tmp.path().join("ckpt");
        fs::create_dir_all(source.join("deep")).unwrap();
        durable::replace(&source.join("a"), b"1").unwrap();
        durable::replace(&source.join("deep/b"), b"2").unwrap();
        let names: Vec<_> = save(&dir, &source, "ckpt")
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["ckpt/a", "ckpt/deep/b"]);
    }
}
