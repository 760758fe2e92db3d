#!/bin/sh
# install.sh PYTHON DESTDIR PREFIX SYSCONFDIR: install or upgrade; called by `make install`.
set -eu
umask 022
python=$1 stage=${2:+$(realpath -m "$2")} prefix=$3
etc=$stage$4/bgd
doc=$prefix/share/doc/bgd
cd "$(dirname "$0")/.."
case $prefix in
/*) ;;
*) echo "PREFIX must be an absolute path, not $prefix" >&2 && exit 2 ;;
esac
case $stage$prefix in
*[\"\$\`\\]*) echo "a shell reads the programs that pip writes: no \" \$ \` or \\ in $stage$prefix" >&2 && exit 2 ;;
esac
case $("$python" -c 'import sys; print(sys.base_prefix)') in
/root/* | /home/*) echo "warning: $python is in a home folder, which bgd.service cannot see; set PYTHON=" >&2 ;;
esac

# A virtual environment, so that the system's Python is not changed. Not cleared first: bgd may be running from it.
home=$stage$prefix/lib/bgd
"$python" -m venv "$home"
source=$(mktemp -d) # a build leaves files in its folder and uses those of an earlier build
trap 'rm -rf "$source"' EXIT
cp -R bgd bgctl docs systemd setup.py pyproject.toml README.md LICENSE "$source"
pip() { "$home/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# This may run as root, so only files with the hashes in systemd/requirements.txt are downloaded. They include
# setuptools, so building bgd downloads nothing else. Nor does oncalendar, which has no wheel.
awk '/^[^ #]/ { is_wanted = /^setuptools==/ } is_wanted' systemd/requirements.txt >"$source/setuptools.txt"
pinned="install --no-compile --upgrade --require-hashes --only-binary :all:"
pip $pinned -r "$source/setuptools.txt"
pip $pinned --no-binary oncalendar --use-pep517 --no-build-isolation -r systemd/requirements.txt
pip install --no-compile --upgrade --no-index --no-deps --no-build-isolation --force-reinstall "$source"
pip uninstall --yes setuptools # it would slow down every start of Python there
# So would re, which older versions of pip import in programs to remove the suffixes that these have on Windows
sed -i '/^import re$/d; /^ *sys\.argv\[0\] = re\.sub(/d' "$home/bin/bgd" "$home/bin/bgctl" "$home/bin/bgd-launcher"
"$home/bin/python" -P - "$stage" "$prefix" <<'END' # paths may have characters that sed or systemd reads otherwise
import sys
from pathlib import Path
from urllib.parse import quote

from bgctl.service import quoted

stage, prefix = sys.argv[1:]
root = Path(stage + prefix)
if stage:  # replace the path of the stage by the final path
    for path in [root / "lib/bgd/pyvenv.cfg", *root.glob("lib/bgd/bin/*")]:
        text = b"" if path.is_symlink() or path.is_dir() else path.read_bytes()
        if stage.encode() in text:
            path.write_bytes(text.replace(stage.encode(), b""))
values = {
    "@bgd@": quoted([f"{prefix}/bin/bgd"]),
    "@bgd-launcher@": quoted([f"{prefix}/bin/bgd-launcher"]),
    "@docdir@": quote(f"{prefix}/share/doc/bgd").replace("%", "%%"),
}
for kind in ("system", "user"):
    for name in ("bgd.service", "bgd.socket", "bgd-launcher.service"):
        text = Path("systemd", kind, name).read_text()
        for place, value in values.items():
            text = text.replace(place, value)
        path = root / "lib/systemd" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
END
"$home/bin/python" -m compileall -q ${stage:+-f -s "$stage" -p /} "$home/lib"

mkdir -p "$stage$prefix/bin"
for program in bgd bgctl bgd-launcher; do
	ln -sfn "../lib/bgd/bin/$program" "$stage$prefix/bin/$program"
done
for page in man1/bgd.1 man1/bgctl.1 man5/bgd.toml.5; do
	install -D -m 644 "docs/man/${page#*/}" "$stage$prefix/share/man/$page"
done
for each in bash:bash-completion/completions/bgctl zsh:zsh/site-functions/_bgctl fish:fish/vendor_completions.d/bgctl.fish; do
	"$home/bin/python" -P -m bgctl completion "${each%%:*}" >"$source/completion"
	install -D -m 644 "$source/completion" "$stage$prefix/share/${each#*:}"
done
install -D -m 644 systemd/sysusers.conf "$stage$prefix/lib/sysusers.d/bgd.conf"
find README.md CHANGELOG.md LICENSE docs etc examples -type f -not -path '*/__pycache__/*' \
	-exec install -D -m 644 {} "$stage$doc/{}" \;
[ -e "$etc/bgd.toml" ] || install -D -m 644 etc/bgd.toml "$etc/bgd.toml"

[ -n "$stage" ] || cat <<END
bgd is installed in $prefix. As a service of this machine:
  systemd-sysusers && systemctl daemon-reload && systemctl enable --now bgd
After an upgrade: systemctl daemon-reload && systemctl restart bgd
See also, for services of single users: $doc/docs/systemd.md
END
