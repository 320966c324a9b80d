"""A trained adapter -> a full model on disk, proven to be the trained one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from framework.core import atomic
from framework.core.heads import Head
from framework.core.problems import Problem, Refused, UserError
from framework.core.registries import component_name
from framework.models.load import DTYPES
from framework.models.quantized import plain_copy, weights_alone
from framework.models.quiet import quiet
from framework.recipe.quantization import written_quantization
from framework.runs.trained import FinishedRun, load_plain

FLOAT32_TOLERANCE = 1e-4
"""Largest difference of a logit between merged model and adapter on base, in float32: summing
W x + B A x in another order moves logits of size 10 by a few 1e-5."""
ROUNDED_TOLERANCE = 0.1
"""The same for 16-bit weights, as a share of what the adapter changes (both as norms)."""
NUM_PROBE_TOKENS = 64
NUM_PROBES = 4


@dataclass(frozen=True, kw_only=True)
class MergeProof:
    """How the written model compares with the trained one, on probe texts."""

    dtype: str
    largest_difference: float
    """max |logit(merged) - logit(adapter on base)|"""
    largest_change: float
    """max |logit(adapter on base) - logit(base)|"""
    relative_difference: float
    """The two differences' norms, divided."""
    quantization: str | None = None
    """What the base was quantised by; the adapter is merged into the weights that it stood on."""
    difference_on_whole_weights: float | None = None
    """How far the adapter on the unquantised base would be from the trained model: norms, divided
    by that of what the adapter changes. None where there is no such base."""


@dataclass(frozen=True, kw_only=True)
class TrainedLogits:
    """What the trained model says to the probe texts; float32 [NUM_PROBES, NUM_PROBE_TOKENS, V],
    or what its head of numbers does."""

    probes: Tensor
    base: Tensor
    adapted: Tensor
    head: Head | None = None


def merge(run: FinishedRun, output: Path, dtype: str) -> MergeProof:
    """Writes the merged model to `output`, which must not exist.

    An adapter that was trained over quantised weights is merged into what those stand for. The
    folder is loaded again and compared before it gets its name.

    Raises:
        UserError: the run has no adapter, or `output` exists.
        Refused: the merge equals the base, or is not the trained model.
    """
    if not run.has_adapter:
        raise UserError(
            Problem(file=str(run.final), what="is a full model already", hint="use it as it is")
        )
    if output.exists():
        raise UserError(Problem(file=str(output), what="exists", hint="name a new folder"))
    trained, adapted = trained_logits(run)
    on_whole_weights = _difference_on_whole_weights(run, trained)
    merged = run.recipe.adapter.merge(adapted).to(DTYPES[dtype])  # pyright: ignore[reportArgumentType]
    found: list[MergeProof] = []

    def make(folder: Path) -> None:
        with quiet():
            merged.save_pretrained(folder, safe_serialization=True)
        run.tokenizer.save_pretrained(folder)
        settings = (run.final / "generation_config.json").read_text(encoding="utf-8")
        (folder / "generation_config.json").write_text(settings, encoding="utf-8")
        found.append(prove_merged(folder, trained, dtype))

    atomic.write_folder(output, make)
    return dataclasses.replace(
        found[0],
        quantization=run.quantizer and component_name(run.quantizer),
        difference_on_whole_weights=on_whole_weights,
    )


def trained_logits(run: FinishedRun) -> tuple[TrainedLogits, Module]:
    """What the run's model says, and the adapter on plain weights that say the same."""
    base = run.base_model(torch.float32)
    plain = None if run.quantizer is None else plain_copy(base, run.quantizer)
    probes = _probes(base.config.get_text_config().vocab_size)
    with weights_alone(base, run.quantizer):
        base_logits = _logits(base, probes)
        adapted = run.adapted(base)
        said = TrainedLogits(
            probes=probes,
            base=base_logits,
            adapted=_logits(adapted, probes),
            head=run.head,
        )
    return said, adapted if plain is None else run.adapted(plain)


def prove_merged(folder: Path, trained: TrainedLogits, dtype: str) -> MergeProof:
    """Compares the model in `folder`, whose weights are of `dtype`, with the trained one.

    Raises:
        Refused: it equals the base, or is not the trained model.
    """
    # In float32 whatever it was saved in: the rounding of the weights is what is measured.
    written = _logits(load_plain(folder, torch.float32, trained.head), trained.probes)
    return _compare(written, trained.adapted, trained.base, dtype)


def _difference_on_whole_weights(run: FinishedRun, trained: TrainedLogits) -> float | None:
    """See `MergeProof`; None also where nothing was quantised while loading."""
    if run.quantizer is None or written_quantization(run.model_path) is not None:
        return None
    said = _logits(run.adapted(run.whole_model(torch.float32)), trained.probes)
    change = (trained.adapted - trained.base).norm().clamp_min(1e-30)
    return ((said - trained.adapted).norm() / change).item()


def _probes(vocabulary_size: int) -> Tensor:
    """int64 [NUM_PROBES, NUM_PROBE_TOKENS]: random tokens reach weights that no text would."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary_size, (NUM_PROBES, NUM_PROBE_TOKENS), generator=generator)


def _logits(model: Any, probes: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=probes, use_cache=False).logits.float()


def _compare(merged: Tensor, adapted: Tensor, base: Tensor, dtype: str) -> MergeProof:
    difference, change = merged - adapted, adapted - base
    proof = MergeProof(
        dtype=dtype,
        largest_difference=difference.abs().max().item(),
        largest_change=change.abs().max().item(),
        relative_difference=(difference.norm() / change.norm().clamp_min(1e-30)).item(),
    )
    if not torch.isfinite(merged).all():
        raise Refused("the merged model's logits are not finite", hint="take an earlier checkpoint")
    if torch.equal(merged, base) or proof.largest_change <= FLOAT32_TOLERANCE:
        raise Refused(
            f"the merge would equal the base model: the adapter moves no logit by more than "
            f"{proof.largest_change:.2g}",
            hint="the adapter has learned nothing, or is not the one you mean",
        )
    if dtype == "float32":
        wrong = proof.largest_difference > FLOAT32_TOLERANCE
        limit = f"{FLOAT32_TOLERANCE:g}"
        measured = f"a logit by {proof.largest_difference:.2g}"
    else:
        wrong = proof.relative_difference > ROUNDED_TOLERANCE
        limit = f"{ROUNDED_TOLERANCE:.0%} of what the adapter changes"
        measured = f"logits by {proof.relative_difference:.1%} of it"
    if wrong:
        raise Refused(
            f"the merge is not the trained model: it differs from adapter on base by more than "
            f"{limit} ({measured})",
            hint="write --dtype float32" if dtype != "float32" else "report this as a bug",
        )
    return proof
