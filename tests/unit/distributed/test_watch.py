"""What watches over the processes leaves nothing behind."""

from __future__ import annotations

import threading
import time

from torch.distributed import HashStore

from framework.core.world import World
from framework.distributed.watch import Watch


def test_nothing_of_it_runs_any_more_when_it_was_stopped():
    before = set(threading.enumerate())
    watch = Watch(HashStore(), World(num_processes=2), 60.0, welcome=lambda: True)
    while not watch.signs():
        time.sleep(0.01)
    assert len(set(threading.enumerate()) - before) >= 2
    watch.begin_parting()
    watch.note_left()
    watch.stop()
    assert set(threading.enumerate()) <= before
