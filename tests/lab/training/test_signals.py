"""Ctrl-C and SIGTERM: the first is a request, the second acts as ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ungated.lab.training.signals import stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts_as_before(number: signal.Signals) -> None:
    received = []
    before = signal.signal(number, lambda *_: received.append("default"))
    try:
        with stop_request() as stop:
            assert not stop
            os.kill(os.getpid(), number)
            assert stop and stop.name == number.name and received == []
            os.kill(os.getpid(), number)
            assert received == ["default"]
        os.kill(os.getpid(), number)
        assert received == ["default", "default"]
    finally:
        signal.signal(number, before)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the tests were started in the background, which ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_twice_leaves_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_request():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_nothing_is_caught_and_nothing_breaks() -> None:
    seen = []

    def work() -> None:
        with stop_request() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
