"""Faults of over-length policies and of the prepared arrays, seeded into what is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from faults import masked, runs, spliced

from framework.core.batch import Encoded, slice_document

LENGTH = 16
"""The longest document that is allowed."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a policy made of a document."""

    pieces: tuple[Encoded, ...]
    truncated: bool = False
    num_cut_answers: int = 0


@dataclass(frozen=True, kw_only=True)
class PieceFault:
    """Something that a policy does wrong, and the rule that it breaks."""

    name: str
    rule: str
    seed: Callable[[Encoded], Cut]


@dataclass(frozen=True, kw_only=True)
class ArrayFault:
    """Something wrong in the files of a store, and the rule that it breaks."""

    name: str
    rule: str
    seed: Callable[[Path], None]


PIECES: list[PieceFault] = []
ARRAYS: list[ArrayFault] = []


def piece(rule: str):
    """Registers a fault of a policy."""

    def register(seed: Callable[[Encoded], Cut]):
        PIECES.append(PieceFault(name=seed.__name__, rule=rule, seed=seed))
        return seed

    return register


def arrays(rule: str):
    """Registers a fault of a store."""

    def register(seed: Callable[[Path], None]):
        ARRAYS.append(ArrayFault(name=seed.__name__, rule=rule, seed=seed))
        return seed

    return register


def windows(document: Encoded, overlap: int = 4) -> tuple[Encoded, ...]:
    """Overlapping windows, as the policy makes them."""
    starts = range(0, len(document.tokens) - overlap, LENGTH - overlap)
    return tuple(
        slice_document(
            document, start, start + LENGTH, first_trained=start + overlap if start else 1
        )
        for start in starts
    )


def within_last_answer(document: Encoded) -> Encoded:
    """`LENGTH` tokens that end within the last answer."""
    stop = runs(document)[-1][1] - 1
    return slice_document(document, stop - LENGTH, stop)


@piece("cut_answer")
def stop_token_cut_and_not_counted(document):
    return Cut(pieces=(within_last_answer(document),), truncated=True)


@piece("cut_answer")
def stop_token_cut_by_windows(document):
    *others, last = windows(document)
    stop = runs(last)[-1][1]
    changed = masked(last, False, [stop - 1])
    assert changed is not None
    return Cut(pieces=(*others, changed))


@piece("cut_answer")
def answers_counted_as_cut_that_are_whole(document):
    return Cut(pieces=windows(document), num_cut_answers=1)


@piece("lost_tokens")
def beginning_lost_by_windows(document):
    first, *others = windows(document)
    assert first
    return Cut(pieces=tuple(others))


@piece("lost_tokens")
def prompt_cut_on_the_left_by_windows(document):
    first, *others = windows(document)
    return Cut(pieces=(slice_document(first, 3, LENGTH), *others))


@piece("lost_tokens")
def window_in_the_middle_lost(document):
    first, _, *others = windows(document)
    return Cut(pieces=(first, *others))


@piece("cut_answer")
def answer_not_trained_in_its_window(document):
    pieces = list(windows(document))
    pieces[-1] = replace(pieces[-1], trained=(False,) * len(pieces[-1].tokens))
    return Cut(pieces=tuple(pieces))


@piece("lost_tokens")
def gap_between_windows(document):
    first, second, *others = windows(document, overlap=1)
    return Cut(pieces=(first, slice_document(second, 2, LENGTH), *others))


@piece("trained_twice")
def overlap_trained_twice(document):
    starts = range(0, len(document.tokens) - 4, LENGTH - 4)
    return Cut(pieces=tuple(slice_document(document, at, at + LENGTH) for at in starts))


@piece("trained_twice")
def window_twice(document):
    pieces = windows(document)
    return Cut(pieces=(*pieces, pieces[-1]))


@piece("piece_tokens")
def windows_in_another_order(document):
    return Cut(pieces=windows(document)[::-1])


@piece("piece_tokens")
def token_changed_in_a_window(document):
    first, *others = windows(document)
    return Cut(pieces=(spliced(first, 5, 6, (first.tokens[5] + 1, False)), *others))


@piece("piece_tokens")
def token_twice_in_a_window(document):
    first, *others = windows(document)
    twice = spliced(first, 5, 5, (first.tokens[5], False))
    return Cut(pieces=(slice_document(twice, 0, LENGTH), *others))


@piece("piece_tokens")
def token_dropped_in_a_window(document):
    first, *others = windows(document)
    return Cut(pieces=(spliced(first, 5, 6), *others))


@piece("piece_tokens")
def middle_lost_by_windows(document):
    *_, last = windows(document)
    joined = Encoded(
        tokens=document.tokens[:8] + last.tokens[-8:],
        trained=document.trained[:8] + last.trained[-8:],
    )
    return Cut(pieces=(joined,))


@piece("piece_tokens")
def window_padded(document):
    *others, last = windows(document)
    return Cut(pieces=(*others, spliced(last, len(last.tokens), len(last.tokens), (0, False))))


@piece("piece_tokens")
def ends_of_a_truncated_document_swapped(document):
    half = LENGTH // 2
    joined = Encoded(
        tokens=document.tokens[-half:] + document.tokens[:half],
        trained=document.trained[-half:] + document.trained[:half],
    )
    return Cut(pieces=(joined,), truncated=True)


