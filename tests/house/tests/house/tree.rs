//! The files of the working tree, as the tests see them.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing that was written by hand.
const SKIPPED: [&str; 5] = [
    "target",
    "node_modules",
    "dist",
    "__pycache__",
    "experiments",
];

/// One file, its path relative to the root of the tree.
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

/// The root of the tree.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("tests/house lies two folders below the root")
        .to_owned()
}

/// Every file with one of these endings, in the order of their paths.
pub fn files(endings: &[&str]) -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    collect(&root, &root, endings, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no {endings:?} in {}", root.display());
    found
}

/// The text of one file.
pub fn read(path: &str) -> String {
    let full = root().join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("read {}: {e}", full.display()))
}

fn collect(root: &Path, folder: &Path, endings: &[&str], found: &mut Vec<SourceFile>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("list {}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of a folder").path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.starts_with('.') || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if !SKIPPED.contains(&name) {
                collect(root, &path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
            let path = path
                .strip_prefix(root)
                .expect("below the root")
                .to_string_lossy();
            found.push(SourceFile {
                path: path.into_owned(),
                text,
            });
        }
    }
}
