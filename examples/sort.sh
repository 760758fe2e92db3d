#!/bin/sh
# A pipeline of jobs: sort the parts of a file in parallel, then merge them.
#
#   sort.sh FILE SORTED
set -eu
file=$1 sorted=$2

parts=$(mktemp -d)
split -n l/4 "$file" "$parts/part."

jobs=
for part in "$parts"/part.*; do
    jobs=$jobs,$(bgctl submit --tag sort -- sort -o "$part" "$part")
done

merge=$(bgctl submit --tag sort --after "${jobs#,}" --shell "sort -m '$parts'/part.* > '$sorted'")
tidy=$(bgctl submit --tag sort --after-any "$merge" -- rm -r "$parts")
bgctl wait "$merge" "$tidy"
