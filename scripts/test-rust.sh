#!/usr/bin/env bash
# Everything about the Rust crates: form, lints, tests, documentation, dependencies.
source "$(dirname "$0")/common.sh"

scripts/build-dashboard.sh # the server embeds it

step "rust: tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked --config-file scripts/nextest.toml
else
    cargo test --workspace --locked --lib --bins --tests
fi

step "rust: documentation examples"
cargo test --workspace --locked --doc

step "rust: documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --locked --no-deps --quiet
