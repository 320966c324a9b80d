"""Seeded faults of over-length policies and of prepared arrays are found under their rules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_families import CHATML, byte_level_tokenizer, encoder
from faults import ALONE, EVERYWHERE
from faults_prepared import ARRAYS, LENGTH, PIECES, ArrayFault, Cut, PieceFault, windows

from framework.core.batch import Encoded, slice_document
from framework.core.samples import Conversation, Message
from framework.data.prepared import prepare_data
from framework.data.proof_store import StoreProof
from framework.data.store import Store
from framework.proofs.findings import RULES, Finding
from framework.proofs.pieces import PiecesProof
from framework.proofs.prover import Prover
from framework.recipe.resolve import resolve

CHAT = encoder(byte_level_tokenizer(CHATML, "<|im_end|>"), "chatml")


def long_document() -> Encoded:
    turns = [
        message
        for number in range(3)
        for message in (
            Message(role="user", content=f"What is {number}?"),
            Message(role="assistant", content=f"The number {number}, as everybody knows."),
        )
    ]
    (document,) = CHAT.conversation(Conversation(messages=tuple(turns)))
    assert len(document.tokens) > 4 * LENGTH
    return document


def findings(cut: Cut, whole: Encoded, *others: Encoded) -> list[Finding]:
    proof = PiecesProof(
        whole=whole,
        pieces=cut.pieces,
        others=others,
        max_length=LENGTH,
        truncated=cut.truncated,
        num_cut_answers=cut.num_cut_answers,
        vocabulary=CHAT.vocabulary,
    )
    return list(proof.findings())


def test_there_are_enough_faults_and_each_has_its_name():
    assert len({fault.name for fault in PIECES}) == len(PIECES) == 20
    assert len({fault.name for fault in ARRAYS}) == len(ARRAYS) == 22


def test_every_rule_has_a_fault_that_breaks_it():
    broken = {rule for fault in (*EVERYWHERE, *ALONE) for rule in fault.rules}
    broken |= {fault.rule for fault in (*PIECES, *ARRAYS)}
    # Those of prepared data against its rows are broken in test_reproof.py.
    assert broken == set(RULES) - {"stale", "refused"}


@pytest.mark.parametrize("fault", PIECES, ids=lambda fault: fault.name)
def test_a_fault_of_a_policy_is_found(fault: PieceFault):
    document = long_document()
    found = findings(fault.seed(document), document)
    assert found
    assert found[0].rule == fault.rule, found


@pytest.mark.parametrize("overlap", [1, 4, 15])
def test_nothing_is_found_in_windows(overlap: int):
    document = long_document()
    assert findings(Cut(pieces=windows(document, overlap)), document) == []


def test_nothing_is_found_in_windows_of_one_word_again_and_again():
    tokens = tuple(CHAT.vocabulary.ids("a" * 100))
    document = Encoded(tokens=tokens, trained=(False, *(True for _ in tokens[1:])))
    assert len(set(tokens)) <= 2
    assert findings(Cut(pieces=windows(document)), document) == []


def test_nothing_is_found_in_what_is_truncated_and_says_so():
    document = long_document()
    for start in range(0, len(document.tokens) - LENGTH, 3):
        piece = slice_document(document, start, start + LENGTH)
        crossed = document.trained[start + LENGTH - 1] and document.trained[start + LENGTH]
        crossed = crossed and piece.trained[-1]
        cut = Cut(pieces=(piece,), truncated=True, num_cut_answers=int(crossed))
        assert findings(cut, document) == [], start


def test_nothing_is_found_in_a_document_that_is_dropped_or_split_into_proven_ones():
    document = long_document()
    other = slice_document(document, 0, 10)
    assert findings(Cut(pieces=()), document) == []
    changed = Encoded(tokens=(1, *other.tokens), trained=(False, *other.trained))
    assert findings(Cut(pieces=(changed,)), document, changed) == []
    assert findings(Cut(pieces=(changed,)), document) != []


# ---- arrays


@pytest.fixture
def store(write_recipe, tmp_path: Path) -> Store:
    """A copy that may be damaged; four documents fit a pack, and no more."""
    data = prepare_data(resolve(write_recipe(), ["data.max_length=180"]))
    return Store(Path(shutil.copytree(data.train.folder, tmp_path / "store")))


def array_findings(store: Store, num_open: int = 0) -> list[Finding]:
    proof = StoreProof(
        store=store,
        ends=frozenset({CHAT_END}),
        num_vocabulary=1000,
        max_length=180,
        packing=True,
        num_open=num_open,
        datasets=json.loads((store.folder / "details.json").read_text())["datasets"],
    )
    return list(proof.findings())


CHAT_END = 2
"""`<|im_end|>` of the tiny model."""


def test_nothing_is_found_in_a_store_that_is_right(store: Store):
    assert array_findings(store) == []
    proof = store.details["proof"]
    assert proof == {
        "num_rows": 16,
        "num_documents": 16,
        "num_unproven_documents": 0,
        "num_open_runs": 0,
        "num_trained_runs": 16,
        "broken_rules": {},
    }


@pytest.mark.parametrize("fault", ARRAYS, ids=lambda fault: fault.name)
def test_a_fault_of_a_store_is_found(fault: ArrayFault, store: Store):
    fault.seed(store.folder)
    found = {finding.rule for finding in array_findings(Store(store.folder))}
    assert fault.rule in found, found


def test_answers_that_end_in_no_stop_token_must_be_known(store: Store):
    assert [finding.rule for finding in array_findings(store, num_open=1)] == ["stop"]


def test_the_ends_are_those_that_the_recipe_says(write_recipe):
    data = prepare_data(resolve(write_recipe()))
    assert CHAT_END in Prover.of(data.chat).ends
