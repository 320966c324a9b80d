"""Python's waiting for other processes -> spans of communication."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framework.core.spans import span


@contextmanager
def waits_marked() -> Iterator[None]:
    """Every `wait` for a collective is a span, while the context lasts.

    What C++ waits for, as DDP at the end of a backward pass, isn't seen here.
    """
    from torch._C._distributed_c10d import Work

    kind: Any = Work
    wait = kind.wait

    def marked(work: Any, *arguments: Any, **settings: Any) -> Any:
        with span("communication"):
            return wait(work, *arguments, **settings)

    kind.wait = marked
    try:
        yield
    finally:
        kind.wait = wait
