#!/bin/sh
# deb.sh FOLDER: build a Debian package for this architecture and this Debian's Python; called by `make deb`.
set -eu
umask 022
dist=$(realpath -m "$1")
cd "$(dirname "$0")/.."
python=/usr/bin/python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
make --no-print-directory install PYTHON="$python" DESTDIR="$root" PREFIX=/usr SYSCONFDIR=/etc
mkdir "$root/usr/share/zsh/vendor-completions"
mv "$root/usr/share/zsh/site-functions/_bgctl" "$root/usr/share/zsh/vendor-completions"
rmdir "$root/usr/share/zsh/site-functions"

version=$("$root/usr/lib/bgd/bin/python" -P -c 'import bgd; print(bgd.__version__)')
architecture=$(dpkg --print-architecture)
this=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
install -D -m 755 -t "$root/DEBIAN" systemd/debian/postinst systemd/debian/prerm systemd/debian/postrm
(cd "$root" && find etc -type f -printf '/%p\n') >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<END
Package: bgd
Version: $version
Architecture: $architecture
Maintainer: The bgd developers <bgd@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= $this), python3 (<< $next), libc6, init-system-helpers, systemd | systemd-standalone-sysusers
Section: admin
Priority: optional
Description: background jobs on one Linux machine
 bgd keeps jobs on disk, starts the most urgent first, retries what fails and
 keeps every log. Jobs survive the death and the upgrade of the daemon. This
 package runs it as a service, whose jobs run as the user bgd.
END
mkdir -p "$dist"
dpkg-deb --root-owner-group --build "$root" "$dist/bgd_${version}_$architecture.deb"
