"""SIGTERM as a request, and a second one as an order: `stages._stopping`."""

from __future__ import annotations

import signal
import time

import pytest

from stages import _stopping


def test_a_second_sigterm_ends_at_once_but_not_one_that_comes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, _stopping.stoppable() as stop:
        assert not stop()
        for now[0] in (100.0, 104.9, 105.1):
            signal.raise_signal(signal.SIGTERM)
            assert stop()
    assert (caught.value.code, now) == (128 + signal.SIGTERM, [105.1])
    assert signal.getsignal(signal.SIGTERM) is before
