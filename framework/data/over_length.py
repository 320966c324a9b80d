"""A document longer than allowed -> what the recipe says becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from framework.core.batch import Encoded

Policy = Callable[[Encoded, int], Sequence[Encoded]]


def drop(document: Encoded, max_length: int) -> Sequence[Encoded]:
    """Nothing of it."""
    return ()


def truncate(document: Encoded, max_length: int) -> Sequence[Encoded]:
    """Its first `max_length` tokens."""
    return (_part(document, 0, max_length),)


def split(document: Encoded, max_length: int) -> Sequence[Encoded]:
    """Documents of at most `max_length` tokens in which every trained token is trained once.

    Each begins with the last token of the one before it, which gives its first trained token
    something to be predicted from.
    """
    starts = range(0, len(document.tokens) - 1, max_length - 1)
    return tuple(_part(document, start, start + max_length) for start in starts)


POLICIES: Mapping[str, Policy] = {"drop": drop, "truncate": truncate, "split": split}


def _part(document: Encoded, start: int, stop: int) -> Encoded:
    # The first token of a document has nothing before it that could predict it.
    trained = (False, *document.trained[start + 1 : stop])
    return Encoded(tokens=document.tokens[start:stop], trained=trained)
