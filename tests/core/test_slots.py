from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bgd.core.slots import Slots

NUMBERS = {1, 2, 3, 4, 5, 6}


class SlotHistories(RuleBasedStateMachine):
    """Jobs take slots, some several, and give them back; some were restored."""

    def __init__(self):
        super().__init__()
        self.slots = Slots()
        self.slots.total = 3
        self.held: dict[int, int] = {}

    @precondition(lambda self: self.held.keys() != NUMBERS)
    @rule(size=st.integers(1, 2))
    def take(self, size):
        free = min(NUMBERS - self.held.keys())
        assert self.slots.take(size) == free
        self.held[free] = size

    @precondition(lambda self: self.held.keys() != NUMBERS)
    @rule(data=st.data(), size=st.integers(1, 2))
    def restore(self, data, size):
        number = data.draw(st.sampled_from(sorted(NUMBERS - self.held.keys())))
        self.slots.retake(number, size)
        self.held[number] = size

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data):
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.slots.give_back(number, self.held.pop(number))

    @invariant()
    def count(self):
        assert self.slots.taken == sum(self.held.values())


TestSlotHistories = SlotHistories.TestCase


def test_a_free_number_that_is_restored_is_not_taken_again():
    slots = Slots()
    first, _ = slots.take(1), slots.take(1)
    slots.give_back(first, 1)
    slots.retake(first, 1)

    assert slots.take(1) == 3
