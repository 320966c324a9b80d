"""Packs in which a common beginning counts once."""

from __future__ import annotations

import random

import numpy as np
import pytest

from framework.core.batch import Encoded, Features
from framework.data.pack import pack
from framework.data.prefixes import Documents, pack_sharing


def features(tokens: list[int]) -> Features:
    return Features(documents=(Encoded(tokens=tuple(tokens), trained=(False,) * len(tokens)),))


def packs_of(documents: list[list[int]], capacity: int) -> list[tuple[list[int], list[int]]]:
    """(Members, what each shares) of every pack."""
    packs = pack_sharing(Documents.of([features(one) for one in documents]), capacity)
    cuts = packs.ends[:-1]
    parts = zip(np.split(packs.members, cuts), np.split(packs.shared, cuts), strict=True)
    return [(members.tolist(), shared.tolist()) for members, shared in parts]


def drawn(draw: random.Random, length: int, vocabulary: int = 4) -> list[int]:
    return [draw.randrange(vocabulary) for _ in range(length)]


@pytest.mark.parametrize("seed", range(30))
def test_no_pack_computes_more_than_its_capacity(seed):
    draw = random.Random(seed)
    first = [drawn(draw, draw.randint(5, 60)) for _ in range(5)]
    second = [[*draw.choice(first), *drawn(draw, draw.randint(3, 40))] for _ in range(8)]
    documents = [
        [*draw.choice(draw.choice([first, second])), *drawn(draw, draw.randint(1, 60))]
        for _ in range(draw.randint(1, 80))
    ]
    documents += documents[:2]
    capacity = max(map(len, documents)) + draw.randint(0, 200)
    packs = packs_of(documents, capacity)
    assert sorted(one for members, _ in packs for one in members) == list(range(len(documents)))
    for members, shared in packs:
        assert shared[0] == 0
        for at, common in enumerate(shared[1:], start=1):
            before, own = documents[members[at - 1]], documents[members[at]]
            assert before[:common] == own[:common]
        assert sum(len(documents[one]) for one in members) - sum(shared) <= capacity


def test_a_long_common_prompt_is_computed_once_a_pack():
    draw = random.Random(0)
    prompt = drawn(draw, 400, 1000)
    documents = [[*prompt, *drawn(draw, draw.randint(20, 180), 1000)] for _ in range(300)]
    packs = packs_of(documents, 2048)
    num_own = sum(len(one) - 400 for one in documents)
    assert len(packs) <= 1.02 * num_own / (2048 - 400) + 1
    assert len(pack([len(one) for one in documents], 2048)) > 3 * len(packs)


def test_answers_to_one_question_come_into_one_pack():
    draw = random.Random(0)
    system, number = drawn(draw, 40, 1000), 60
    questions = [[*system, *drawn(draw, 100, 1000)] for _ in range(number)]
    documents = [[*question, *drawn(draw, 20, 1000)] for _ in range(4) for question in questions]
    packs = packs_of(documents, 1024)
    together = [{one % number for one in members} for members, _ in packs]
    assert sum(map(len, together)) == number
    assert len(packs) <= 1.1 * (number * (100 + 4 * 20)) / (1024 - 40) + 1


def test_samples_of_several_documents_share_with_no_other_sample():
    document = Encoded(tokens=tuple(range(50)), trained=(False,) * 50)
    pairs = [Features(documents=(document, document))] * 3
    packs = pack_sharing(Documents.of(pairs), 300)
    assert packs.ends.tolist() == [3]
    assert not packs.shared.any()


def test_documents_without_common_beginnings_are_packed_as_ever():
    draw = random.Random(0)
    documents = [drawn(draw, draw.randint(20, 200), 50_000) for _ in range(500)]
    assert len(packs_of(documents, 512)) == len(pack([len(one) for one in documents], 512))


def test_a_document_that_is_there_several_times_fills_a_pack_each_time():
    document = list(range(100))
    packs = packs_of([document] * 3, 100)
    assert packs == [([number], [0]) for number in range(3)]
