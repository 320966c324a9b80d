"""Rows from a number on are the tail of all rows, whatever the source."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from framework.data_sources.arrow import Arrow
from framework.data_sources.csv import Csv
from framework.data_sources.json import Json
from framework.data_sources.jsonl import Jsonl
from framework.data_sources.parquet import Parquet
from framework.data_sources.text import Text

JSONL = (b'\xef\xbb\xbf\n{"a": 1}\n\n  \n{"a": 2}\n\xc2\xa0\n', b'{"a": 3}\n{\n\n', b'{"a": 4}\n\n')
TEXT = (
    "one\ntwo\n\n \n\u2003\nthree\nfour\nfive\n\n".encode(),
    b"caf\xe9\nsix\n\nseven\n",
    b"\n\neight",
)
CSV = (
    b'q,a\n1,2\n"two\n\nlines",3\n\n4,5\n',
    b'q,a\n\n6\n7,8\n"9","x\ny\nz"\n',
    b"q,a\n10,11\n",
)


def write_files(folder, suffix, contents):
    for name, content in zip("abcdef", contents, strict=False):
        (folder / f"{name}.{suffix}").write_bytes(content)
    return f"{folder}/*.{suffix}"


def parquet_bytes(rows, group):
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue().to_pybytes()


def arrow_bytes(rows, batch, new):
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue().to_pybytes()


def numbered(count):
    return [{"text": f"é{n}", "messages": [{"role": "user", "n": n}]} for n in range(count)]


CASES = {
    "jsonl": (Jsonl, {}, "jsonl", JSONL, 5),
    "jsonl.gz": (Jsonl, {}, "jsonl.gz", [gzip.compress(content) for content in JSONL], 5),
    "lines": (Text, {"unit": "line"}, "txt", TEXT, 9),
    "paragraphs": (Text, {"unit": "paragraph"}, "txt", TEXT, 5),
    "texts": (Text, {"unit": "file"}, "txt", (TEXT[0], TEXT[2], b"nine"), 3),
    "csv": (Csv, {}, "csv", CSV, 7),
    "json": (
        Json,
        {},
        "json",
        [b'[{"a": 1}, 2, {"a": 3}]', json.dumps({"d": numbered(4)}).encode()],
        7,
    ),
    "parquet": (
        Parquet,
        {},
        "parquet",
        [parquet_bytes(numbered(7), 3), parquet_bytes(numbered(1), 9)],
        8,
    ),
    "arrow stream": (
        Arrow,
        {},
        "arrow",
        [arrow_bytes(numbered(n), 3, ipc.new_stream) for n in (7, 4)],
        11,
    ),
    "arrow file": (
        Arrow,
        {},
        "arrow",
        [arrow_bytes(numbered(n), 3, ipc.new_file) for n in (7, 4)],
        11,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_from_any_number_on_are_the_tail_of_all_rows(tmp_path, case):
    component, fields, suffix, contents, count = CASES[case]
    source = component(path=write_files(tmp_path, suffix, contents), **fields)
    whole = list(source.rows())
    assert len(whole) == count
    last = whole[-1][0]
    for start in range(1, last + 4):
        assert list(source.rows(start)) == [one for one in whole if one[0] >= start], start


def test_a_file_that_grew_is_counted_again(tmp_path):
    pattern = write_files(tmp_path, "jsonl", (b'{"a": 1}\n', b'{"a": 2}\n'))
    assert list(Jsonl(path=pattern).rows(2)) == [(2, {"a": 2})]
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": 5}\n')
    assert list(Jsonl(path=pattern).rows(2)) == [(2, {"a": 5}), (3, {"a": 2})]


def test_what_comes_before_the_start_is_not_parsed(tmp_path):
    """Seeking over broken lines finds none of them: it is cheap."""
    pattern = write_files(tmp_path, "jsonl", (b"{\n" * 1000, b"{\n" * 1000 + b'{"a": 1}\n'))
    assert list(Jsonl(path=pattern).rows(2001)) == [(2001, {"a": 1})]


def test_parquet_passes_row_groups_over_by_their_metadata(tmp_path):
    """The first row group is damaged, which nobody notices who starts behind it."""
    content = bytearray(parquet_bytes(numbered(2000), 1000))
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    start = parquet.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    assert [number for number, _ in Parquet(path=str(path)).rows(1990)] == list(range(1990, 2001))
