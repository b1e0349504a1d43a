#!/bin/sh
# Runs the quickstart with a small budget, then again: the second run must execute nothing, and a changed number
# must re-run only what depends on it.
set -eu
cd "$(dirname "$0")/.."
store=$(mktemp -d "$PWD/target/quickstart.XXXXXX")
trap 'chmod -R u+w "$store"; rm -rf "$store"' EXIT INT TERM
tlm() { ./target/release/tlm "$@" --store "$store" examples/quickstart/quickstart.tlm; }

# executed OUT: how many steps a run with --json executed
executed() { grep -c '"event":"finished"' "$1" || true; }
expect() { [ "$2" = "$3" ] || { echo "quickstart: $1: expected $2, found $3" >&2; exit 1; }; }

tlm run -s budget=8k --json >"$store.1"
tlm run -s budget=8k --json >"$store.2"
expect "steps of an unchanged second run" 0 "$(executed "$store.2")"
tlm run -s budget=8k -s rate=25% --json >"$store.3"
# rate reaches two draws, two second rounds, the longer round and their three evaluations, once per start
[ "$(executed "$store.3")" -gt 0 ] && [ "$(executed "$store.3")" -lt "$(executed "$store.1")" ] ||
    { echo "quickstart: a changed rate re-ran $(executed "$store.3") of $(executed "$store.1") steps" >&2; exit 1; }
tlm run -s budget=8k
rm -f "$store".[123]
echo "quickstart: ok, $(date +%H:%M:%S)"
