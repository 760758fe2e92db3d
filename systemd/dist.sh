#!/bin/sh
# dist.sh PYTHON FOLDER: build the source package and the wheel from what Git tracks; called by `make dist`.
set -eu
umask 022
python=$(realpath -s "$1") dist=$(realpath -m "$2")
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) # the time of all files, so that two builds of a commit are equal
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dist" "$work/source" "$work/sdist"
git ls-files -z | tar --null --files-from=- -c | tar -x -C "$work/source"
build() { "$python" -c "import sys; from setuptools import build_meta; build_meta.$1(sys.argv[1])" "$2" >&2; }

(cd "$work/source" && build build_sdist "$work/sdist")
name=$(basename "$work"/sdist/*.tar.gz .tar.gz)
tar -x -C "$work" -f "$work/sdist/$name.tar.gz"
# setuptools keeps the order and the times that it finds
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=pax \
	--pax-option=delete=atime,delete=ctime -c -C "$work" "$name" | gzip -9n >"$dist/$name.tar.gz"

# The wheel is built from the source package, so that it needs nothing else
(cd "$work/$name" && build build_wheel "$dist")
