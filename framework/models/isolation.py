"""Model -> proof, on its own weights, that documents in one row don't see each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Conv1d
from transformers import PreTrainedModel

from framework.attention.sequence_parallel import KEY, SequenceGroup
from framework.core.batch import Encoded, each_alone
from framework.core.problems import Problem, UserError
from framework.models.collate import flat_batch, on_device
from framework.models.heads import policy_of
from framework.models.layers import layers_of
from framework.recipe.sequence_parallel import unfit_model

DOCUMENT_LENGTH = 12

NEIGHBOUR_TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Difference, relative to the largest logit, when only a neighbour changed. Dense models give equal
bits; in a mixture of experts the shapes of the experts' products change, so sums are rounded
otherwise: a few rounding units of the dtype."""

ALONE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""The same when the document is computed alone: other kernels sum in another order, and through all
layers the difference grows."""


def prove_isolation(
    model: PreTrainedModel,
    *,
    in_pairs: bool = False,
    shares: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Changes one document and looks whether another in the same row notices.

    Args:
        in_pairs: the trainer learns from two documents at a time, whatever the recipe says.
        shares: beginnings in common are computed once, which is proven too.
        device: what computes; None: where the weights are.
        dtype: what weights are rounded to while they are used; None: they aren't.

    Raises:
        UserError: it does, or it is computed differently alone.
    """
    vocabulary = model.config.get_text_config().vocab_size
    document = _document(3, vocabulary)
    was_training = model.training
    model.eval()
    try:
        beside_first = document_logits(model, [_document(1, vocabulary), document], device)
        beside_second = document_logits(model, [_document(2, vocabulary), document], device)
        alone = document_logits(model, [document], device)
        branches = _shared_logits(model, vocabulary, device) if shares else None
    except TypeError as error:
        why = f"its forward takes no document boundaries: {error}"
        raise _refusal(model, why, in_pairs=in_pairs) from error
    finally:
        model.train(was_training)
    dtype = dtype or model.dtype
    if _difference(beside_first, beside_second) > NEIGHBOUR_TOLERANCE[dtype]:
        why = "a document's logits change when its neighbour does"
        raise _refusal(model, why, in_pairs=in_pairs)
    if _difference(beside_first, alone) > ALONE_TOLERANCE[dtype]:
        why = "a document's logits in a row are not those that it has alone"
        raise _refusal(model, why, in_pairs=in_pairs)
    if branches is not None and _difference(*branches) > ALONE_TOLERANCE[dtype]:
        raise UserError(
            Problem(
                key="data.share_prefixes",
                what=f"{type(model).__name__} computes documents otherwise when what they have in "
                "common is computed once",
                hint="write `data.share_prefixes: false`",
            )
        )


def prove_slices(
    model: PreTrainedModel,
    sequence: SequenceGroup,
    *,
    several: bool,
    shares: bool,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Computes a row whole on each process, and in slices by all of them.

    Args:
        several: rows hold several documents.
        shares: see `prove_isolation`; also `device` and `dtype`.

    Raises:
        UserError: it isn't the same, or the model can't be computed in slices.
    """
    problems = tuple(unfit_model(model.config.get_text_config().to_dict(), KEY, sequence.size))
    if problems:
        raise UserError(problems)
    vocabulary = model.config.get_text_config().vocab_size
    documents = [_trained_throughout(one) for one in _beginning_alike(vocabulary)][: 1 + several]
    names = [str(number) for number in range(len(documents))]
    batch = on_device(flat_batch(each_alone(documents), names), device or model.device)
    was_training, num_before = model.training, sequence.num_attended
    model.eval()
    try:
        with torch.no_grad():
            whole, sliced = (
                policy_of(model, shares=shares, sequence=group).logits(batch).float()
                for group in (None, sequence)
            )
        why = _sees_neighbours(model, sequence.num_attended - num_before)
        if not why and _difference(whole, sliced) > ALONE_TOLERANCE[dtype or model.dtype]:
            why = "logits differ"
    except TypeError as error:
        why = str(error)
    finally:
        model.train(was_training)
    if why:
        what = f"{type(model).__name__} computes slices of a row otherwise than all of it: {why}"
        raise UserError(Problem(key=KEY, what=what, hint="write sequence_parallel_size: 1"))


def _sees_neighbours(model: PreTrainedModel, num_attended: int) -> str:
    """How, other than in attention; empty where nothing says so."""
    layers = layers_of(model, KEY).modules
    if any(isinstance(one, Conv1d) for layer in layers for one in layer.modules()):
        return "its layers have convolutions over tokens"
    if num_attended < len(layers):
        return f"{num_attended} of its {len(layers)} layers have attention that is computed here"
    return ""


def _shared_logits(
    model: PreTrainedModel, vocabulary: int, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """Of two documents that begin alike, end to end and with their beginning computed once."""
    batch = flat_batch(each_alone(_beginning_alike(vocabulary)), ["0", "1"])
    batch = on_device(batch, device or model.device)
    assert batch.shared is not None, "the beginning is long enough"
    with torch.no_grad():
        found = [policy_of(model, shares=shares).logits(batch).float() for shares in (False, True)]
    return found[0], found[1]


def _beginning_alike(vocabulary: int) -> list[Encoded]:
    beginning = sum((_document(seed, vocabulary).tokens for seed in (4, 5)), ())
    return [
        Encoded(
            tokens=beginning + _document(seed, vocabulary).tokens,
            trained=(False,) * len(beginning) + (True,) * DOCUMENT_LENGTH,
        )
        for seed in (6, 7)
    ]


def document_logits(
    model: PreTrainedModel, documents: list[Encoded], device: torch.device | None = None
) -> Tensor:
    """float32 [L, V]: logits of the last document of a row, without gradients."""
    neighbours = [
        Encoded(tokens=other.tokens, trained=(False,) * len(other.tokens))
        for other in documents[:-1]
    ]
    batch = flat_batch(
        each_alone([*neighbours, documents[-1]]), [str(at) for at in range(len(documents))]
    )
    with torch.no_grad():
        return policy_of(model).logits(on_device(batch, device or model.device)).float()


def _document(seed: int, vocabulary: int) -> Encoded:
    tokens = tuple((seed * 7919 + i * 104_729) % vocabulary for i in range(DOCUMENT_LENGTH))
    return _trained_throughout(Encoded(tokens=tokens, trained=()))


def _trained_throughout(document: Encoded) -> Encoded:
    return replace(document, trained=(False, *(True,) * (len(document.tokens) - 1)))


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest logit; NaN counts as infinite."""
    gap = (one - other).abs().max() / one.abs().max().clamp_min(1e-30)
    return float(gap.nan_to_num(nan=float("inf")))


def _refusal(model: PreTrainedModel, why: str, *, in_pairs: bool) -> UserError:
    what = f"{type(model).__name__} can't keep documents apart in one row: {why}"
    if in_pairs:
        hint = "a pair of answers is two documents; choose another model, or another trainer"
        return UserError(Problem(key="model.source", what=what, hint=hint))
    hint = "write `data.packing: false` and `trainer.micro_batch_size: 1`"
    return UserError(Problem(key="data.packing", what=what, hint=hint))
