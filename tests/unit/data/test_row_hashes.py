"""A changed row is found by the hashes of what rows became."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from framework.core.atomic import write_folder
from framework.core.batch import Encoded, Features
from framework.data.pack import single
from framework.data.row_hashes import (
    ChangedRows,
    changed_rows,
    read_row_hashes,
    write_row_hashes,
)
from framework.data.store import Store, StoreWriter

Row = tuple[str, int, Sequence[Features]]


def features(*lengths: int, first: int = 0, text: str = "", weight: float = 1.0) -> Features:
    documents = tuple(
        Encoded(tokens=tuple(range(first, first + n)), trained=(False, *[True] * (n - 1)))
        for n in lengths
    )
    return Features(documents=documents, numbers=(weight,), text=text)


def rows() -> list[Row]:
    return [
        ("a", 1, [features(3), features(4)]),
        ("a", 2, [features(2, 5, first=7, text="x")]),
        ("b", 1, [features(6, first=1)]),
    ]


def written(folder: Path, given: Sequence[Row]) -> Path:
    names = ["a", "b"]

    def make(part: Path) -> None:
        with StoreWriter(part) as writer:
            for name, row, parts in given:
                for number, one in enumerate(parts):
                    writer.add(one, dataset=names.index(name), row=row, part=number)
            writer.write_units([single(sum(len(parts) for _, _, parts in given))])
            writer.write_details({"datasets": [{"name": name} for name in names]})

    write_folder(folder / "store", make)
    write_row_hashes(folder / "rows.npz", {"train": Store(folder / "store")})
    return folder / "rows.npz"


def found(tmp_path: Path, given: Sequence[Row]) -> list[ChangedRows]:
    old = read_row_hashes(written(tmp_path / "old", rows()), "train")
    new = read_row_hashes(written(tmp_path / "new", given), "train")
    assert old is not None and new is not None
    return changed_rows(old, new)


def test_the_same_rows_are_the_same(tmp_path):
    assert found(tmp_path, rows()) == []
    assert read_row_hashes(tmp_path / "old" / "rows.npz", "eval") is None


@pytest.mark.parametrize(
    "other",
    [
        features(2, 5, first=8, text="x"),
        features(5, 2, first=7, text="x"),
        features(2, 5, first=7, text="y"),
        features(2, 5, first=7, text="x", weight=2.0),
        features(7, first=7, text="x"),
    ],
    ids=["tokens", "documents", "text", "number", "one document"],
)
def test_whatever_of_a_row_changes_it_is_named_and_no_other(tmp_path, other):
    one, _, three = rows()
    assert found(tmp_path, [one, ("a", 2, [other]), three]) == [
        ChangedRows(dataset="a", num_changed=1, num_rows=2, first_row=2, how="changed")
    ]


def test_missing_and_new_rows_are_named(tmp_path):
    _, two, three = rows()
    given = [two, three, ("b", 9, [features(3)])]
    assert found(tmp_path, given) == [
        ChangedRows(dataset="a", num_changed=1, num_rows=2, first_row=1, how="missing"),
        ChangedRows(dataset="b", num_changed=1, num_rows=1, first_row=9, how="new"),
    ]
