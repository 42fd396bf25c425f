#!/usr/bin/env bash
# The pictures in docs/images: real ranks train something small, and a browser looks at their runs.
source "$(dirname "$0")/common.sh"

CHROMIUM=$(scripts/chromium.sh)
export CHROMIUM
step "screenshots: into docs/images"
node scripts/screenshots.mjs "$@"
