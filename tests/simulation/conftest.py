from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.ERROR)  # hundreds of messages about lost launchers
    yield
    logging.disable(logging.NOTSET)
