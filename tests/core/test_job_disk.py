"""How much of a disk is kept for what has to be written though it is full."""

from bgd.core.job import BALLAST, ballast_on


def test_a_large_disk_keeps_the_ballast_and_a_small_one_its_share():
    assert ballast_on(1 << 40) == BALLAST
    assert ballast_on(16 * BALLAST) == BALLAST
    assert ballast_on(4 << 20) == 256 << 10
