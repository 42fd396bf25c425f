#!/usr/bin/env bash
# Every fault of the matrix for real, whole, then the nemesis; as root, or much of it is skipped.
#
#   --seed N        of both; without it each chooses one, and prints it
#   --seconds S     how long the nemesis goes on (default 120)
#   --ranks N       how many ranks it has (default 4)
# All else goes to pytest: `just chaos -k power_cut`. With such a choice there is no nemesis,
# unless --seconds asks for it.
source "$(dirname "$0")/common.sh"

root=$PWD
python="$root/$VENV/bin/python"
PATH="$root/$VENV/bin:$PATH" # the tests call `expman`

seed=() nemesis=(--ranks 4) seconds="" choice=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --seed) seed=(--seed "$2") && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --ranks) nemesis=(--ranks "$2") && shift 2 ;;
    *) choice+=("$1") && shift ;;
    esac
done

step "chaos: every fault"
"$python" -m pytest tests/chaos "${seed[@]}" "${choice[@]}"

if [[ ${#choice[@]} == 0 || -n $seconds ]]; then
    step "chaos: the nemesis"
    PYTHONPATH="$root/tests/python" "$python" -m tests.chaos.nemesis \
        "${seed[@]}" "${nemesis[@]}" --seconds "${seconds:-120}"
fi
