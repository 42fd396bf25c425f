#!/usr/bin/env bash
# Measures the built wheel beside other loggers, each in a virtual environment of its own in target/bench/venvs,
# and writes docs/benchmarks.md; see bench/run.py for the options.
#   quick   a minute: one small round beside few others, only printed
#   scale   against ranks, history, names and runs, into docs/benchmarks-scale.md; see bench/scale.py
#   view    listing, charts and following of runs, beside other servers, only printed; see bench/view.py
#   text    capturing, searching and folding of text, only printed; see bench/text.py
source "$(dirname "$0")/common.sh"

case "${1:-} $*" in
scale*-h | scale*--help) exec "${PYTHON:-python3}" -B bench/scale.py --help ;;
view*-h | view*--help) exec "${PYTHON:-python3}" -B bench/view.py --help ;;
text*-h | text*--help) exec "${PYTHON:-python3}" -B bench/text.py --help ;;
*-h | *--help) exec "${PYTHON:-python3}" -B bench/run.py --help ;;
esac

BENCH=target/bench
PYTHON=${PYTHON:-python3}
wheel=$(compgen -G 'target/wheels/expman_mesh-*.whl' | head -n1) ||
    fail "there is no wheel in target/wheels" "just setup"
python_version=$("$PYTHON" --version)

# A virtual environment $1 that holds the packages behind it, made again when $2 changes.
environment() {
    local at="$BENCH/venvs/$1" state=$2
    shift 2
    is_fresh "${at//\//-}" "$state" && [[ -x "$at/bin/python" ]] && return
    step "benchmark: installing $* into $at"
    rm -rf "$at"
    "$PYTHON" -m venv "$at" && "$at/bin/python" -m pip install --quiet "$@" && mark_fresh "${at//\//-}" "$state"
}

# One of somebody else; who can't be installed is left out, and named in the report.
peer() {
    environment "$1" "$python_version ${*:2}" "${@:2}" && return
    echo "$1 is left out: ${*:2} could not be installed" >&2
    rm -rf "$BENCH/venvs/$1"
}

# Those that bench/run.py would measure with these arguments.
peers() {
    local name packages
    "$PYTHON" -B bench/run.py "$BENCH/venvs" "$@" --environments >"$BENCH/environments"
    while read -r name packages; do
        # shellcheck disable=SC2086 # one word for each package
        peer "$name" $packages </dev/null
    done <"$BENCH/environments"
}

# expman-rs's program, as $exp: the one in its wheel wants a newer libc than Debian 12 has.
build_exp() {
    exp="$BENCH/cargo/bin/exp"
    if [[ ! -x "$exp" ]] && have protoc; then
        step "benchmark: building expman-rs's program (some minutes)"
        cargo install --quiet expman --version 1.3.0 --features cli,server --root "$BENCH/cargo" || true
    fi
    [[ -x "$exp" ]] ||
        echo "expman-rs's program is left out: building it needs protoc (Debian: protobuf-compiler)" >&2
}

# Whether an option was given.
given() { [[ " $2 " == *" $1"[\ =]* ]]; }

mkdir -p "$BENCH/venvs"
environment expman-mesh "$python_version $(sha256sum <"$wheel")" pyarrow "$wheel" ||
    fail "our own wheel or pyarrow could not be installed" "the benchmark needs PyPI"

kind=${1:-}
given --exp "$*" || build=build_exp
case $kind in
text)
    step "benchmark: measuring text"
    exec "$BENCH/venvs/expman-mesh/bin/python" -B bench/text.py "$BENCH/venvs/expman-mesh/bin/python" "${@:2}"
    ;;
scale)
    step "benchmark: measuring scale (about 5 minutes)"
    output=(--output docs/benchmarks-scale.md --images docs/images)
    given --output "$*" && output=()
    exec "$PYTHON" -B bench/scale.py "$BENCH/venvs" "${@:2}" "${output[@]}"
    ;;
view)
    peer tensorboard tensorboard
    peers --peers "expman-rs 1.3.0,trackio" --only start
    ${build:-:}
    [[ -x "${exp:-}" ]] && set -- "$@" --exp "$exp"
    step "benchmark: measuring viewing"
    exec "$PYTHON" -B bench/view.py "$BENCH/venvs" "${@:2}"
    ;;
quick)
    peers "$@"
    step "benchmark: measuring (about a minute)"
    exec "$PYTHON" -B bench/run.py "$BENCH/venvs" "$@"
    ;;
esac

peers "$@"
${build:-:}
[[ -x "${exp:-}" ]] && set -- "$@" --exp "$exp"
step "benchmark: measuring (about 25 minutes)"
# A part of it is only printed.
given --output "$*" || given --only "$*" || given --peers "$*" ||
    set -- "$@" --output docs/benchmarks.md --images docs/images
exec "$PYTHON" -B bench/run.py "$BENCH/venvs" "$@"
