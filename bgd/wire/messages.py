"""What clients and the daemon say to each other, as bytes: MessagePack maps tagged `type`.

Each side first sends a Hello; what follows stands in bgd.wire.requests and bgd.wire.replies.
docs/protocol.md is for writers of clients in other languages; a test holds it against these files.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bgd.errors import ProtocolError
from bgd.wire.replies import Reply
from bgd.wire.requests import NewestJob, Request, RequestId

PROTOCOL = 1


class Hello(Struct, frozen=True, tag="hello"):
    """The first message each way."""

    protocol: int
    version: Annotated[str, Meta(max_length=100)]  # of the program
    program: Annotated[str, Meta(max_length=100)] = ""
    newest: NewestJob | UnsetType = UNSET  # a daemon's that remembers tokens


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_hello_decoder: msgspec.msgpack.Decoder[Hello] = msgspec.msgpack.Decoder(Hello)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Hello | Request | Reply) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a text holds what UTF-8 cannot, as a file name that is not UTF-8, or a number is
            beyond 64 bits.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8 text: {error.object!r}") from error
    except OverflowError as error:
        raise ProtocolError(f"a number is beyond 64 bits: {error}") from error


def decode_hello(payload: bytes) -> Hello:
    return _decoded(_hello_decoder, payload)


def decode_request(payload: bytes) -> Request:
    return _decoded(_request_decoder(), payload)


def decode_reply(payload: bytes) -> Reply:
    return _decoded(_reply_decoder, payload)


def request_id_of(payload: bytes) -> int | None:
    """Return the id of a request that does not decode, None if even that is missing."""
    try:
        return _decode_id(payload).id
    except _UNDECODABLE:
        return None


@cache
def _request_decoder() -> msgspec.msgpack.Decoder[Request]:
    """Return what only a daemon needs: a client, which starts often, would wait two milliseconds for it."""
    return msgspec.msgpack.Decoder(Request)


class _OnlyId(Struct):
    id: RequestId


_decode_id = msgspec.msgpack.Decoder(_OnlyId).decode

# MsgspecError alone is not enough: deep nesting and bad UTF-8 raise their own
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except _UNDECODABLE as error:
        raise ProtocolError(f"not a message of protocol {PROTOCOL}: {error}") from error
