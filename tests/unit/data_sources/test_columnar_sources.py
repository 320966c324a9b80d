"""parquet and arrow: rows, splits, and files cut short."""

import gc
import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from framework.core.problems import Problem, UserError
from framework.data_sources.arrow import Arrow
from framework.data_sources.parquet import Parquet

ROWS = [
    {"text": f"row {i}", "messages": [{"role": "user", "content": "é"}], "score": i / 2}
    for i in range(1000)
]


def problem_of(source):
    with pytest.raises(UserError) as caught:
        list(source.rows())
    (problem,) = caught.value.problems
    return problem


@pytest.fixture
def saved(tmp_path):
    import datasets

    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder), num_shards=3)
    return folder


def write_parquet(path, rows=ROWS):
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    return str(path)


def test_parquet_rows_are_numbered_from_one(tmp_path):
    path = write_parquet(tmp_path / "a.parquet")
    assert list(Parquet(path=path).rows()) == list(enumerate(ROWS, start=1))


def test_parquet_is_read_batch_by_batch(tmp_path, monkeypatch):
    """Arrow's memory while rows are taken stays far below the table's size."""
    rows = [{"text": str(i) * 2000} for i in range(20_000)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    table_bytes = parquet.read_table(path).nbytes
    gc.collect()  # what an earlier test left would be freed in between
    before = pa.total_allocated_bytes()
    most = 0
    for number, _ in Parquet(path=path).rows():
        if number % 100 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < table_bytes / 10


def test_parquet_cut_short_or_empty_is_a_problem(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    problem = problem_of(Parquet(path=str(path)))
    assert "no readable Parquet file" in problem.what
    assert problem.file == str(path)
    path.write_bytes(b"")
    assert "no readable Parquet file" in problem_of(Parquet(path=str(path))).what
    parquet.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    assert problem_of(Parquet(path=str(path))).what == "holds no rows"


def test_a_dataset_saved_to_disk_is_read_without_its_caches(saved):
    with ipc.new_stream(saved / "cache-1234.arrow", pa.schema([("text", pa.string())])) as writer:
        writer.write_batch(pa.record_batch({"text": ["stale"]}))
    source = Arrow(path=str(saved))
    assert [row for _, row in source.rows()] == ROWS
    assert [number for number, _ in source.rows()] == list(range(1, 1001))
    file, number = source.place(1000)
    assert (file, number) == (str(saved / "data-00002-of-00003.arrow"), 333)


def test_a_dataset_with_splits_asks_which(tmp_path):
    import datasets

    parts = {"train": ROWS[:3], "test": ROWS[3:5]}
    folder = str(tmp_path / "dict")
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    ).save_to_disk(folder)
    assert "choose one: {type: arrow, path: " in problem_of(Arrow(path=folder)).hint
    assert "did you mean 'test'?" in problem_of(Arrow(path=folder, split="tset")).hint
    assert [row for _, row in Arrow(path=folder, split="test").rows()] == parts["test"]
    assert "leave out `split`" in problem_of(Arrow(path=f"{folder}/test", split="test")).hint


@pytest.mark.parametrize("new", [ipc.new_stream, ipc.new_file])
def test_both_arrow_formats_are_read(tmp_path, new):
    path = tmp_path / "a.arrow"
    table = pa.Table.from_pylist(ROWS)
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    assert list(Arrow(path=str(path)).rows()) == list(enumerate(ROWS, start=1))


def test_a_missing_shard_and_a_cut_one_are_problems(saved):
    shard = saved / "data-00001-of-00003.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert "no readable Arrow file" in problem_of(Arrow(path=str(saved))).what
    shard.unlink()
    problem = problem_of(Arrow(path=str(saved)))
    assert "lists 'data-00001-of-00003.arrow'" in problem.what


@pytest.mark.parametrize(
    "state", ["{", "[]", "{}", '{"_data_files": [1]}', '{"_data_files": [{"filename": "../x"}]}']
)
def test_a_broken_state_file_is_a_problem(saved, state):
    (saved.parent / "x").write_text("outside")
    (saved / "state.json").write_text(state)
    assert problem_of(Arrow(path=str(saved))).file == str(saved / "state.json")


def with_one_row_of_latin1(sink, write):
    """Three rows, the second of which holds a byte that is not UTF-8."""
    rows = [{"text": f"row {i}", "messages": [{"content": f"cafe{i}"}] * 2} for i in range(3)]
    write(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes().replace(b"cafe1", b"caf\xe91")


def write_arrow(table, sink):
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("source", "write"),
    [
        (Parquet, lambda table, sink: parquet.write_table(table, sink, compression="none")),
        (Arrow, write_arrow),
    ],
)
def test_a_row_that_is_not_utf8_is_broken_and_its_neighbours_are_not(tmp_path, source, write):
    path = tmp_path / f"a.{source.__name__.lower()}"
    path.write_bytes(with_one_row_of_latin1(pa.BufferOutputStream(), write))
    (_, first), (number, problem), (_, third) = source(path=str(path)).rows()
    assert (first["text"], third["text"]) == ("row 0", "row 2")
    assert isinstance(problem, Problem)
    assert (number, problem.file, problem.line) == (2, str(path), 2)
    assert "UTF8" in problem.what


@pytest.mark.parametrize("source", [Parquet, Arrow])
def test_two_columns_of_one_name_are_a_problem(tmp_path, source):
    path = tmp_path / f"a.{source.__name__.lower()}"
    table = pa.table([["x"], ["y"]], names=["text", "text"])
    sink = pa.BufferOutputStream()
    (parquet.write_table if source is Parquet else write_arrow)(table, sink)
    path.write_bytes(sink.getvalue().to_pybytes())
    assert "'text' more than once" in problem_of(source(path=str(path))).what


def test_a_folder_of_other_files_names_the_source_that_fits(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}))
    problem = problem_of(Arrow(path=str(tmp_path)))
    assert problem.hint == "it holds a.jsonl: write `type: jsonl`"
