#!/usr/bin/env bash
# The page: its pure parts in Node, the whole in a headless browser.
source "$(dirname "$0")/common.sh"

scripts/build-dashboard.sh
step "dashboard: tests"
(cd "$DASHBOARD" && npm test --silent)

if [[ -d tests/browser ]]; then
    step "dashboard: in the browser"
    CHROMIUM=$(scripts/chromium.sh)
    export CHROMIUM
    PATH="$PWD/$VENV/bin:$PATH" # the tests call `expman` and `python`
    mapfile -t tests < <(find tests/browser -name '*.test.mjs' | LC_ALL=C sort)
    [[ ${#tests[@]} -gt 0 ]] || fail "tests/browser holds no *.test.mjs"
    timeout 600 node --test --test-timeout=120000 "${tests[@]}"
fi