@piece("piece_leak")
def prompt_trained_in_a_window(document):
    first, *others = windows(document)
    changed = masked(first, True, [2])
    assert changed is not None
    return Cut(pieces=(changed, *others))


@piece("piece_leak")
def mask_shifted_in_a_truncated_document(document):
    start = runs(document)[-1][0] - 5
    cut = slice_document(document, start, start + LENGTH)
    return Cut(pieces=(replace(cut, trained=(*cut.trained[1:], False)),), truncated=True)


@piece("piece_length")
def truncated_document_too_long(document):
    return Cut(pieces=(slice_document(document, 0, LENGTH + 1),), truncated=True)


# ---- arrays


def changed(folder: Path, name: str, dtype: str, change: Callable[[np.ndarray], np.ndarray | None]):
    """Writes an array anew; `change` returns another one, or works in place."""
    path = folder / f"{name}.bin"
    array = np.fromfile(path, dtype=dtype)
    other = change(array)
    (array if other is None else other).astype(dtype).tofile(path)


def trained_of(folder: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    changed(folder, "trained", "<u1", change)


def first_of(folder: Path, document: int) -> int:
    """The first token of a document."""
    return int(np.fromfile(folder / "document_ends.bin", dtype="<i8")[document - 1])


@arrays("first_token")
def first_token_of_a_document_trained(folder):
    trained_of(folder, lambda array: array.__setitem__(first_of(folder, 3), 1))


@arrays("zero_trained")
def nothing_trained_in_a_document(folder):
    start, stop = first_of(folder, 3), first_of(folder, 4)
    trained_of(folder, lambda array: array.__setitem__(slice(start, stop), 0))


@arrays("stop")
def stop_token_of_a_document_masked(folder):
    tokens = np.fromfile(folder / "trained.bin", dtype="<u1")
    last = int(np.flatnonzero(tokens)[-1])
    trained_of(folder, lambda array: array.__setitem__(last, 0))


@arrays("stop")
def masks_shifted_over_all_documents(folder):
    trained_of(folder, lambda array: np.append(array[1:], 0))


@arrays("stop")
def tokens_shifted_over_all_documents(folder):
    changed(folder, "tokens", "<u4", lambda array: np.roll(array, 1))


@arrays("counts")
def token_of_an_answer_masked(folder):
    trained = np.fromfile(folder / "trained.bin", dtype="<u1")
    place = int(np.flatnonzero(trained)[0])
    trained_of(folder, lambda array: array.__setitem__(place, 0))


@arrays("mask_length")
def mask_of_other_numbers(folder):
    trained_of(folder, lambda array: array.__imul__(2))


@arrays("arrays")
def mask_shorter_than_tokens(folder):
    trained_of(folder, lambda array: array[:-1])


@arrays("arrays")
def tokens_cut_off(folder):
    changed(folder, "tokens", "<u4", lambda array: array[:-5])


@arrays("arrays")
def token_that_no_tokenizer_has(folder):
    changed(folder, "tokens", "<u4", lambda array: array.__setitem__(7, 1 << 30))


@arrays("arrays")
def document_split_in_two(folder):
    changed(folder, "document_ends", "<i8", lambda array: np.insert(array, 1, array[0] + 5))


@arrays("zero_trained")
def boundary_between_documents_shifted(folder):
    """The first document ends before its answer."""
    start = int(np.flatnonzero(np.fromfile(folder / "trained.bin", dtype="<u1"))[0])
    changed(folder, "document_ends", "<i8", lambda array: array.__setitem__(0, start - 1))


@arrays("arrays")
def document_without_tokens(folder):
    changed(folder, "document_ends", "<i8", lambda array: array.__setitem__(1, array[0]))


@arrays("split_document")
def packs_joined(folder):
    changed(folder, "unit_ends", "<i8", lambda array: array[1:])
    changed(folder, "stage_ends", "<i8", lambda array: array - 1)


@arrays("arrays")
def sample_that_is_not_there(folder):
    changed(folder, "units", "<i8", lambda array: array.__setitem__(0, 10**6))


@arrays("arrays")
def pack_without_samples(folder):
    changed(folder, "unit_ends", "<i8", lambda array: array.__setitem__(0, 0))


@arrays("split_document")
def beginning_in_common_that_is_none(folder):
    second = int(np.flatnonzero(np.diff(np.fromfile(folder / "unit_ends.bin", "<i8")) > 1)[0])
    place = int(np.fromfile(folder / "unit_ends.bin", "<i8")[second]) + 1
    changed(folder, "shared", "<i4", lambda array: array.__setitem__(place, array[place] + 9))


@arrays("split_document")
def first_of_a_pack_with_something_in_common(folder):
    changed(folder, "shared", "<i4", lambda array: array.__setitem__(0, 1))


@arrays("split_document")
def more_in_common_than_there_is(folder):
    changed(folder, "shared", "<i4", lambda array: array.__setitem__(1, 10**6))


@arrays("arrays")
def what_is_in_common_lost(folder):
    changed(folder, "shared", "<i4", lambda array: array[:-1])


@arrays("arrays")
def row_numbers_lost(folder):
    changed(folder, "rows", "<i8", lambda array: array[:-1])


@arrays("counts")
def report_of_another_run(folder):
    path = folder / "details.json"
    details = json.loads(path.read_text())
    details["datasets"][0]["num_tokens"] += 1
    path.write_text(json.dumps(details))
