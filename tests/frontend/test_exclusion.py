"""Sharers run together, an excluder alone; neither waits for ever, nested and mixed as calls and traces are."""

import threading
import time

from jitinfer.frontend.exclusion import Exclusion


def in_threads(*functions, timeout=20):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    return [thread.is_alive() for thread in threads]


def test_an_excluder_is_alone_and_sharers_are_not():
    exclusion = Exclusion()
    inside, most_sharers, broken = [], [0], []

    def share():
        for _ in range(200):
            with exclusion.shared(), exclusion.shared():
                inside.append("share")
                most_sharers[0] = max(most_sharers[0], len(inside))
                if "exclude" in inside:
                    broken.append(list(inside))
                time.sleep(0.0001)
                inside.remove("share")

    def exclude():
        for _ in range(50):
            with exclusion.exclusive(), exclusion.exclusive(), exclusion.shared():
                inside.append("exclude")
                if len(inside) > 1:
                    broken.append(list(inside))
                inside.remove("exclude")

    assert in_threads(share, share, share, exclude, exclude) == [False] * 5
    assert broken == []
    assert most_sharers[0] > 1


def test_two_sharers_that_both_want_to_exclude_do_not_wait_for_each_other():
    exclusion = Exclusion()
    barrier = threading.Barrier(2)

    def upgrade():
        with exclusion.shared():
            barrier.wait(10)
            with exclusion.exclusive():
                time.sleep(0.01)

    assert in_threads(upgrade, upgrade) == [False, False]


def test_an_excluder_gets_in_although_sharers_keep_coming():
    exclusion = Exclusion()
    stop = threading.Event()
    waited = []

    def share():
        while not stop.is_set():
            with exclusion.shared():
                time.sleep(0.002)

    def exclude():
        started = time.monotonic()
        with exclusion.exclusive():
            waited.append(time.monotonic() - started)
        stop.set()

    assert in_threads(share, share, share, share, exclude) == [False] * 5
    assert waited[0] < 5


def test_released_lets_an_excluder_in_and_takes_the_share_back():
    exclusion = Exclusion()
    order = []
    sharing, excluded = threading.Event(), threading.Event()

    def share():
        with exclusion.shared():
            sharing.set()
            with exclusion.released():
                assert excluded.wait(10)
            order.append("shared again")

    def exclude():
        assert sharing.wait(10)
        with exclusion.exclusive():
            excluded.set()
            time.sleep(0.05)
            order.append("excluded")

    assert in_threads(share, exclude) == [False, False]
    assert order == ["excluded", "shared again"]
