"""GGUF file, from whoever made it -> whether what it says of itself can be true.

Its reader believes lengths: one that lies makes it loop without end, or make lists that fill the
memory. Here every length is held against the bytes that there are, before anything is made of it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from framework.core.problems import UserError

VERSIONS = (2, 3)
MOST_VALUES = 4_000_000
"""In all lists of the file together: a vocabulary, its scores and its merges, several times."""
MOST_DIMENSIONS = 4
LONGEST_NAME_BYTES = 1 << 16
_STRING, _LIST = 8, 9
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_ALIGNMENT = 32
_SIZES = (
    *(".embedding_length", ".feed_forward_length", ".vocab_size", ".block_count"),
    *(".attention.head_count", ".attention.head_count_kv", ".attention.key_length"),
    *(".attention.value_length", ".expert_count", ".expert_feed_forward_length"),
)
"""What a model is built from: each is the length of some tensor, or less."""


def check_gguf(file: Path) -> None:
    """Passes for a file whose header fits the file.

    Raises:
        UserError: it is cut off, or says what can't be.
    """
    try:
        with file.open("rb") as stream:
            if not file.stat().st_size:
                raise ValueError("it is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _Header(content).check()
    except (ValueError, OSError, struct.error) as error:
        raise UserError(
            f"{str(file)!r} is no whole GGUF file: {error}",
            hint="download it again, and compare its SHA-256 with the one that its source names",
        ) from error


class _Header:
    """Reads on from where it is."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 4
        self.num_values = 0
        self.settings: dict[str, Any] = {}

    def check(self) -> None:
        """
        Raises:
            ValueError: with what is wrong.
        """
        (version,) = self._take("I")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}, and those that are read are 2 and 3")
        num_tensors, num_settings = self._take("QQ")
        for _ in range(num_settings):
            name = self._text()
            self.settings[name] = self._value(*self._take("I"))
        tensors = [self._tensor() for _ in range(self._at_most(num_tensors, 24, "tensors"))]
        self._check_places(tensors)
        self._check_sizes([shape for _, shape, *_ in tensors], num_tensors)

    def _take(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        if self.at + size > len(self.content):
            raise ValueError("it ends in the middle of its header")
        found = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += size
        return found

    def _at_most(self, number: int, size_bytes: int, what: str) -> int:
        """The number, if so many of at least that size can still follow."""
        left = len(self.content) - self.at
        if number * size_bytes > left:
            raise ValueError(f"it says that {number:,} {what} follow, and {left:,} bytes do")
        return number

    def _text(self, longest: int = LONGEST_NAME_BYTES) -> str:
        (length,) = self._take("Q")
        if length > longest:
            raise ValueError(f"it has a name of {length:,} bytes")
        start = self.at
        self.at += self._at_most(length, 1, "bytes of a text")
        return self.content[start : self.at].decode("utf-8")

    def _skip_text(self) -> None:
        (length,) = self._take("Q")
        self.at += self._at_most(length, 1, "bytes of a text")

    def _value(self, kind: int) -> Any:
        """A number; None for anything else, which is passed over."""
        if kind in _FORMATS:
            return self._take(_FORMATS[kind])[0]
        if kind == _STRING:
            return self._skip_text()
        if kind != _LIST:
            raise ValueError(f"it has a value of the unknown kind {kind}")
        item, length = self._take("IQ")
        self.num_values += length
        if self.num_values > MOST_VALUES:
            raise ValueError(f"its lists have more than {MOST_VALUES:,} values")
        if item in _FORMATS:
            size = struct.calcsize(_FORMATS[item])
            values = self._take(f"{self._at_most(length, size, 'values')}{_FORMATS[item]}")
            return max(values, default=None)
        if item != _STRING:
            raise ValueError(f"it has a list of the unknown kind {item}")
        for _ in range(self._at_most(length, 8, "texts")):
            self._skip_text()
        return None

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, kind, offset)."""
        name = self._text()
        (num_dimensions,) = self._take("I")
        if not 1 <= num_dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]!r} has {num_dimensions:,} dimensions")
        shape = self._take(f"{num_dimensions}Q")
        return name, shape, *self._take("IQ")

    def _check_places(self, tensors: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        alignment = self.settings.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"it has an alignment of {alignment!r}, which is no power of two")
        start = -(-self.at // alignment) * alignment
        end = 0
        for name, offset, size in sorted(_extents(tensors), key=lambda one: one[1:]):
            if offset < end:
                raise ValueError(f"the tensor {name[:80]!r} begins inside of another one")
            end = offset + size
            if start + end > len(self.content):
                raise ValueError(
                    f"it ends before the tensor {name[:80]!r} does, which would be at byte "
                    f"{start + end:,} of {len(self.content):,}"
                )

    def _check_sizes(self, shapes: list[tuple[int, ...]], num_tensors: int) -> None:
        largest = max([num_tensors, *(max(shape) for shape in shapes)])
        for name, value in self.settings.items():
            if name.endswith(_SIZES) and isinstance(value, int) and value > largest:
                raise ValueError(f"it says {name[:80]} {value:,}, and no tensor is so large")


def _extents(
    tensors: list[tuple[str, tuple[int, ...], int, int]],
) -> Iterator[tuple[str, int, int]]:
    """(name, offset, bytes) of each tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for name, shape, kind, offset in tensors:
        block, size_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        number = prod(shape)
        if number % block or not number:
            raise ValueError(f"the tensor {name[:80]!r} has the shape {shape}")
        yield name, offset, number // block * size_bytes
