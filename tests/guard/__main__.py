"""Print what the workloads of the guard cost now, beside the table of bounds."""

from __future__ import annotations

from tests.guard.bounds import BOUNDS
from tests.guard.counting import count_all


def main() -> None:
    """Print each count with the figure and the bound of the table."""
    print(f"{'now':>11} {'seen':>11} {'bound':>11}")
    for what, now in count_all().items():
        seen, bound = BOUNDS.get(what, (0, 0))
        print(f"{now:11,} {seen:11,} {bound:11,}  {what}{'  ABOVE' if now > bound else ''}")


if __name__ == "__main__":
    main()
