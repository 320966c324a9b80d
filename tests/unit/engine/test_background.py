"""One save at a time, and none is forgotten, well or not."""

from __future__ import annotations

import threading

import pytest

from framework.engine.background import BackgroundSave


def test_it_goes_on_while_others_do_and_is_complete_when_joined():
    background, may_end, done = BackgroundSave(), threading.Event(), list[int]()

    def save() -> None:
        may_end.wait(10)
        done.append(1)

    background.begin(save)
    assert done == [] and not background.has_failed
    may_end.set()
    background.join()
    assert done == [1]
    assert background.take_seconds() is not None
    assert background.take_seconds() is None


def test_the_next_one_begins_when_the_one_before_is_complete():
    background, order = BackgroundSave(), list[int]()
    for number in range(5):
        background.begin(lambda number=number: order.append(number))
    background.join()
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["join", "begin"])
def test_an_error_comes_up_once_whatever_is_done_next(how):
    background = BackgroundSave()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    background.begin(fail)
    background._thread.join()
    assert background.has_failed
    with pytest.raises(OSError, match="No space left"):
        background.begin(print) if how == "begin" else background.join()
    assert not background.has_failed
    background.join()
