# Shared by the scripts beside it: source it, don't run it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
[[ -d "$HOME/.cargo/bin" ]] && PATH="$PATH:$HOME/.cargo/bin"

VENV=.venv
STAMPS=target/stamps
DASHBOARD=server/dashboard

step() { printf '\n==> %s\n' "$*" >&2; }

fail() { # what is wrong, and what to do about it
    printf 'error: %s\n' "$1" >&2
    [[ $# -lt 2 ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# One hash of the contents and names of all files below the given paths.
hash_of() {
    find "$@" \( -name node_modules -o -name dist -o -name __pycache__ -o -name target \) -prune \
        -o -type f ! -name '*.so' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# Whether the work named $1 was last done for the state $2.
is_fresh() { [[ -f "$STAMPS/$1" && "$(<"$STAMPS/$1")" == "$2" ]]; }

mark_fresh() {
    mkdir -p "$STAMPS"
    printf '%s\n' "$2" >"$STAMPS/$1"
}
