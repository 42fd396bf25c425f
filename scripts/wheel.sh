#!/usr/bin/env bash
# Makes the wheel that is published, in target/published: for glibc 2.28 by zig's linker, optimised as one piece.
# Then installs it into an environment of its own, logs a run and lists it.
source "$(dirname "$0")/common.sh"

GLIBC=2_28
out=target/published
machine=$(uname -m)

"$VENV/bin/python" -m pip install --quiet 'maturin>=1.9,<2' 'ziglang>=0.13,<1'
scripts/build-dashboard.sh
step "wheel: building for glibc ${GLIBC/_/.} (a quarter of an hour the first time)"
rm -f "$out"/*.whl
# Its own folder: these builds and those of `just setup` would throw each other's away.
PATH="$PWD/$VENV/bin:$PATH" CARGO_TARGET_DIR=target/dist \
    CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
    "$VENV/bin/maturin" build --release --locked --zig --target "$machine-unknown-linux-gnu" \
    --compatibility "manylinux_$GLIBC" --out "$out"
wheel=$(compgen -G "$out/expman_mesh-*.whl" | head -n1)

step "wheel: trying it"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$VENV/bin/python" -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet "$wheel"
(
    cd "$tmp"
    venv/bin/python -c '
import monarch_like as ml
with ml.init("tried", base_dir="runs") as exp:
    for step in range(1000):
        exp.log_metrics({"loss": 1 / (step + 1)}, step)
'
    venv/bin/expman list runs
    venv/bin/expman list runs --json | grep -q '"rows": *1000'
) || fail "the wheel does not work" "look at $wheel"
ls -l "$wheel"
