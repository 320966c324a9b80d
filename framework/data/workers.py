"""Samples -> encoded rows in their order, in this process or shared among several."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.chat.backend import MANY_TEXTS, ChosenBackend, choose_backend
from framework.chat.lazy_chat import LazyChat
from framework.core.problems import RunFailed
from framework.core.samples import NumberedSample
from framework.data.encode import EncodedRow, RowEncoder

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

Encode = Callable[[Iterable[NumberedSample]], Iterator[EncodedRow]]
"""A stream of samples -> what becomes of each, in the same order."""

_CHUNK_ROWS = 256
_CHUNKS_AHEAD = 3
"""Chunks that wait for each worker; what is held in memory doesn't grow with the data."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What encodes a preparation."""

    encode: Encode
    backend: ChosenBackend


@contextmanager
def start_encoding(
    lazy_chat: LazyChat, workers: int, difference: str = "", *, num_rows: int = 0
) -> Iterator[Encoding]:
    """What encodes samples: in this process, or in `workers` others.

    Args:
        difference: what the recipe's tokenizer backend is known to do otherwise than the reference,
            which then takes its place.
        num_rows: as far as it is known.

    Raises:
        BackendDisagrees: while it encodes; the reference gives other tokens.
        RunFailed: a worker died.
    """
    backend = lazy_chat.recipe.tokenizer.backend
    many_texts = workers > 1 or num_rows >= MANY_TEXTS
    chosen = choose_backend(lazy_chat.chat, backend, difference, many_texts=many_texts)
    if workers > 1:
        with _pool(lazy_chat, workers, chosen.difference) as encode:
            yield Encoding(encode=encode, backend=chosen)
    else:
        encoder = RowEncoder.of(lazy_chat.recipe, chosen.chat)
        yield Encoding(encode=functools.partial(map, encoder), backend=chosen)


@contextmanager
def _pool(lazy_chat: LazyChat, workers: int, difference: str) -> Iterator[Encode]:
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(lazy_chat.recipe, lazy_chat.model_path, difference),
    )

    def encode(samples: Iterable[NumberedSample]) -> Iterator[EncodedRow]:
        stream = iter(samples)
        waiting: deque[Future[list[EncodedRow]]] = deque()
        while chunk := list(itertools.islice(stream, _CHUNK_ROWS)):
            waiting.append(pool.submit(_encode_chunk, chunk))
            if len(waiting) > workers * _CHUNKS_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    try:
        yield encode
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker of the preparation died, perhaps for lack of memory",
            hint="start it again with fewer --workers",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: RowEncoder | None = None
"""What a worker process encodes with; set once when it starts."""


def _start(recipe: Recipe, model_path: Path, difference: str) -> None:
    global _encoder  # noqa: PLW0603 - a process pool has no other place for what a worker keeps
    chat = LazyChat(recipe, model_path).chat
    _encoder = RowEncoder.of(
        recipe, choose_backend(chat, recipe.tokenizer.backend, difference).chat
    )


def _encode_chunk(chunk: list[NumberedSample]) -> list[EncodedRow]:
    assert _encoder is not None
    return [_encoder(sample) for sample in chunk]
