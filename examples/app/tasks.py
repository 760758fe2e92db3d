"""Jobs of functions: each says for itself how it runs in the background, and can be called as ever."""

import bgd


@bgd.job(queue="mail", retries=5, retry_delay=60.0)
def send_letter(address: str, *, copies: int = 1) -> str:
    print(f"to {address}")  # noqa: T201 - which is the attempt's log
    return f"{copies} for {address}"


@bgd.job
def area(width: float, height: float) -> float:
    return width * height
