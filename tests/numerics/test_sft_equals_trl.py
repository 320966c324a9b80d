"""Our supervised loss and its gradients are those of TRL's trainer on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import batch_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from framework.core.batch import Encoded
from framework.data.prepared import prepare_data
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.recipe.resolve import resolve
from framework.trainers.sft import SFT

TOLERANCE = 1e-5  # float32, padded against flat: sums run in another order


def trl_loss(
    model_dir: Path, documents: list[Encoded], tmp_path: Path, loss_type: str
) -> tuple[Any, Any]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    rows = [
        {
            "input_ids": list(document.tokens),
            "completion_mask": [int(trained) for trained in document.trained],
        }
        for document in documents
    ]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=len(rows),
            completion_only_loss=True,
            loss_type=loss_type,
            max_length=None,
            report_to="none",
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == len(rows)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


def our_loss(
    model_dir: Path, documents: list[Encoded], trainer: SFT
) -> tuple[float, dict[str, Any]]:
    model = load_weights(model_dir, dtype="float32", attention="segmented_sdpa")
    batch = batch_of(*documents)
    loss = trainer.loss(CausalPolicy(model), None, batch)
    mean = loss.sum / trainer.num_items(batch)
    mean.backward()
    return mean.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("loss_type", "theirs_is"), [("cross_entropy", "nll"), ("dft", "dft")])
def test_loss_and_gradients_equal_those_of_trl(
    write_recipe, tiny_model_dir, tmp_path, loss_type, theirs_is
):
    data = prepare_data(resolve(write_recipe()))
    documents = [
        document
        for sample in range(data.train.num_samples)
        for document in data.train.features(sample).documents
    ]
    assert len({len(document.tokens) for document in documents}) > 1, "lengths must be ragged"
    ours, our_gradients = our_loss(tiny_model_dir, documents, SFT(loss_type=loss_type))
    theirs, their_gradients = trl_loss(tiny_model_dir, documents, tmp_path, theirs_is)
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        error = (gradient - their_gradients[name]).norm() / their_gradients[name].norm()
        assert error < TOLERANCE, (name, error)
