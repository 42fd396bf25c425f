#!/usr/bin/env bash
# Builds the page that the server embeds, when its sources have changed.
source "$(dirname "$0")/common.sh"

packages=$(hash_of "$DASHBOARD/package.json" "$DASHBOARD/package-lock.json")
if [[ ! -d "$DASHBOARD/node_modules" ]] || ! is_fresh dashboard-packages "$packages"; then
    step "dashboard: installing packages"
    (cd "$DASHBOARD" && npm ci)
    mark_fresh dashboard-packages "$packages"
fi

sources=$(hash_of "$DASHBOARD")
if [[ ! -f "$DASHBOARD/dist/index.html" ]] || ! is_fresh dashboard "$sources"; then
    step "dashboard: building"
    (cd "$DASHBOARD" && npm run build)
    mark_fresh dashboard "$sources"
fi
