"""What a classifier reports of all its batches together."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from framework.core.batch import Features
from framework.distributed.totals import Totals
from framework.models.collate import flat_batch
from framework.trainers.classifier import Classifier


class Saying:
    """A policy that says these classes."""

    def __init__(self, classes):
        self.classes = classes

    def logits(self, batch):
        return 5 * torch.nn.functional.one_hot(torch.tensor(self.classes), 4).float()


def batch_of(classes):
    return flat_batch(
        [Features(documents=(), numbers=(number,)) for number in classes],
        [f"t:{row}" for row in range(len(classes))],
    )


@pytest.mark.parametrize("cut", [2, 6])
def test_macro_f1_is_over_all_rows_and_the_classes_that_occur(cut):
    method = Classifier(labels=("a", "b", "c", "d"), class_weights={"a": 3.0})
    rows, said = [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 0, 1, 1]
    totals, num_items = Totals(), 0.0
    for part in (slice(None, cut), slice(cut, None)):
        batch = batch_of(rows[part])
        totals.add(method.loss(Saying(said[part]), None, batch))
        num_items += method.num_items(batch)
    found = method.summarised(totals.means(Accelerator(cpu=True), num_items))
    # a: 3 of 4 rows, said 4 times; b: 1 of 2, said 4 times; c: never said; d: not there at all.
    assert found["macro_f1"] == pytest.approx((6 / 8 + 2 / 6 + 0 / 2) / 3)
    assert found["accuracy"] == pytest.approx(4 / 8)  # The loss is weighted, this is not.
    assert set(found) == {"loss", "accuracy", "macro_f1"}
