"""Our supervised loss and its gradients are those of TRL's trainer on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from framework.core.batch import Encoded
from framework.data.prepared import prepare_data
from framework.models.collate import flat_batch
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy
from framework.recipe.resolve import resolve
from framework.trainers.sft import SFT

TOLERANCE = 1e-5  # float32, padded against flat: sums run in another order


def trl_loss(model_dir: Path, documents: list[Encoded], tmp_path: Path) -> tuple[Any, Any]:
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


def our_loss(model_dir: Path, documents: list[Encoded]) -> tuple[float, dict[str, Any]]:
    model = load_weights(model_dir, dtype="float32", attention="segmented_sdpa")
    batch = flat_batch(documents, [str(index) for index in range(len(documents))])
    loss = SFT().loss(CausalPolicy(model), None, batch)
    mean = loss.sum / loss.num_items
    mean.backward()
    return mean.item(), {name: p.grad for name, p in model.named_parameters()}


def test_loss_and_gradients_equal_those_of_trl(write_recipe, tiny_model_dir, tmp_path):
    data = prepare_data(resolve(write_recipe()))
    documents = [
        document
        for sample in range(data.train.num_samples)
        for document in data.train.features(sample).documents
    ]
    assert len({len(document.tokens) for document in documents}) > 1, "lengths must be ragged"
    ours, our_gradients = our_loss(tiny_model_dir, documents)
    theirs, their_gradients = trl_loss(tiny_model_dir, documents, tmp_path)
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        error = (gradient - their_gradients[name]).norm() / their_gradients[name].norm()
        assert error < TOLERANCE, (name, error)
