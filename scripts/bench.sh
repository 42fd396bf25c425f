#!/usr/bin/env bash
# Measures the built wheel against expman-rs and a pyarrow loop; see bench/run.py for the options.
# `quick` measures one short round and only prints it; otherwise docs/benchmarks.md is written.
# `text` measures capturing, searching and folding of text instead, `view` listing, charts and following of runs,
# beside TensorBoard, trackio and expman-rs's server; both print it; see bench/text.py and bench/view.py.
source "$(dirname "$0")/common.sh"

BENCH=target/bench
wheel=$(compgen -G 'target/wheels/expman_mesh-*.whl' | head -n1) ||
    fail "there is no wheel in target/wheels" "just setup"

# A virtual environment $1 that holds the packages behind it, made again when $2 changes.
environment() {
    local at="$BENCH/venvs/$1" state=$2
    shift 2
    is_fresh "${at//\//-}" "$state" && [[ -x "$at/bin/python" ]] && return
    step "benchmark: installing $* into $at"
    rm -rf "$at"
    "${PYTHON:-python3}" -m venv "$at"
    "$at/bin/python" -m pip install --quiet "$@" ||
        fail "$* could not be installed" "the benchmark needs PyPI"
    mark_fresh "${at//\//-}" "$state"
}

python_version=$("${PYTHON:-python3}" --version)
environment expman-mesh "$python_version $(sha256sum <"$wheel")" pyarrow "$wheel"
environment expman-rs "$python_version 1.3.0" pyarrow expman-rs==1.3.0
environment pyarrow-loop "$python_version" pyarrow

if [[ "${1:-}" == text ]]; then
    step "benchmark: measuring text"
    exec "$BENCH/venvs/expman-mesh/bin/python" -B bench/text.py \
        "$BENCH/venvs/expman-mesh/bin/python" "${@:2}"
fi

if [[ "${1:-}" == view ]]; then
    environment tensorboard "$python_version" tensorboard
    environment trackio "$python_version" trackio
    # The program in expman-rs's wheel wants a newer libc than Debian 12 has; from its crate it runs, and needs protoc.
    exp="$BENCH/cargo/bin/exp"
    if [[ ! -x "$exp" ]] && command -v protoc >/dev/null; then
        step "benchmark: building expman-rs's server (some minutes)"
        cargo install --quiet expman --version 1.3.0 --features cli,server --root "$BENCH/cargo" || true
    fi
    [[ -x "$exp" ]] && set -- "$@" --exp "$exp" ||
        echo "expman-rs's server is left out: building it needs protoc (Debian: protobuf-compiler)" >&2
    step "benchmark: measuring viewing"
    exec "${PYTHON:-python3}" -B bench/view.py "$BENCH/venvs" "${@:2}"
fi

step "benchmark: measuring"
output=(--output docs/benchmarks.md)
[[ " $* " == *" quick "* || " $* " == *" --output "* ]] && output=()
exec "$BENCH/venvs/expman-mesh/bin/python" -B bench/run.py "$BENCH/venvs" "$@" "${output[@]}"
