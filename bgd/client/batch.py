"""New jobs as they are asked for: one, or a batch of many in as many frames as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bgd.client.idempotency import Mark
from bgd.client.session import UNNUMBERED, framed
from bgd.core.spec import JobSpec
from bgd.errors import Full, Refused
from bgd.wire.framing import HEADER, MAX_FRAME, frame
from bgd.wire.messages import encode
from bgd.wire.requests import MAX_BATCH, MAX_BATCH_BYTES, Submit, SubmitMany


def submit_frames(request_id: int, *, spec: JobSpec, mark: Mark) -> bytes:
    """Return a Submit as it is sent; Refused as of `framed`."""
    return framed(Submit(UNNUMBERED, spec, mark.token, mark.again), request_id)


def batch_frames(request_id: int, *, specs: Sequence[JobSpec], env: dict[str, str], mark: Mark) -> bytes:
    """Return a SubmitMany in as many frames as it takes.

    Raises:
        Full: it is more than a daemon takes at once.
        Refused: one job is more than a frame holds.
    """
    if len(specs) > MAX_BATCH:
        raise Full(f"{len(specs)} jobs at once are too many: at most {MAX_BATCH}, submit them in portions")
    frames = [frame(payload) for payload in _payloads(request_id, specs, env, mark)]
    if (size := sum(map(len, frames))) > MAX_BATCH_BYTES:
        raise Full(
            f"{size} bytes at once are too many: at most {MAX_BATCH_BYTES}, submit the jobs in portions"
        )
    return b"".join(frames)


def _payloads(request_id: int, specs: Sequence[JobSpec], env: dict[str, str], mark: Mark) -> Iterator[bytes]:
    start, count = 0, len(specs)
    while True:
        end = min(start + count, len(specs))
        part = list(specs[start:end])
        inherits = any(spec.env is None and spec.argv is not None for spec in part)
        payload = encode(
            SubmitMany(
                id=request_id,
                specs=part,
                env=env if inherits else None,
                more=end < len(specs),
                token=mark.token,
                again=mark.again,
            )
        )
        if len(payload) > MAX_FRAME and len(part) > 1:
            # cut so that the next try is likely to fit; specs differ, so it may take another
            count = max(1, len(part) * (MAX_FRAME - HEADER) // (len(payload) + len(payload) // 8))
            continue
        if len(payload) > MAX_FRAME:
            raise Refused(f"job {start} of the batch takes {len(payload)} bytes: at most {MAX_FRAME}")
        yield payload
        start = end
        if start == len(specs):
            return
