"""Documents laid end to end: positions restart, labels never cross a boundary."""

from __future__ import annotations

import pytest
import torch
from architectures import batch_of

from framework.core.batch import Encoded, Features
from framework.models.collate import flat_batch, on_device

ONE = Encoded(tokens=(10, 11, 12), trained=(False, True, True))
TWO = Encoded(tokens=(20, 21), trained=(False, False))
THREE = Encoded(tokens=(30, 31, 32, 33), trained=(False, False, True, False))


def test_documents_become_one_row():
    batch = batch_of(ONE, TWO, THREE)
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 31, 32, 33]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch.boundaries.tolist() == [0, 3, 5, 9]
    assert batch.boundaries.dtype == torch.int32
    assert batch.max_document_length == 4
    assert batch.sample_ids == ("t:0", "t:1", "t:2")


def test_a_label_is_predicted_by_the_position_before_it():
    batch = batch_of(ONE, TWO, THREE)
    assert batch.label_positions.tolist() == [0, 1, 6]
    assert batch.labels.tolist() == [11, 12, 32]
    assert batch.label_documents.tolist() == [0, 0, 2]


def test_a_batch_without_labels_has_empty_integer_labels():
    batch = batch_of(TWO)
    for tensor in (batch.label_positions, batch.labels, batch.label_documents):
        assert tensor.shape == (0,)
        assert tensor.dtype == torch.int64


def test_a_trained_first_token_is_our_bug():
    with pytest.raises(AssertionError):
        batch_of(ONE, Encoded(tokens=(1, 2), trained=(True, True)))


def test_moving_a_batch_keeps_what_is_no_tensor():
    moved = on_device(batch_of(ONE, TWO), "meta")
    assert moved.input_ids.device.type == moved.labels.device.type == "meta"
    assert (moved.sample_ids, moved.max_document_length) == (("t:0", "t:1"), 3)


def test_samples_keep_their_documents_and_numbers_together():
    pair = Features(documents=(ONE, TWO), numbers=(0.5, 2.0))
    alone = Features(documents=(THREE,), numbers=(-1.0,))
    batch = flat_batch([pair, alone], ["a", "b"])
    assert batch.sample_boundaries.tolist() == [0, 2, 3]
    assert batch.numbers.tolist() == [0.5, 2.0, -1.0]
    assert batch.sample_ids == ("a", "b")


def test_a_process_without_samples_has_a_batch_without_labels():
    batch = flat_batch([], [])
    assert batch.input_ids.shape == (1, 1)
    assert (batch.labels.numel(), batch.numbers.numel()) == (0, 0)
    assert batch.sample_boundaries.tolist() == [0]
