#!/bin/sh
# Makes every table and figure of examples/paper at the profile `cpu`, and writes them into the pages beside the recipes: what stands
# between `<!-- results -->` and `<!-- end -->`. Interrupted, it goes on where it was; a second time it makes nothing.
#
#   scripts/paper.sh [TLM]       the program, by default target/release/tlm
set -eu

TLM=$(realpath "${1:-target/release/tlm}")
cd "$(dirname "$0")/../examples/paper"

"$TLM" run all.tlm --profile cpu

RESULTS=$(mktemp)
trap 'rm -f "$RESULTS" "$RESULTS.page"' EXIT
for page in *-*.md b0.md final.md ladder.md; do
  name=${page%.md}
  rm -rf "figures/$name"
  "$TLM" report "$name.tlm" --profile cpu --format markdown --figures "figures/$name" > "$RESULTS"
  rmdir "figures/$name" 2> /dev/null || true
  awk -v results="$RESULTS" '
    /^<!-- end -->$/ { inside = 0 }
    !inside { print }
    /^<!-- results -->$/ { inside = 1; print ""; while ((getline line < results) > 0) print line; print "" }
  ' "$page" > "$RESULTS.page"
  cat "$RESULTS.page" > "$page"
done
echo "examples/paper/README.md leads to every table and figure"
