"""Pairs of documents, the models that judge them, and TRL's own trainers fed with the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from architectures import VOCABULARY
from transformers import AutoModelForCausalLM, AutoTokenizer

from framework.core.batch import Batch, Encoded, Features
from framework.engine.reference import FrozenPolicy
from framework.models.collate import flat_batch
from framework.models.load import load_weights
from framework.models.policy import CausalPolicy

TOLERANCE = 1e-5  # float32, padded against flat: sums run in another order
Gradients = Mapping[str, torch.Tensor]


def pair(number: int, num_prompt: int, num_chosen: int, num_rejected: int) -> Features:
    """A prompt and two answers to it of so many tokens."""
    prompt = _tokens(number, num_prompt)
    answers = (_tokens(number + 50, num_chosen), _tokens(number + 90, num_rejected))
    return Features(documents=tuple(_document(prompt, answer) for answer in answers))


def _tokens(seed: int, count: int) -> tuple[int, ...]:
    return tuple(3 + (seed * 31 + i * i * 7 + i * 5) % (VOCABULARY - 3) for i in range(count))


def _document(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Encoded:
    trained = (*(False,) * len(prompt), *(True,) * len(answer))
    return Encoded(tokens=(*prompt, *answer), trained=trained)


PAIRS = (pair(1, 5, 4, 9), pair(2, 3, 8, 2), pair(3, 7, 6, 6), pair(4, 2, 3, 5))


def batch_of_pairs(pairs: Sequence[Features] = PAIRS) -> Batch:
    """Each pair a sample."""
    return flat_batch(pairs, [f"t:{number}" for number in range(len(pairs))])


def changed_model(model_dir: Path, seed: int) -> Any:
    """The model of the folder with every weight moved a little: policy and reference differ."""
    model = load_weights(model_dir, dtype="float32", attention="segmented_sdpa")
    return moved(model, seed)


def moved(model: Any, seed: int) -> Any:
    """The same model, every weight moved a little."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def our_loss(
    trainer: Any, model_dir: Path, batch: Batch, dtype: torch.dtype = torch.float32
) -> tuple[float, Gradients]:
    """Mean loss and gradients of a trainer of ours; the policy is moved away from the reference."""
    model = changed_model(model_dir, seed=3).to(dtype)
    reference = FrozenPolicy(changed_model(model_dir, seed=4).to(dtype), None)
    mean = trainer.loss(CausalPolicy(model), reference, batch).sum / trainer.num_items(batch)
    mean.backward()
    return mean.item(), gradients_of(model)


def our_metrics(trainer: Any, model_dir: Path, batch: Batch) -> Mapping[str, float]:
    """Means of the trainer's metrics in `our_loss`."""
    policy = CausalPolicy(changed_model(model_dir, seed=3))
    reference = FrozenPolicy(changed_model(model_dir, seed=4), None)
    metrics = trainer.loss(policy, reference, batch).metrics
    return {name: one.item() / trainer.num_items(batch) for name, one in metrics.items()}


def plain_models(model_dir: Path) -> tuple[Any, Any]:
    """(Policy, reference) of `our_loss`, as plain transformers has them."""
    made = [
        moved(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), seed)
        for seed in (3, 4)
    ]
    return made[0], made[1]


def tokenizer_of(model_dir: Path) -> Any:
    """The folder's tokenizer."""
    return AutoTokenizer.from_pretrained(model_dir)


def prompt_and_answers(features: Features) -> list[tuple[list[int], list[int]]]:
    """(Prompt, answer) of each document, in tokens."""
    found: list[tuple[list[int], list[int]]] = []
    for document in features.documents:
        first = document.trained.index(True)
        found.append((list(document.tokens[:first]), list(document.tokens[first:])))
    return found


def gradients_of(model: Any) -> Gradients:
    """Name -> gradient of every parameter."""
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal(ours: tuple[float, Gradients], theirs: tuple[float, Gradients]) -> None:
    """Loss and every gradient within the tolerance."""
    assert abs(ours[0] - theirs[0]) <= TOLERANCE * max(1.0, abs(theirs[0])), (ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    assert sum(gradient.norm() ** 2 for gradient in theirs[1].values()) > 1e-8
    for name, gradient in ours[1].items():
        error = (gradient - theirs[1][name]).norm() / theirs[1][name].norm().clamp_min(1e-12)
        assert error < TOLERANCE, (name, error)
