#!/usr/bin/env bash
# The Python face, as installed from the wheel: tests, and the examples in its docstrings.
# Arguments go to pytest.
source "$(dirname "$0")/common.sh"

root=$PWD
python="$root/$VENV/bin/python"
PATH="$root/$VENV/bin:$PATH" # the tests call `expman`

step "python: tests"
"$python" -m pytest "$@"

if [[ $# == 0 ]]; then
    step "chaos: a short case of each fault"
    "$python" -m pytest tests/chaos -m slice

    step "python: documentation examples"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    # Their fixtures are those of the tests.
    (cd "$scratch" && PYTHONPATH="$root/tests/python" "$python" -m pytest -q \
        -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -p conftest \
        --doctest-modules --pyargs monarch_like)
fi
