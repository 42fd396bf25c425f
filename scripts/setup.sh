#!/usr/bin/env bash
# Makes .venv hold the package as built from this tree, with the extras named (demo, test).
# Does again only what is out of date.
source "$(dirname "$0")/common.sh"

extras=${1:-demo}
scripts/check-tools.sh || fail "tools are missing" "install what is named above, then run this again"

if [[ ! -x "$VENV/bin/python" ]]; then
    step "python: making $VENV"
    "${PYTHON:-python3}" -m venv "$VENV"
fi
pip=("$VENV/bin/python" -m pip install --quiet)

scripts/build-dashboard.sh

wheel=$(compgen -G 'target/wheels/expman_mesh-*.whl' | head -n1 || true)
sources=$(hash_of Cargo.toml Cargo.lock pyproject.toml README.md LICENSE \
    model storage actors bindings server cli python)
if [[ -z "$wheel" ]] || ! is_fresh wheel "$sources"; then
    [[ -x "$VENV/bin/maturin" ]] || "${pip[@]}" 'maturin>=1.9,<2'
    step "wheel: building (some minutes the first time)"
    rm -f target/wheels/expman_mesh-*.whl
    "$VENV/bin/maturin" build --release --locked --out target/wheels
    wheel=$(compgen -G 'target/wheels/expman_mesh-*.whl' | head -n1)
    mark_fresh wheel "$sources"
fi

python_version=$("$VENV/bin/python" --version)
if ! is_fresh installed "$sources $python_version" || ! "$VENV/bin/python" -c 'import monarch_like' 2>/dev/null; then
    step "wheel: installing into $VENV"
    "${pip[@]}" --force-reinstall --no-deps "$wheel"
    mark_fresh installed "$sources $python_version"
fi

for extra in ${extras//,/ }; do
    wanted="$(hash_of pyproject.toml) $python_version"
    if ! is_fresh "extra-$extra" "$wanted"; then
        step "python: installing what '$extra' needs"
        "${pip[@]}" "$wheel[$extra]"
        mark_fresh "extra-$extra" "$wanted"
    fi
done
