#!/usr/bin/env bash
# Puts known bugs back, one at a time, into a copy of the tree: each must turn the tests red that its patch names.
# Writes docs/mutations.md when all did. Arguments name single bugs: then nothing is written.
source "$(dirname "$0")/common.sh"

HERE=target/mutations
TREE=$HERE/tree
CONFIG=$PWD/scripts/nextest.toml
export CARGO_TARGET_DIR=$PWD/$HERE/build

have cargo-nextest || fail "cargo-nextest is not installed" "cargo install cargo-nextest --locked"

# What a patch's header says under this name.
said() { sed -n "/^---/q; s/^$1: //p" "$2"; }

# The tree as it is now; files that did not change keep their times, so little is built again.
copy_tree() {
    mkdir -p "$TREE"
    git ls-files -z --cached --others --exclude-standard -- Cargo.toml Cargo.lock model storage actors bindings \
        server/src server/Cargo.toml server/build.rs server/dashboard/dist server/tests cli tests/house tests/fuzzing README.md |
        while IFS= read -r -d '' file; do
            [[ -f "$file" ]] || continue
            cmp -s "$file" "$TREE/$file" || install -D -m 644 "$file" "$TREE/$file"
        done
}

# Dependencies that were built already need not be built again; links take no room.
if [[ ! -d "$CARGO_TARGET_DIR" && -d target/debug ]]; then
    mkdir -p "$CARGO_TARGET_DIR/debug"
    cp -al target/debug/{deps,build,.fingerprint} "$CARGO_TARGET_DIR/debug/" 2>/dev/null || rm -rf "$CARGO_TARGET_DIR"
fi

patches=(tests/mutations/*.patch)
if [[ $# -gt 0 ]]; then
    patches=()
    for name in "$@"; do
        [[ -f "tests/mutations/$name.patch" ]] || fail "there is no bug $name" "one of: $(cd tests/mutations && echo *.patch)"
        patches+=("tests/mutations/$name.patch")
    done
fi

rows=()
alive=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    read -ra run <<<"$(said run "$patch")"
    mapfile -t red < <(said red "$patch")
    filter=$(printf ' | test(/(^|::)%s$/)' "${red[@]}")
    copy_tree
    patch --quiet -p1 -d "$TREE" <"$patch" || fail "$patch does not fit the code any more" "make it again"
    step "mutation: $name"
    (cd "$TREE" && cargo nextest run "${run[@]}" --locked --no-run) || fail "$name does not build" "make the patch again"
    log=$HERE/$name.log
    (cd "$TREE" && cargo nextest run "${run[@]}" --locked --no-fail-fast --config-file "$CONFIG" -E "${filter:3}") >"$log" 2>&1 || true
    for test in "${red[@]}"; do
        if grep -Eq "^ *(FAIL|TIMEOUT|SIGABRT|SIGSEGV) .*[ :]$test\$" "$log"; then
            echo "red: $test"
        else
            echo "GREEN, or not there: $test (see $log)"
            alive=1
        fi
    done
    rows+=("| $(said bug "$patch") | $(said changes "$patch") | $(printf '`%s`, ' "${red[@]}" | sed 's/, $//') |")
done
copy_tree
[[ $alive == 0 ]] || fail "a known bug lives, and no test says so"
[[ $# == 0 ]] || exit 0

{
    echo "# Known bugs, put back"
    echo
    echo "Each of these once cost somebody data; \`just mutations\` puts them back one at a time and writes this table when every test named here turned red."
    echo "The patches are in \`tests/mutations\`."
    echo
    echo "| bug | what the patch changes | tests that turn red |"
    echo "|---|---|---|"
    printf '%s\n' "${rows[@]}"
} >docs/mutations.md
step "mutations: every one was noticed; docs/mutations.md is written"
