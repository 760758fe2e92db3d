#!/bin/sh
# Install bgd in an image, for the user bgd; the Containerfile runs this.
set -eu
cd "$(dirname "$0")"
python3 -m venv /opt/bgd
/opt/bgd/bin/pip install --quiet --no-cache-dir ./bgd-*.whl
ln -s /opt/bgd/bin/bgd /opt/bgd/bin/bgctl /usr/local/bin
useradd --system --user-group --home-dir /var/lib/bgd --shell /usr/sbin/nologin bgd
install --directory --owner bgd --group bgd --mode 700 /var/lib/bgd /var/log/bgd
install --directory --owner bgd --group bgd --mode 755 /run/bgd
rm -r "$PWD"
