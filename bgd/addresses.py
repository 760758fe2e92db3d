"""Addresses: where the daemon serves its pages and to whom, as [http] of the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from bgd import values
from bgd.settings import Setting, read

MAX_SOCKET_PATH = 107  # bytes: sun_path of linux/un.h, less its NUL
MAX_PORT = 65_535
PORTS = 20  # that a user's daemon tries

_UNIX = "unix:"
_USAGE = 'write "127.0.0.1:8643", "[::1]:8643", "unix:/path", or "" for no pages'


class TcpAddress(Struct, frozen=True):
    """A port of this machine, reached from this machine only. `port` 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


Address = TcpAddress | UnixAddress


DEFAULT_ADDRESS: Address | None = TcpAddress("127.0.0.1", 8643)


class Auth(StrEnum):
    TOKEN = "token"  # noqa: S105 - a word of the configuration
    NONE = "none"


class HttpConfig(Struct, frozen=True, kw_only=True):
    listen: Address | None  # None: no pages
    auth: Auth
    ports: int  # that are tried, from the one in `listen` on


def http_config(found: Mapping[str, Setting], ports: int) -> HttpConfig:
    """Return what the settings say.

    Raises:
        ConfigError: an address is none, or not of this machine alone.
    """
    return HttpConfig(
        listen=read(found, "http.listen", _address, DEFAULT_ADDRESS),
        auth=read(found, "http.auth", values.one_of({each.value: each for each in Auth}), Auth.TOKEN),
        ports=ports,
    )


def _address(setting: Setting) -> Address | None:
    text = values.text(setting)
    if not text:
        return None
    if text.startswith(_UNIX):
        return _unix_address(text.removeprefix(_UNIX))
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise ValueError(_USAGE)
    return TcpAddress(_loopback(host), int(port))


def _unix_address(path: str) -> UnixAddress:
    if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"a socket has an absolute path of at most {MAX_SOCKET_PATH} bytes: {_USAGE}")
    return UnixAddress(path)


def _loopback(host: str) -> str:
    import ipaddress  # noqa: PLC0415 - only who writes an address pays for it: clients start often

    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise ValueError(_USAGE) from None
    if is_bracketed != (address.version == 6):  # noqa: PLR2004 - of the Internet Protocol
        raise ValueError(_USAGE)
    if not address.is_loopback:
        raise ValueError(
            "pages are served on this machine only: "
            "for others put a proxy that speaks TLS in front of a unix socket"
        )
    return str(address)
