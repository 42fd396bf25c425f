#!/usr/bin/env bash
# Counts the instructions of the inner loops and compares them with bench/instructions.json; --write takes them over.
source "$(dirname "$0")/common.sh"

scripts/build-dashboard.sh # the server embeds it

if ! have valgrind; then
    echo "valgrind is not installed: instructions are not counted (Debian: valgrind)" >&2
    exit 0
fi
step "rust: instructions of the inner loops"
# With the features that the wheel was built with, so that its crates serve here, too.
cargo build --release --locked --quiet -p expman-bindings -p expman-bench --bin instructions
"${PYTHON:-python3}" -B bench/instructions.py target/release/instructions "$@"
