#!/usr/bin/env bash
# Says plainly which of the tools this project is built with are missing or too old.
source "$(dirname "$0")/common.sh"

missing=0
complain() {
    printf 'missing: %s\n   hint: %s\n' "$1" "$2" >&2
    missing=1
}

# Whether version $1 is at least $2.
at_least() { [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" == "$2" ]]; }

rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! have cargo || ! have rustc; then
    complain "Rust (cargo and rustc), $rust_wanted or newer" "https://rustup.rs"
elif ! at_least "$(rustc --version | cut -d' ' -f2)" "$rust_wanted"; then
    complain "Rust $rust_wanted or newer; this is $(rustc --version | cut -d' ' -f2)" "rustup update stable"
fi

have cc || have gcc || have clang ||
    complain "a C compiler and linker" "Debian, Ubuntu: apt-get install build-essential"

if ! have node || ! have npm; then
    complain "Node 20.19 or newer, with npm" "https://nodejs.org"
elif ! at_least "$(node --version | tr -d v)" 20.19; then
    complain "Node 20.19 or newer; this is $(node --version)" "https://nodejs.org"
fi

python=${PYTHON:-python3}
if ! have "$python"; then
    complain "Python 3.9 or newer" "Debian, Ubuntu: apt-get install python3 python3-venv"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    complain "Python 3.9 or newer; this is $("$python" --version)" "set PYTHON=/path/to/python3"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    complain "Python's venv module" "Debian, Ubuntu: apt-get install python3-venv"
fi

exit "$missing"
