"""A trained adapter -> a full model on disk, proven to be the trained one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.core import atomic
from framework.core.problems import Problem, Refused, UserError
from framework.models.load import DTYPES
from framework.models.quiet import quiet
from framework.models.trained import FinishedRun, load_plain

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


def merge(run: FinishedRun, output: Path, dtype: str) -> MergeProof:
    """Writes the merged model to `output`, which must not exist.

    The folder is loaded again and compared before it gets its name.

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
    base = run.base_model(torch.float32)
    probes = _probes(base.config.get_text_config().vocab_size)
    base_logits = _logits(base, probes)
    adapted = run.trained_model(torch.float32)
    wanted = _logits(adapted, probes)
    merged = run.recipe.adapter.merge(adapted).to(DTYPES[dtype])  # pyright: ignore[reportArgumentType]
    found: list[MergeProof] = []

    def make(folder: Path) -> None:
        with quiet():
            merged.save_pretrained(folder, safe_serialization=True)
        run.tokenizer.save_pretrained(folder)
        settings = (run.final / "generation_config.json").read_text(encoding="utf-8")
        (folder / "generation_config.json").write_text(settings, encoding="utf-8")
        # In float32 whatever it was saved in: the rounding of the weights is what is measured.
        written = _logits(load_plain(folder, torch.float32), probes)
        found.append(_compare(written, wanted, base_logits, dtype))

    atomic.write_folder(output, make)
    return found[0]


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
