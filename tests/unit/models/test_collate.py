"""Documents laid end to end: positions restart, labels never cross a boundary."""

from __future__ import annotations

import pytest
import torch

from framework.core.batch import Encoded
from framework.models.collate import flat_batch, on_device

ONE = Encoded(tokens=(10, 11, 12), trained=(False, True, True))
TWO = Encoded(tokens=(20, 21), trained=(False, False))
THREE = Encoded(tokens=(30, 31, 32, 33), trained=(False, False, True, False))


def test_documents_become_one_row():
    batch = flat_batch([ONE, TWO, THREE], ["a", "b"])
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 30, 31, 32, 33]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch.boundaries.tolist() == [0, 3, 5, 9]
    assert batch.boundaries.dtype == torch.int32
    assert batch.max_document_length == 4
    assert batch.sample_ids == ("a", "b")


def test_a_label_is_predicted_by_the_position_before_it():
    batch = flat_batch([ONE, TWO, THREE], ["a"])
    assert batch.label_positions.tolist() == [0, 1, 6]
    assert batch.labels.tolist() == [11, 12, 32]
    assert batch.label_documents.tolist() == [0, 0, 2]


def test_a_batch_without_labels_has_empty_integer_labels():
    batch = flat_batch([TWO], ["a"])
    for tensor in (batch.label_positions, batch.labels, batch.label_documents):
        assert tensor.shape == (0,)
        assert tensor.dtype == torch.int64


def test_a_trained_first_token_is_our_bug():
    with pytest.raises(AssertionError):
        flat_batch([ONE, Encoded(tokens=(1, 2), trained=(True, True))], ["a"])


def test_moving_a_batch_keeps_what_is_no_tensor():
    moved = on_device(flat_batch([ONE, TWO], ["a"]), "meta")
    assert moved.input_ids.device.type == moved.labels.device.type == "meta"
    assert (moved.sample_ids, moved.max_document_length) == (("a",), 3)
