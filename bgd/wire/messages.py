"""Messages between clients and the daemon as bytes: MessagePack maps with their tag in `type`.

Each side first sends a Hello; bgd.wire.requests and bgd.wire.replies have what follows. docs/protocol.md
describes it for clients in other languages, and a test compares the two.
"""

from __future__ import annotations

from functools import cache, reduce
from operator import or_
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bgd.errors import ProtocolError
from bgd.wire.replies import Reply
from bgd.wire.requests import Message, NewestJob, Request

PROTOCOL = 1


class Hello(Struct, frozen=True, tag="hello"):
    """The first message in each direction."""

    protocol: int
    version: Annotated[str, Meta(max_length=100)]  # of the program
    program: Annotated[str, Meta(max_length=100)] = ""
    newest: NewestJob | UnsetType = UNSET  # of a daemon that remembers tokens


T = TypeVar("T")
M = TypeVar("M", Request, Reply)

_encoder = msgspec.msgpack.Encoder()
_hello_decoder: msgspec.msgpack.Decoder[Hello] = msgspec.msgpack.Decoder(Hello)


def encode(message: Hello | Request | Reply) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a text, such as a file name, is not UTF-8, or a number has more than 64 bits.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8 text: {error.object!r}") from error
    except OverflowError as error:
        raise ProtocolError(f"a number has more than 64 bits: {error}") from error


def kinds_of(base: type[M]) -> dict[str, type[M]]:
    """Return all kinds of requests or of replies that are imported, by the type that their bytes name."""
    return {str(kind.__struct_config__.tag): kind for kind in base.__subclasses__()}


def tag_of(message: Request | Reply) -> str:
    """Return the type of a message, as its bytes name it."""
    return str(message.__struct_config__.tag)


def decode_hello(payload: bytes) -> Hello:
    """Return a Hello; raise ProtocolError if these bytes are none."""
    return _decoded(_hello_decoder, payload)


def decode_request(payload: bytes) -> Request:
    """Return a request; raise ProtocolError if these bytes are none."""
    return _decoded(_request_decoder(), payload)


def decode_reply(payload: bytes) -> Reply:
    """Return a reply; raise ProtocolError if these bytes are none."""
    return _decoded(_reply_decoder(_decoded(_tag_decoder, payload).type), payload)


def request_id_of(payload: bytes) -> int | None:
    """Return the id of a request that does not decode; None if even that is missing."""
    try:
        return _decode_id(payload).id
    except _UNDECODABLE:
        return None


@cache
def _request_decoder() -> msgspec.msgpack.Decoder[Request]:
    """Return a decoder that only daemons need: making it would cost each client two milliseconds."""
    import bgd.wire.schedules  # noqa: F401, PLC0415 - adds kinds that most clients never need

    return msgspec.msgpack.Decoder(reduce(or_, kinds_of(Request).values()))


class _OnlyTag(Struct):
    type: str


_tag_decoder = msgspec.msgpack.Decoder(_OnlyTag)


@cache
def _reply_decoder(tag: str) -> msgspec.msgpack.Decoder[Reply]:
    """Return a decoder for one kind of reply: one for all kinds would take a client a millisecond to make."""
    if tag not in kinds_of(Reply):
        import bgd.wire.schedules  # noqa: F401, PLC0415 - adds kinds that most clients never get
    if tag not in (kinds := kinds_of(Reply)):
        raise ProtocolError(f"not a message of protocol {PROTOCOL}: no reply is of the type {tag!r}")
    return msgspec.msgpack.Decoder(kinds[tag])


_decode_id = msgspec.msgpack.Decoder(Message).decode

# MsgspecError alone is not enough: deep nesting and bad UTF-8 raise errors of their own
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except _UNDECODABLE as error:
        raise ProtocolError(f"not a message of protocol {PROTOCOL}: {error}") from error
