#!/usr/bin/env bash
# libFuzzer over one target, or over each in turn, for so many seconds each: scripts/fuzz.sh [TARGET|all] [SECONDS]
# What it finds is in fuzz/artifacts/TARGET; what it learns stays in fuzz/corpus/TARGET, which git ignores.
# `scripts/fuzz.sh keep TARGET` puts the smallest inputs that reach the same code in the place of tests/fuzzing/corpus/TARGET.
source "$(dirname "$0")/common.sh"

KEPT=tests/fuzzing/corpus
KEPT_FILE_BYTES_MAX=4096

mapfile -t targets < <(find "$KEPT" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | LC_ALL=C sort)

cargo fuzz --version >/dev/null 2>&1 ||
    fail "cargo-fuzz is not installed" "cargo install cargo-fuzz --locked"
[[ "$(rustup toolchain list 2>/dev/null)" == *nightly* ]] ||
    fail "there is no nightly Rust, which libFuzzer's address sanitizer needs" "rustup toolchain install nightly --profile minimal"

step "fuzz: building (some minutes the first time)"
nice cargo +nightly fuzz build target
program=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release/target

is_target() { [[ " ${targets[*]} " == *" $1 "* ]] || fail "there is no target $1" "one of: ${targets[*]}"; }

# libFuzzer keeps what it finds below the name of its target, and not in the root of the tree.
fuzz() {
    local target=$1
    shift
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    # An input that hangs, or that takes more memory than any may, is a finding too.
    EXPMAN_FUZZ_TARGET=$target nice "$program" \
        -artifact_prefix="fuzz/artifacts/$target/" -timeout=20 -rss_limit_mb=4096 -max_len=65536 "$@"
}

if [[ ${1:-} == keep ]]; then
    target=${2:-}
    is_target "$target"
    smallest=$(mktemp -d)
    trap 'rm -rf "$smallest"' EXIT
    fuzz "$target" -merge=1 -max_len=$KEPT_FILE_BYTES_MAX "$smallest" "$KEPT/$target" "fuzz/corpus/$target"
    # Inputs with a name of their own were put there by hand: findings, and examples that people can read.
    find "$KEPT/$target" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    cp "$smallest"/* "$KEPT/$target/"
    du -sb "$KEPT"/*
    exit
fi

wanted=${1:-all}
seconds=${2:-60}
[[ $wanted == all ]] || { is_target "$wanted" && targets=("$wanted"); }
for target in "${targets[@]}"; do
    step "fuzz: $target for $seconds s"
    fuzz "$target" -max_total_time="$seconds" -print_final_stats=1 "fuzz/corpus/$target" "$KEPT/$target"
done
