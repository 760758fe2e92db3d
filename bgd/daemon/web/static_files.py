"""Styles, scripts and icons, each at an address with a hash of its content: browsers load it once."""

from __future__ import annotations

from functools import cache
from hashlib import blake2s
from pathlib import Path

from bgd.daemon.web.markup import palette
from bgd.wire.http import HttpRequest, HttpResponse


def static_address(name: str) -> str:
    """Return the address of a file, below the base of all pages."""
    return f"/static/{name}?{_files()[name][1]}"


def static_response(request: HttpRequest, name: str) -> HttpResponse | None:
    """Return a file, or None. A browser may cache it without limit if the address contains its version."""
    if name not in _files():
        return None
    body, version = _files()[name]
    # with the version of an earlier bgd, this content must not be kept under the address of another one
    caching = _FOREVER if request.query == version else HttpResponse().caching
    return HttpResponse(content_type=_CONTENT_TYPES[name.rpartition(".")[2]], body=body, caching=caching)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Return each file and its version, which follows the question mark of its address.

    Read all at once: when the next one is due, they may be of another version.
    """
    bodies = {path.name: path.read_bytes() for path in _FOLDER.iterdir()}
    bodies["palette.css"] = palette().encode()
    return {name: (body, blake2s(body, digest_size=8).hexdigest()) for name, body in bodies.items()}


_FOLDER = Path(__file__).parent / "static"
_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOREVER = "public, max-age=31536000, immutable"
