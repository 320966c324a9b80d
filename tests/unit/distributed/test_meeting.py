"""What an earlier start left in a launcher's store says nothing to the processes of the next."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from framework.core.problems import RunFailed
from framework.core.world import World
from framework.distributed.meeting import watch_over
from framework.distributed.watch import Watch


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One whose store outlives what it starts."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield
    del store


def started(rank: int, seconds: float = 20.0) -> Watch:
    return watch_over(World(rank=rank, num_processes=2), seconds)


def together() -> list[Watch]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(started, (0, 1)))


def end(watches: list[Watch]) -> None:
    for watch in watches:
        watch.begin_parting()
        watch.stop()


def test_every_start_has_a_store_of_its_own(launcher):
    first = together()
    first[0].store.set("address", "of the first start")
    assert first[1].store.check(["address"])
    end(first)
    with pytest.raises(RunFailed, match="lost: rank 0, which never met the others"):
        started(1, seconds=0.2)
    second = together()
    assert not second[1].store.check(["address"])
    second[1].store.set("address", "of the second start")
    assert second[0].store.get("address") == b"of the second start"
    end(second)
