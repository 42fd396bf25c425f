//! How files are written.

use std::collections::BTreeMap;

use crate::tree::{self, SourceFile};

/// Lines of a Rust file in front of its inline tests.
const LINES_MAX: usize = 400;

/// Files that are longer and wait to be split by noun: the list may only shrink.
const LONGER: &[&str] = &[];

/// Rust sources that are part of a crate; integration tests are all test.
fn sources() -> Vec<SourceFile> {
    let mut files = tree::files(&[".rs"]);
    files.retain(|f| !f.path.split('/').any(|folder| folder == "tests"));
    files
}

/// Lines in front of the first `#[cfg(test)]`.
fn lines(file: &SourceFile) -> usize {
    file.text
        .lines()
        .take_while(|l| l.trim() != "#[cfg(test)]")
        .count()
}

#[test]
fn no_rust_file_is_longer_than_a_person_reads() {
    let found: BTreeMap<String, usize> = sources()
        .iter()
        .map(|f| (f.path.clone(), lines(f)))
        .collect();
    let mut over: Vec<_> = found.iter().filter(|(_, n)| **n > LINES_MAX).collect();
    let mut short = Vec::new();
    for &known in LONGER {
        if found.get(known).is_none_or(|n| *n <= LINES_MAX) {
            short.push(known);
        }
    }
    over.retain(|(path, _)| !LONGER.contains(&path.as_str()));
    assert!(
        over.is_empty(),
        "over {LINES_MAX} lines in front of their tests, split them by noun: {over:?}"
    );
    assert!(
        short.is_empty(),
        "no longer over {LINES_MAX} lines, take them off the list: {short:?}"
    );
}

#[test]
fn every_rust_module_opens_with_its_doc() {
    let without: Vec<_> = tree::files(&[".rs"])
        .into_iter()
        .filter(|f| !f.text.starts_with("//!"))
        .map(|f| f.path)
        .collect();
    assert!(without.is_empty(), "no //! at the top of {without:?}");
}
