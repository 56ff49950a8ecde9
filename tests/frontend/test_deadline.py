"""A deadline ends what does not end, also where it is swallowed at first."""

import time

import pytest

from jitinfer.frontend import deadline as module
from jitinfer.frontend.deadline import DeadlineError, deadline


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_it_is_raised_again_where_it_was_swallowed(monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.1)
    swallowed = False
    with pytest.raises(DeadlineError), deadline(0.1):  # noqa: PT012
        try:
            spin(20)
        except DeadlineError:
            swallowed = True
        spin(20)
    assert swallowed


def test_nothing_happens_in_time():
    with deadline(0.05):
        pass
    spin(0.2)
