#!/usr/bin/env bash
# Prints the path of a Chromium for the browser tests; installs Debian's where that is possible.
source "$(dirname "$0")/common.sh"

find_chromium() {
    local name
    for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        [[ -n "$name" ]] && command -v "$name" && return
    done
    return 1
}

find_chromium && exit
if [[ $(id -u) == 0 ]] && have apt-get; then
    step "chromium: installing Debian's"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >&2 ||
        fail "Chromium could not be installed" "install it yourself, or set CHROMIUM=/path/to/chromium"
    find_chromium && exit
fi
fail "no Chromium for the browser tests" "apt-get install chromium, or set CHROMIUM=/path/to/chromium"
