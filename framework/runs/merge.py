"""A finished run -> its full model on disk, in a chosen dtype, proven to be the trained one."""

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
"""The same for 16-bit weights, as a share of what training changes (both as norms)."""
NUM_PROBE_TOKENS = 64
NUM_PROBES = 4


@dataclass(frozen=True, kw_only=True)
class MergeProof:
    """How the written model compares with the trained one, on probe texts."""

    dtype: str
    largest_difference: float
    """max |logit(written) - logit(trained)|; trained is the adapter on its base, or `final/`"""
    largest_change: float
    """max |logit(trained) - logit(base)|"""
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
    trained: Tensor
    has_adapter: bool
    """Whether it is an adapter on its base; else it is a whole model."""
    head: Head | None = None


def merge(run: FinishedRun, output: Path, dtype: str) -> MergeProof:
    """Writes the run's model, an adapter merged into it, to `output`, which must not exist.

    An adapter that was trained over quantised weights is merged into what those stand for. The
    folder is loaded again and compared before it gets its name.

    Raises:
        UserError: the adapter can't be merged, or `output` exists.
        Refused: the result equals the base, or is not the trained model.
    """
    if output.exists():
        raise UserError(Problem(file=str(output), what="exists", hint="name a new folder"))
    said, model = trained_logits(run)
    on_whole_weights = _difference_on_whole_weights(run, said)
    merged = run.recipe.adapter.merge(model).to(DTYPES[dtype])  # pyright: ignore[reportArgumentType]
    found: list[MergeProof] = []

    def make(folder: Path) -> None:
        with quiet():
            merged.save_pretrained(folder, safe_serialization=True)
        run.tokenizer.save_pretrained(folder)
        # Beside an adapter the card says how that is loaded.
        for name in ("generation_config.json", *(() if run.has_adapter else ("README.md",))):
            (folder / name).write_bytes((run.final / name).read_bytes())
        found.append(prove_merged(folder, said, dtype))

    atomic.write_folder(output, make)
    return dataclasses.replace(
        found[0],
        quantization=run.quantizer and component_name(run.quantizer) if run.has_adapter else None,
        difference_on_whole_weights=on_whole_weights,
    )


def trained_logits(run: FinishedRun) -> tuple[TrainedLogits, Module]:
    """What the run's model says, and that model: an adapter on plain weights that say the same."""
    if not run.has_adapter:
        return _logits_of_whole_model(run)
    base = run.base_model(torch.float32)
    plain = None if run.quantizer is None else plain_copy(base, run.quantizer)
    probes = _probes(base)
    with weights_alone(base, run.quantizer):
        base_logits = _logits(base, probes)
        adapted = run.adapted(base)
        said = TrainedLogits(
            probes=probes,
            base=base_logits,
            trained=_logits(adapted, probes),
            has_adapter=True,
            head=run.head,
        )
    return said, adapted if plain is None else run.adapted(plain)


def _logits_of_whole_model(run: FinishedRun) -> tuple[TrainedLogits, Module]:
    base = run.whole_model(torch.float32)
    probes = _probes(base)
    base_logits = _logits(base, probes)
    del base  # One of them is enough memory.
    trained = load_plain(run.final, torch.float32, run.head)
    said = TrainedLogits(
        probes=probes,
        base=base_logits,
        trained=_logits(trained, probes),
        has_adapter=False,
        head=run.head,
    )
    return said, trained


def prove_merged(folder: Path, said: TrainedLogits, dtype: str) -> MergeProof:
    """Compares the model in `folder`, whose weights are of `dtype`, with the trained one.

    Raises:
        Refused: it equals the base, or is not the trained model.
    """
    # In float32 whatever it was saved in: the rounding of the weights is what is measured.
    written = _logits(load_plain(folder, torch.float32, said.head), said.probes)
    return _compare(written, said, dtype)


def _difference_on_whole_weights(run: FinishedRun, said: TrainedLogits) -> float | None:
    """See `MergeProof`; None also where nothing was quantised while loading."""
    if not run.has_adapter or run.quantizer is None:
        return None
    if written_quantization(run.model_path) is not None:
        return None
    otherwise = _logits(run.adapted(run.whole_model(torch.float32)), said.probes)
    change = (said.trained - said.base).norm().clamp_min(1e-30)
    return ((otherwise - said.trained).norm() / change).item()


def _probes(model: Any) -> Tensor:
    """int64 [NUM_PROBES, NUM_PROBE_TOKENS]: random tokens reach weights that no text would."""
    generator = torch.Generator().manual_seed(0)
    vocabulary_size = model.config.get_text_config().vocab_size
    return torch.randint(vocabulary_size, (NUM_PROBES, NUM_PROBE_TOKENS), generator=generator)


def _logits(model: Any, probes: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=probes, use_cache=False).logits.float()


def _compare(written: Tensor, said: TrainedLogits, dtype: str) -> MergeProof:
    difference, change = written - said.trained, said.trained - said.base
    learned, result, trained = (
        ("the adapter", "the merge", "adapter on base")
        if said.has_adapter
        else ("training", "what was written", "final/")
    )
    proof = MergeProof(
        dtype=dtype,
        largest_difference=difference.abs().max().item(),
        largest_change=change.abs().max().item(),
        relative_difference=(difference.norm() / change.norm().clamp_min(1e-30)).item(),
    )
    if not torch.isfinite(written).all():
        raise Refused("the merged model's logits are not finite", hint="take an earlier checkpoint")
    if torch.equal(written, said.base) or proof.largest_change <= FLOAT32_TOLERANCE:
        raise Refused(
            f"{result} would equal the base model: {learned} moves no logit by more than "
            f"{proof.largest_change:.2g}",
            hint=f"{learned} has learned nothing, or is not the one you mean"
            if said.has_adapter
            else "nothing was learned: raise trainer.learning_rate, or train for more steps",
        )
    if dtype == "float32":
        # Nothing is summed in another order where no adapter is merged.
        tolerance = FLOAT32_TOLERANCE if said.has_adapter else 0.0
        wrong = proof.largest_difference > tolerance
        limit = f"{tolerance:g}"
        measured = f"a logit by {proof.largest_difference:.2g}"
    else:
        wrong = proof.relative_difference > ROUNDED_TOLERANCE
        limit = f"{ROUNDED_TOLERANCE:.0%} of what {learned} changes"
        measured = f"logits by {proof.relative_difference:.1%} of it"
    if wrong:
        raise Refused(
            f"{result} is not the trained model: it differs from {trained} by more than "
            f"{limit} ({measured})",
            hint="write --dtype float32" if dtype != "float32" else "report this as a bug",
        )
    return proof
