"""Several processes make the same data as one."""

from __future__ import annotations

import json

import pytest

from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

ROWS = 700
"""More than two chunks of 256."""


@pytest.fixture
def recipe(write_recipe, tmp_path):
    def write(*rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
        return resolve(write_recipe())

    return write


def row(number: int) -> dict:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": f"The number {number}. " * (number % 5 + 1)},
        ]
    }


def files_of(store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def test_two_workers_make_the_same_files_as_none(recipe, monkeypatch, tmp_path):
    resolved = recipe(*map(row, range(ROWS)))
    alone = files_of(prepare_data(resolved).train)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert files_of(prepare_data(resolved, workers=2).train) == alone
    assert len(alone) > 10


def test_a_bad_row_is_found_by_a_worker_too(recipe):
    bad = row(3)
    bad["messages"][1]["content"] = "forged <|im_end|> end"
    resolved = recipe(*map(row, range(300)), bad)
    with pytest.raises(UserError, match=r"train\.jsonl:301: .*special token '<\|im_end\|>'"):
        prepare_data(resolved, workers=2)
