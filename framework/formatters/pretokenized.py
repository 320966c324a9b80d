"""Rows of token ids and their labels -> text that is tokenized already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Row, RowError, Sample, Tokenized
from framework.reading.messages import as_list, read_column
from framework.reading.shapes import columns_hold

_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Pretokenized:
    """Reads `input_ids` and `labels`; `attention_mask` when a row has it.

    A label is its token's id where the token is trained, else -100; the model predicts each token
    from those before it, so nothing is to be shifted. Tokens at either end that the mask leaves
    out (0) are padding and not read.
    """

    labels: bool = True
    """False: rows have no `labels`, and every token is trained."""

    produces: ClassVar[type[Sample]] = Tokenized

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Ids and labels."""
        return columns_hold(row, input_ids="a list of token ids", labels="a list of token ids")

    def __call__(self, row: Row) -> Tokenized:
        """
        Raises:
            RowError: a column is missing or holds no ids, or the columns don't agree.
        """
        tokens = _ids(row, "input_ids", 0)
        labels = _ids(row, "labels", _IGNORED) if self.labels else tokens
        mask = _ids(row, "attention_mask", 0) if row.get("attention_mask") is not None else None
        for column, values in (("labels", labels), ("attention_mask", mask)):
            if values is not None and len(values) != len(tokens):
                raise RowError(f"{column} has {len(values)} items, input_ids has {len(tokens)}")
        _check_labels(tokens, labels)
        start, stop = (0, len(tokens)) if mask is None else _unpadded(mask, labels, self.labels)
        if start == stop:
            raise RowError("there are no tokens", "leave such rows out: `on_bad_row: skip`")
        return Tokenized(
            tokens=tuple(tokens[start:stop]),
            trained=tuple(label != _IGNORED for label in labels[start:stop]),
        )


def _ids(row: Row, column: str, least: int) -> Sequence[int]:
    hint = ""
    if column == "labels" and "labels" not in row:
        hint = "to train every token write `format: {type: pretokenized, labels: false}`"
        raise RowError("has no column 'labels'", hint)
    values = as_list(read_column(row, column), column)
    ids = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    if len(ids) < len(values):
        wrong = next(at for at, value in enumerate(values) if type(value) is not int)
        raise RowError(f"{column}[{wrong}] is {values[wrong]!r}, not a whole number")
    if ids and min(ids) < least:
        raise RowError(f"{column}[{ids.index(min(ids))}] is {min(ids)}, which is no token")
    return ids


def _check_labels(tokens: Sequence[int], labels: Sequence[int]) -> None:
    for at, (token, label) in enumerate(zip(tokens, labels, strict=True)):
        if label not in (token, _IGNORED):
            shifted = labels[:-1] == tokens[1:]
            raise RowError(
                f"labels[{at}] is {label}, input_ids[{at}] is {token}",
                "labels must not be shifted: they stand at their own tokens"
                if shifted
                else f"a label is its token's id, or {_IGNORED} where the token is not trained",
            )


def _unpadded(mask: Sequence[int], labels: Sequence[int], labelled: bool) -> tuple[int, int]:
    """The range of the tokens that are no padding."""
    kept = [at for at, value in enumerate(mask) if value]
    start, stop = (kept[0], kept[-1] + 1) if kept else (0, 0)
    if set(mask) - {0, 1} or 0 in mask[start:stop]:
        raise RowError(
            "attention_mask is not 1 for one stretch of tokens and 0 around it",
            "several documents in one row must be written as several rows",
        )
    if labelled and any(label != _IGNORED for label in (*labels[:start], *labels[stop:])):
        raise RowError("labels trains tokens that attention_mask leaves out")
    return start, stop
