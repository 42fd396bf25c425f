# What there is to do here. `just` alone lists it; the work is in scripts/.

set shell := ["bash", "-uc"]

_list:
    @just --list --unsorted

# Four processes train on real data; the page shows them live
[group('use')]
demo *args: (setup "demo")
    .venv/bin/python examples/demo.py {{ args }}

# Build everything and install it into .venv; extras: demo, test
[group('use')]
setup extras="demo,test":
    @scripts/setup.sh {{ extras }}

# Everything that must hold
[group('check')]
test: (setup "demo,test") lint test-rust test-instructions test-python test-dashboard

# Form and lints of all three languages
[group('check')]
lint: (setup "demo,test")
    @scripts/lint.sh

[group('check')]
test-rust:
    @scripts/test-rust.sh

# Instructions of the inner loops against bench/instructions.json; --write takes them over
[group('check')]
test-instructions *args:
    @scripts/test-instructions.sh {{ args }}

# The installed wheel; arguments go to pytest
[group('check')]
test-python *args: (setup "demo,test")
    @scripts/test-python.sh {{ args }}

# Every fault of the matrix, whole, then the nemesis: --seed, --seconds, --ranks; or pytest's -k
[group('check')]
chaos *args: (setup "demo,test")
    @scripts/test-chaos.sh {{ args }}

[group('check')]
test-dashboard: (setup "demo,test")
    @scripts/test-dashboard.sh

# libFuzzer over what others may write, one target or all, so many seconds each
[group('check')]
fuzz target="all" seconds="60":
    @scripts/fuzz.sh {{ target }} {{ seconds }}

# Known bugs put back one at a time: each must turn its tests red
[group('check')]
mutations *names:
    @scripts/mutations.sh {{ names }}

# Format all three languages in place
[group('change')]
fmt: (setup "demo,test")
    cargo fmt --all
    .venv/bin/ruff check --select I --fix .
    .venv/bin/ruff format .

# The figures in docs/benchmarks.md, measured again; or quick, scale, view, text; --only, --peers, --rounds
[group('change')]
bench *args: (setup "demo,test")
    @scripts/bench.sh {{ args }}

# The wheel to publish, for glibc 2.28, in target/published
[group('change')]
wheel: (setup "demo")
    @scripts/wheel.sh

# Remove what was built
[group('change')]
clean:
    rm -rf target .venv server/dashboard/dist server/dashboard/node_modules
