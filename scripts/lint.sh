#!/usr/bin/env bash
# Form and lints of all three languages; changes nothing.
source "$(dirname "$0")/common.sh"

scripts/build-dashboard.sh # the server embeds it

step "rust: format"
cargo fmt --all --check

step "rust: clippy"
cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

if have cargo-deny; then
    step "rust: dependencies (cargo-deny)"
    # Advisories change by the day and are fetched: look with `cargo deny check advisories`.
    cargo deny --locked check --hide-inclusion-graph bans licenses sources
else
    echo "cargo-deny is not installed: licences and sources are not checked" >&2
fi

step "python: ruff, mypy, stubtest"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
# What is named there can only be imported beside torch, or is a number of our own.
"$VENV/bin/python" -m mypy.stubtest monarch_like --mypy-config-file pyproject.toml --allowlist scripts/stubtest-allowlist.txt

step "dashboard: svelte-check"
(cd "$DASHBOARD" && npm run --silent check)
