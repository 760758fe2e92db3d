#!/bin/sh
# uninstall.sh DESTDIR PREFIX: remove what install.sh installed, but keep the configuration, jobs and logs.
set -eu
root=$1$2
rm -rf "$root/lib/bgd" "$root/share/doc/bgd"
rm -f "$root/lib/sysusers.d/bgd.conf"
for program in bgd bgctl bgd-launcher; do
	rm -f "$root/bin/$program"
done
for page in man1/bgd.1 man1/bgctl.1 man5/bgd.toml.5; do
	rm -f "$root/share/man/$page"
done
for completion in bash-completion/completions/bgctl zsh/site-functions/_bgctl fish/vendor_completions.d/bgctl.fish; do
	rm -f "$root/share/$completion"
done
for unit in bgd.service bgd.socket bgd-launcher.service; do
	rm -f "$root/lib/systemd/system/$unit" "$root/lib/systemd/user/$unit"
done
[ -n "$1" ] || echo "bgd is removed from $2; its configuration, jobs and logs are kept. Now run: systemctl daemon-reload"
