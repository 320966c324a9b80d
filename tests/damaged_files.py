"""A seed -> damaged data files of every kind, and what must become of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

NUM_ROWS = 12
"""Rows of each file before it is damaged."""
FORMATS = {"csv": "prompt_completion", "tsv": "prompt_completion", "txt": "completion"}
"""Suffix -> the format its rows have; all others are conversations."""

Row = dict[str, Any]
Encode = Callable[[str], bytes]


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """One file, and what must become of its rows."""

    name: str
    content: bytes
    num_good: int = 0
    """Rows that train where bad rows are skipped."""
    broken: tuple[int, ...] = ()
    """Line (or place) of each row that is bad, as messages give it."""
    fatal: bool = False
    """It can't be read beyond some place, or no row of it is good: always an error."""

    @property
    def format(self) -> str:
        """The format that a recipe names for it."""
        return FORMATS.get(self.name.split(".", 1)[1], "messages")


def damaged_files(seed: int) -> list[DamagedFile]:
    """The files of a seed: the same kinds of damage at other places."""
    chance = random.Random(seed)
    makers = (_json_lines, _whole_jsonl, _packed, _json_lists, _tables, _texts, _columnar, _huge)
    return [file for maker in makers for file in maker(chance)]


def _row(chance: random.Random, number: int) -> Row:
    question = f"Number {number}: " + "".join(chance.choices("abcdé ß漢🙂", k=12)) + "?"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": f"A{number}"}]
    return {"messages": turns}


def _rows(chance: random.Random) -> list[Row]:
    return [_row(chance, number) for number in range(NUM_ROWS)]


