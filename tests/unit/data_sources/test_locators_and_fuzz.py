"""Which source a plain string means, and that any bytes are rows or a UserError."""

import contextlib
import gzip

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from framework.core.problems import Problem, UserError
from framework.core.registries import registry
from framework.data_sources.arrow import Arrow
from framework.data_sources.csv import Csv
from framework.data_sources.json import Json
from framework.data_sources.jsonl import Jsonl
from framework.data_sources.parquet import Parquet
from framework.data_sources.text import Text


def takers(locator):
    kind = registry("data_sources")
    return [name for name in kind.names() if kind.get(name).from_locator(locator) is not None]


@pytest.mark.parametrize(
    ("locator", "source"),
    [
        ("train.jsonl", "jsonl"),
        ("data/train.ndjson", "jsonl"),
        ("../train.JSONL.gz", "jsonl"),
        ("owner/train.jsonl", "jsonl"),
        ("train.json", "json"),
        ("/data/*.csv", "csv"),
        ("train.tsv", "csv"),
        ("~/x.parquet", "parquet"),
        ("books/**/*.txt", "text"),
        ("README.md", "text"),
        ("cache.arrow", "arrow"),
        ("./saved", "arrow"),
        ("./saved.v2/", "arrow"),
        ("saved/", "arrow"),
        ("/data/saved", "arrow"),
        ("~/saved", "arrow"),
        ("..", "arrow"),
        ("owner/name", "hub"),
        ("HuggingFaceH4/ultrachat_200k", "hub"),
        ("owner/name-v1.5", "hub"),
    ],
)
def test_exactly_one_source_takes_a_locator(locator, source):
    assert takers(locator) == [source]


@pytest.mark.parametrize(
    "locator", ["", "name", "a/b/c", "https://example.org/a.jsonl", "s3://a/b", "a b/c", "owner/*"]
)
def test_no_source_takes_what_it_could_not_read(locator):
    assert takers(locator) == []


@given(st.text(max_size=30))
def test_no_locator_is_taken_twice(locator):
    assert len(takers(locator)) <= 1


def table_bytes(write):
    sink = pa.BufferOutputStream()
    rows = [{"text": f"é{i}", "m": [{"role": "user", "n": i}], "x": None} for i in range(40)]
    write(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def write_ipc(new):
    def write(table, sink):
        with new(sink, table.schema) as writer:
            writer.write_table(table)

    return write


SOURCES = {
    "jsonl": (lambda path: Jsonl(path=path), b'{"a": [1, "\\u00e9"]}\n{"b": null}\r\n'),
    "jsonl.gz": (lambda path: Jsonl(path=path), gzip.compress(b'{"a": 1}\n' * 9)),
    "json": (lambda path: Json(path=path), b'{"data": [{"a": 1}, {"b": "\\ud83d\\ude00"}]}'),
    "csv": (lambda path: Csv(path=path), b'q,a\r\n"1\n","2"""\r\n3,4\r\n'),
    "txt": (lambda path: Text(path=path), b"one\n\ntwo\r\n"),
    "md": (lambda path: Text(path=path, unit="paragraph"), b"one\n\ntwo\r\n"),
    "parquet": (lambda path: Parquet(path=path), table_bytes(parquet.write_table)),
    "arrow": (lambda path: Arrow(path=path), table_bytes(write_ipc(ipc.new_stream))),
    "ARROW": (lambda path: Arrow(path=path), table_bytes(write_ipc(ipc.new_file))),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def read_all(folder, suffix, content):
    source, _ = SOURCES[suffix]
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    for number, row in source(str(path)).rows():
        assert isinstance(number, int)
        assert isinstance(row, dict | Problem)


@pytest.mark.parametrize("suffix", SOURCES)
def test_the_valid_file_of_the_fuzz_tests_is_readable(folder, suffix):
    read_all(folder, suffix, SOURCES[suffix][1])


@pytest.mark.parametrize("suffix", SOURCES)
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_rows_or_a_user_error(folder, suffix, content):
    with contextlib.suppress(UserError):
        read_all(folder, suffix, content)


@pytest.mark.parametrize("suffix", SOURCES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_valid_file_is_rows_or_a_user_error(folder, suffix, data):
    content = bytearray(SOURCES[suffix][1])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with contextlib.suppress(UserError):
        read_all(folder, suffix, bytes(content[:end]))
