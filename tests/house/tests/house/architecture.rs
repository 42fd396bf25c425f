//! ARCHITECTURE.md and docs/guarantees.md tell the truth.

use crate::tree;

const DOCUMENT: &str = "ARCHITECTURE.md";
/// What users are promised.
const PROMISES: &str = "docs/guarantees.md";

/// Rows of the table in the section with this heading, each split into its cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let section = text
        .lines()
        .skip_while(|line| line.trim_end() != format!("## {heading}"))
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    section
        .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'))
        .map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect())
        .skip(2)
        .collect()
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// What is wrong with the tests that the last cells of these rows name.
fn missing_tests(rows: &[Vec<String>]) -> Vec<String> {
    let sources = tree::files(&[".rs", ".py", ".mjs", ".ts"]);
    let mut missing = Vec::new();
    for row in rows {
        let tests = quoted(row.last().map_or("", |cell| cell));
        if tests.is_empty() {
            missing.push(format!("{:?} names no test", row[0]));
        }
        for test in tests {
            let forms = [
                format!("fn {test}("),
                format!("def {test}("),
                format!("test(\"{test}\""),
                format!("test('{test}'"),
                format!("    {test}: \""),
            ];
            let exists = sources
                .iter()
                .any(|file| forms.iter().any(|form| file.text.contains(form)));
            if !exists {
                missing.push(format!("{test} is not in the tree"));
            }
        }
    }
    missing
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let rows = table(&tree::read(DOCUMENT), "Invariants");
    assert!(
        rows.len() >= 10,
        "only {} invariants in {DOCUMENT}",
        rows.len()
    );
    let missing = missing_tests(&rows);
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let text = tree::read(PROMISES);
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let rows: Vec<_> = headings.flat_map(|heading| table(&text, heading)).collect();
    assert!(
        rows.len() >= 25,
        "only {} promises in {PROMISES}",
        rows.len()
    );
    let missing = missing_tests(&rows);
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_file_on_the_map_exists() {
    let text = tree::read(DOCUMENT);
    let rows = table(&text, "Code map");
    assert!(rows.len() >= 10, "only {} rows in the code map", rows.len());
    let mut missing = Vec::new();
    let mut folder = String::new();
    for row in &rows {
        if let Some(named) = quoted(&row[0]).first() {
            folder = (*named).to_owned();
        }
        for file in quoted(&row[1]) {
            let path = format!("{folder}/{file}");
            if !tree::root().join(&path).exists() {
                missing.push(path);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "on the map but not in the tree: {missing:#?}"
    );
}
