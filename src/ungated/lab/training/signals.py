"""Ctrl-C and SIGTERM as a request that the training loop grants when the step is done."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether someone asked the run to stop. `name` is the signal's."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Inside the block, the first SIGINT or SIGTERM only notes the request; a second one acts as it always did.

    Outside the main thread Python cannot catch signals: there the request is never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in caught}
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child inherits the handler, but nobody there reads the request
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        request.name = signal.Signals(number).name
        for other in caught:
            signal.signal(other, before[other])

    for number in caught:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
