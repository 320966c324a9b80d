"""How many rows a dataset will have, told before it is read."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from framework.core.registries import registry
from framework.reading.rows import expected_rows, read_samples
from framework.recipe.resolve import resolve


def dataset_of(write_recipe, **settings):
    recipe = resolve(write_recipe(**{"data.train": [settings]}))
    return recipe.data.train[0], recipe.data


@pytest.mark.parametrize("rows", [None, ":5", "3:7", "10:", ":10%", "-5:", "14:99", "20:"])
def test_the_expected_rows_are_those_that_are_read(write_recipe, rows):
    written = {} if rows is None else {"rows": rows}
    dataset, data = dataset_of(write_recipe, source="./train.jsonl", **written)
    read = sum(1 for _ in read_samples(dataset, "train0", data))
    assert expected_rows(dataset) == read


def test_a_last_line_without_an_end_is_counted(write_recipe, tmp_path):
    dataset, _ = dataset_of(write_recipe, source="./train.jsonl")
    (tmp_path / "train.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}')
    assert expected_rows(dataset) == 2


def test_parquet_files_tell_their_rows_and_broken_ones_nothing(tmp_path):
    for number in range(2):
        table = pa.table({"text": ["a"] * (number + 3)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    source = registry("data_sources").get("parquet")(path=str(tmp_path))
    assert source.count_rows() == 3 + 4
    (tmp_path / "1.parquet").write_bytes(b"no parquet")
    assert source.count_rows() is None


def test_packed_and_missing_files_tell_nothing(tmp_path):
    jsonl = registry("data_sources").get("jsonl")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert jsonl(path=str(tmp_path / "rows.jsonl.gz")).count_rows() is None
    assert jsonl(path=str(tmp_path / "none.jsonl")).count_rows() is None
