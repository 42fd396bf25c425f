//! Who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::tree;

/// Crates of the house, and the crates of the house that each may depend on.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("expman-model", &[]),
    ("expman-storage", &["expman-model"]),
    ("expman-actors", &["expman-model", "expman-storage"]),
    ("expman-server", &["expman-model", "expman-storage"]),
    (
        "expman-cli",
        &[
            "expman-actors",
            "expman-model",
            "expman-server",
            "expman-storage",
        ],
    ),
    (
        "expman-bindings",
        &[
            "expman-actors",
            "expman-cli",
            "expman-model",
            "expman-storage",
        ],
    ),
    (
        "expman-fuzzing",
        &[
            "expman-actors",
            "expman-model",
            "expman-server",
            "expman-storage",
        ],
    ),
    (
        "expman-bench",
        &["expman-actors", "expman-model", "expman-storage"],
    ),
    ("expman-house", &[]),
];

/// Crates that are nothing but tests and measures: they may know whatever they look at.
const ONLY_TESTS: [&str; 3] = ["expman-bench", "expman-fuzzing", "expman-house"];

/// Foreign crates that only one crate of the house may know.
const KNOWN_BY_ONE: [(&str, &str); 4] = [
    ("pyo3", "expman-bindings"),
    ("pyo3-async-runtimes", "expman-bindings"),
    ("parquet", "expman-storage"),
    ("axum", "expman-server"),
];

/// What would bring I/O or a runtime into the nouns.
const NOT_IN_MODEL: [&str; 5] = ["tokio", "ractor", "rustix", "axum", "arrow"];

/// Files of `actors/` that touch sockets outside `link/`: to be emptied, not extended.
const SOCKETS_OUTSIDE_LINK: [&str; 1] = ["actors/src/join.rs"];

/// Normal dependencies by crate; those of tests and build scripts may cross the house.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(tree::root())
        .output()
        .expect("run cargo metadata");
    assert!(
        done.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let metadata: Value = serde_json::from_slice(&done.stdout).expect("JSON of cargo metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |of: &Value| of["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies");
            let normal = all.iter().filter(|d| d["kind"].is_null()).map(name);
            (name(package), normal.collect())
        })
        .collect()
}

#[test]
fn dependencies_follow_the_edges_of_the_house() {
    let found = dependencies();
    let known: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let crates: Vec<_> = found.keys().map(String::as_str).collect();
    let mut expected: Vec<_> = known.keys().copied().collect();
    expected.sort_unstable();
    assert_eq!(
        crates, expected,
        "a crate without a place in the house, or a place without its crate"
    );
    for (name, dependencies) in &found {
        for other in dependencies
            .iter()
            .filter(|d| known.contains_key(d.as_str()))
        {
            assert!(
                known[name.as_str()].contains(&other.as_str()),
                "{name} may not depend on {other}"
            );
        }
    }
}

#[test]
fn actors_and_server_never_import_each_other() {
    let found = dependencies();
    assert!(!found["expman-actors"].contains("expman-server"));
    assert!(!found["expman-server"].contains("expman-actors"));
}

#[test]
fn only_bindings_knows_pyo3_and_only_storage_knows_parquet() {
    let mut found = dependencies();
    found.retain(|name, _| !ONLY_TESTS.contains(&name.as_str()));
    for (name, dependencies) in found {
        for (foreign, by) in KNOWN_BY_ONE {
            assert_eq!(
                dependencies.contains(foreign),
                name == by,
                "{foreign} belongs to {by} alone; {name} is wrong about it"
            );
        }
    }
}

#[test]
fn the_model_knows_no_runtime() {
    let found = dependencies();
    for foreign in NOT_IN_MODEL {
        assert!(
            !found["expman-model"].contains(foreign),
            "expman-model may not depend on {foreign}"
        );
    }
}

#[test]
fn only_the_link_knows_sockets() {
    let sockets = ["UnixStream", "UnixListener", "TcpStream", "TcpListener"];
    let mut outside: Vec<_> = tree::files(&[".rs"])
        .into_iter()
        .filter(|f| f.path.starts_with("actors/src/") && !f.path.starts_with("actors/src/link/"))
        .filter(|f| sockets.iter().any(|socket| f.text.contains(socket)))
        .map(|f| f.path)
        .collect();
    outside.sort();
    assert_eq!(
        outside, SOCKETS_OUTSIDE_LINK,
        "sockets belong to actors/src/link; a file that lost its own leaves the list"
    );
}