def _text(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def _places(chance: random.Random, count: int = 2) -> tuple[int, ...]:
    return tuple(sorted(chance.sample(range(NUM_ROWS), count)))


# ---- one line of JSON


def _answered(answer: Any) -> str:
    user = {"role": "user", "content": "Say it."}
    return json.dumps({"messages": [user, {"role": "assistant", "content": answer}]})


LINES: dict[str, Callable[[str], str | bytes]] = {
    "half a line": lambda line: line[: len(line) // 2],
    "second half of a line": lambda line: line[len(line) // 2 :],
    "binary": lambda line: bytes(range(128, 256)),
    "latin-1": lambda line: _answered("XX").encode().replace(b"XX", b"caf\xe9"),
    "raw surrogate": lambda line: _answered("XX").encode().replace(b"XX", b"\xed\xa0\x80"),
    "overlong encoding": lambda line: _answered("XX").encode().replace(b"XX", b"\xc0\xaf"),
    "escaped half of a surrogate": lambda line: _answered("\ud83d"),
    "duplicate key": lambda line: '{"messages": [], ' + line[1:],
    "duplicate key deep inside": lambda line: line.replace('"role"', '"role": "user", "role"'),
    "nul byte": lambda line: line[:20] + "\0" + line[20:],
    "control character": lambda line: line.replace("Number", "Num\x07ber"),
    "tab in a string": lambda line: line.replace("Number", "Num\tber"),
    "huge integer": lambda line: '{"n": ' + "7" * 9000 + ", " + line[1:],
    "deeply nested": lambda line: '{"n": ' + "[" * 50_000 + "]" * 50_000 + ", " + line[1:],
    "list": lambda line: f"[{line}]",
    "string": json.dumps,
    "number": lambda line: "17",
    "null": lambda line: "null",
    "not a number": lambda line: _answered(float("nan")),
    "infinity": lambda line: '{"messages": -Infinity}',
    "null messages": lambda line: '{"messages": null}',
    "null message": lambda line: '{"messages": [null]}',
    "null content": lambda line: '{"messages": [{"role": "user", "content": null}]}',
    "nested nulls": lambda line: _answered([None, {"type": None}]),
    "empty list": lambda line: '{"messages": []}',
    "empty object": lambda line: "{}",
    "no role": lambda line: line.replace('"role"', '"rolle"'),
    "other role": lambda line: line.replace('"assistant"', '"robot"'),
    "number as content": lambda line: _answered(17),
    "object as messages": lambda line: line.replace("[", "").replace("]", ""),
    "other schema": lambda line: '{"instruction": "Say it.", "output": "It."}',
    "trailing comma": lambda line: line[:-1] + ",}",
    "comma after the line": lambda line: line + ",",
    "two rows on a line": lambda line: line + line,
    "single quotes": lambda line: line.replace('"', "'"),
    "comment": lambda line: line + " // done",
    "unknown escape": lambda line: line.replace("Number", "\\x4eumber"),
    "cut escape": lambda line: line.replace("Number", "\\u00"),
}


def _json_lines(chance: random.Random) -> Iterator[DamagedFile]:
    """Two lines of every kind in a file of good ones."""
    for kind, damage in LINES.items():
        for suffix, end in (("jsonl", b"\n"), ("jsonl.gz", b"\n"), ("ndjson", b"\r\n")):
            lines = [_text(row) for row in _rows(chance)]
            places = _places(chance)
            damaged = [damage(line) if at in places else line for at, line in enumerate(lines)]
            content = b"".join(
                (line if isinstance(line, bytes) else line.encode(errors="surrogatepass")) + end
                for line in damaged
            )
            yield DamagedFile(
                name=f"{kind}.{suffix}",
                content=gzip.compress(content) if suffix.endswith("gz") else content,
                num_good=NUM_ROWS - len(places),
                broken=tuple(at + 1 for at in places),
            )


# ---- whole files of lines


def _whole_jsonl(chance: random.Random) -> Iterator[DamagedFile]:
    lines = [_text(row) for row in _rows(chance)]
    text = "\n".join(lines) + "\n"
    fine = {
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "windows line ends": text.replace("\n", "\r\n").encode(),
        "mark and windows line ends": b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        "no last line end": text.rstrip().encode(),
        "blank lines": text.replace("\n", "\n\n \t\n").encode(),
        "escapes only": "\n".join(json.dumps(json.loads(line)) for line in lines).encode(),
        "not a number unread": text.replace('{"mess', '{"score": NaN, "mess').encode(),
        "mixed columns unread": (text.replace('{"mess', '{"x": 1, "mess', 3)).encode(),
    }
    for name, content in fine.items():
        yield DamagedFile(name=f"{name}.jsonl", content=content, num_good=NUM_ROWS)
    noise = bytes(chance.randrange(128, 256) for _ in range(5000))
    fatal = {
        "empty": b"",
        "white space": b" \n\t\n\r\n  ",
        "only a mark": b"\xef\xbb\xbf",
        "nuls": bytes(4096),
        "noise": noise,
        "utf-16": text.encode("utf-16"),
        "utf-16 without mark": text.encode("utf-16-le"),
        "utf-16 big": b"\xfe\xff" + text.encode("utf-16-be"),
        "utf-32": text.encode("utf-32"),
        "old mac line ends": text.replace("\n", "\r").encode(),
        "a json list": json.dumps([json.loads(line) for line in lines]).encode(),
        "a page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "packed": gzip.compress(text.encode(), mtime=0),
        "a table": _parquet(_rows(chance)),
    }
    for name, content in fatal.items():
        yield DamagedFile(name=f"{name}.jsonl", content=content, fatal=True)
    cut = chance.randrange(5, len(lines[-1]) - 5)
    yield DamagedFile(
        name="cut in its last line.jsonl",
        content="\n".join([*lines[:-1], lines[-1][:cut]]).encode(),
        num_good=NUM_ROWS - 1,
        broken=(NUM_ROWS,),
    )


def _packed(chance: random.Random) -> Iterator[DamagedFile]:
    rows = [_row(chance, number) for number in range(400)]
    packed = gzip.compress("".join(_text(row) + "\n" for row in rows).encode(), mtime=0)
    wrong_sum = bytearray(packed)
    wrong_sum[-8] ^= 1
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    fatal = {
        "not packed": b'{"messages": []}\n',
        "no content": b"",
        "packed nothing": gzip.compress(b""),
        "header alone": packed[:10],
        "wrong checksum": bytes(wrong_sum),
        "flipped byte": bytes(flipped),
        "rubbish behind": packed + b"rubbish",
        **{f"cut {n}": packed[: chance.randrange(11, len(packed) - 1)] for n in range(4)},
    }
    for name, content in fatal.items():
        yield DamagedFile(name=f"{name}.jsonl.gz", content=content, fatal=True)


# ---- lists of JSON

ITEMS = {
    "null": None,
    "number": 1.5,
    "string": "{}",
    "list": [],
    "empty object": {},
    "null messages": {"messages": None},
    "empty messages": {"messages": []},
    "nested nulls": {"messages": [{"role": "user", "content": None}, None]},
    "number as content": {"messages": [{"role": "assistant", "content": 3}]},
    "other schema": {"text": "raw"},
}


def _json_lists(chance: random.Random) -> Iterator[DamagedFile]:
    for kind, item in ITEMS.items():
        places = _places(chance)
        rows = [item if at in places else row for at, row in enumerate(_rows(chance))]
        yield DamagedFile(
            name=f"{kind}.json",
            content=json.dumps(rows).encode(),
            num_good=NUM_ROWS - len(places),
            broken=tuple(at + 1 for at in places),
        )
    for kind in ("duplicate key", "escaped half of a surrogate", "huge integer"):
        places = _places(chance)
        lines = [_text(row) for row in _rows(chance)]
        damaged = [
            str(LINES[kind](line)) if at in places else line for at, line in enumerate(lines)
        ]
        yield DamagedFile(
            name=f"{kind}.json",
            content=f"[{','.join(damaged)}]".encode(),
            num_good=NUM_ROWS - len(places),
            broken=tuple(at + 1 for at in places),
        )
    rows = _rows(chance)
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    fine = {
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "windows line ends": text.replace("\n", "\r\n").encode(),
        "list inside": json.dumps({"version": 1, "rows": rows}).encode(),
    }
    for name, content in fine.items():
        yield DamagedFile(name=f"{name}.json", content=content, num_good=NUM_ROWS)
    fatal: dict[str, bytes] = {
        "empty": b"",
        "white space": b"\n \n",
        "empty list": b"[]",
        "number alone": b"3",
        "no list inside": b'{"rows": {}}',
        "two lists inside": json.dumps({"a": rows, "b": rows}).encode(),
        "utf-16": text.encode("utf-16"),
        "latin-1": json.dumps(["café"], ensure_ascii=False).encode("latin-1"),
        "nul": text.replace("Number", "Num\0ber", 1).encode(),
        "lines": "\n".join(map(_text, rows)).encode(),
        "trailing comma": (text[:-1].rstrip() + ",]").encode(),
        "deeply nested": b"[" * 100_000,
        "only nulls": b"[null, null]",
        **{f"cut {n}": text[: chance.randrange(1, len(text))].encode() for n in range(3)},
    }
    for name, content in fatal.items():
        yield DamagedFile(name=f"{name}.json", content=content, fatal=True)


# ---- tables of text


def _table(rows: list[list[str]], delimiter: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _tables(chance: random.Random) -> Iterator[DamagedFile]:
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        header = f"prompt{mark}completion"
        lines = [f'"Question{mark} {n}: é?"{mark}Answer {n}' for n in range(NUM_ROWS)]
        bad_lines = {
            "short row": b"one value",
            "long row": mark.join("abc").encode(),
            "latin-1": f"caf\xe9{mark}x".encode("latin-1"),
            "nul": f"a\0b{mark}x".encode(),
            "stray quote": f'"a"b{mark}x'.encode(),
            "empty value": f"a{mark}".encode(),
        }
        for kind, bad in bad_lines.items():
            places = _places(chance)
            content = [bad if at in places else line.encode() for at, line in enumerate(lines)]
            yield DamagedFile(
                name=f"{kind}.{suffix}",
                content=b"\n".join([header.encode(), *content]),
                num_good=NUM_ROWS - len(places),
                broken=tuple(at + 2 for at in places),
            )
        yield from _whole_tables(chance, suffix, mark, header, lines)


def _whole_tables(
    chance: random.Random, suffix: str, mark: str, header: str, lines: list[str]
) -> Iterator[DamagedFile]:
    text = "\n".join([header, *lines]) + "\n"
    fine = {
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "windows line ends": text.replace("\n", "\r\n").encode(),
        "line ends in quotes": text.replace('"Question', '"Ques\n\ntion').encode(),
        "blank lines": text.replace("\n", "\n\n").encode(),
    }
    for name, content in fine.items():
        yield DamagedFile(name=f"{name}.{suffix}", content=content, num_good=NUM_ROWS)
    yield DamagedFile(
        name=f"cut in quotes.{suffix}",
        content=(text + '"cut in').encode(),
        num_good=NUM_ROWS,
        broken=(NUM_ROWS + 2,),
    )
    at = chance.randrange(1, NUM_ROWS)
    fatal = {
        "empty": b"",
        "white space": b"\n\n",
        "header alone": header.encode(),
        "repeated header": text.replace("prompt", "completion", 1).encode(),
        "other header": text.replace("prompt", "question", 1).encode(),
        "utf-16": text.encode("utf-16"),
        "noise": bytes(chance.randrange(128, 256) for _ in range(3000)),
        "other delimiter": text.replace(mark, ";").encode(),
        "open quote": "\n".join([header, *lines[:at], '"open', *lines[at:]]).encode(),
        "a json list": b'[{"prompt": "a"}]',
    }
    for name, content in fatal.items():
        yield DamagedFile(name=f"{name}.{suffix}", content=content, fatal=True)


# ---- text


def _texts(chance: random.Random) -> Iterator[DamagedFile]:
    lines = [f"Line {n} of é.".encode() for n in range(NUM_ROWS)]
    for kind, bad in {
        "latin-1": b"caf\xe9",
        "nul": b"a\0b",
        "binary": bytes(range(200, 256)),
    }.items():
        places = _places(chance)
        content = [bad if at in places else line for at, line in enumerate(lines)]
        yield DamagedFile(
            name=f"{kind}.txt",
            content=b"\n".join(content),
            num_good=NUM_ROWS - len(places),
            broken=tuple(at + 1 for at in places),
        )
    text = b"\n".join(lines)
    fine = {
        "byte order mark": b"\xef\xbb\xbf" + text,
        "windows line ends": text.replace(b"\n", b"\r\n"),
        "tabs": text.replace(b" ", b"\t"),
    }
    for name, content in fine.items():
        yield DamagedFile(name=f"{name}.txt", content=content, num_good=NUM_ROWS)
    for name, content in {
        "empty": b"",
        "white space": b" \n\t\n\xe2\x80\x83\n",
        "utf-16": text.decode().encode("utf-16"),
        "nuls": bytes(1000),
        "noise": bytes(chance.randrange(128, 256) for _ in range(3000)),
    }.items():
        yield DamagedFile(name=f"{name}.txt", content=content, fatal=True)


# ---- columns


def _parquet(rows: list[Row] | pa.Table) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def _arrow(rows: list[Row] | pa.Table) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return sink.getvalue().to_pybytes()


VALUES = {
    "null messages": None,
    "empty messages": [],
    "null message": [None],
    "null content": [{"role": "user", "content": None}],
    "null role": [{"role": None, "content": "x"}, {"role": "assistant", "content": "y"}],
    "other role": [{"role": "robot", "content": "x"}],
}


def _columnar(chance: random.Random) -> Iterator[DamagedFile]:
    for suffix, write in (("parquet", _parquet), ("arrow", _arrow)):
        for kind, value in VALUES.items():
            places = _places(chance)
            rows = _rows(chance)
            for at in places:
                rows[at]["messages"] = value
            yield _columns(kind, suffix, write(rows), places)
        places = _places(chance)
        rows = _rows(chance)
        for at in places:
            rows[at]["messages"][0]["content"] = "cafe1"
        content = write(rows).replace(b"cafe1", b"caf\xe91")
        # Parquet keeps the least and the greatest value of a column besides the column itself.
        yield _columns("not utf-8", suffix, content, places)
        yield from _whole_columns(chance, suffix, write)


def _columns(kind: str, suffix: str, content: bytes, places: tuple[int, ...]) -> DamagedFile:
    return DamagedFile(
        name=f"{kind}.{suffix}",
        content=content,
        num_good=NUM_ROWS - len(places),
        broken=tuple(at + 1 for at in places),
    )


def _whole_columns(
    chance: random.Random, suffix: str, write: Callable[[Any], bytes]
) -> Iterator[DamagedFile]:
    whole = write(_rows(chance))
    column = pa.array(["x"] * NUM_ROWS)
    fatal = {
        "empty": b"",
        "nuls": bytes(2000),
        "noise": bytes(chance.randrange(256) for _ in range(3000)),
        "lines": b'{"messages": []}\n',
        "no rows": write(pa.table({"messages": pa.array([], pa.string())})),
        "numbers as messages": write(pa.table({"messages": list(range(NUM_ROWS))})),
        "other column": write(pa.table({"text": column})),
        "column twice": write(pa.Table.from_arrays([column] * 2, names=["messages"] * 2)),
        "no beginning": whole[100:],
        **{f"cut {n}": whole[: chance.randrange(8, len(whole) * 9 // 10)] for n in range(4)},
    }
    for name, content in fatal.items():
        yield DamagedFile(name=f"{name}.{suffix}", content=content, fatal=True)


# ---- one line of 50 MB


def _huge(chance: random.Random) -> Iterator[DamagedFile]:
    lines = [_text(row).encode() for row in _rows(chance)]
    size = 50_000_000
    at = chance.randrange(NUM_ROWS)
    for kind, line in {
        "without an end": b'{"messages": "' + b"x" * size,
        "of the wrong type": b'{"messages": "' + b"x" * size + b'"}',
    }.items():
        yield DamagedFile(
            name=f"50 MB {kind}.jsonl",
            content=b"\n".join([*lines[:at], line, *lines[at + 1 :]]),
            num_good=NUM_ROWS - 1,
            broken=(at + 1,),
        )
    yield DamagedFile(name="50 MB of letters.jsonl", content=b"x" * size, fatal=True)
