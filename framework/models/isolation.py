"""Model -> proof, on its own weights, that documents in one row don't see each other."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framework.core.batch import Encoded
from framework.core.problems import Problem, UserError
from framework.models.collate import flat_batch, on_device
from framework.models.policy import CausalPolicy

DOCUMENT_LENGTH = 12

NEIGHBOUR_TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Difference, relative to the largest logit, when only a neighbour changed. Dense models give equal
bits; in a mixture of experts the shapes of the experts' products change, so sums are rounded
otherwise: a few rounding units of the dtype."""

ALONE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""The same when the document is computed alone: other kernels sum in another order, and through all
layers the difference grows."""


def prove_isolation(model: PreTrainedModel) -> None:
    """Changes one document and looks whether another in the same row notices.

    Raises:
        UserError: it does, or it is computed differently alone.
    """
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    document = _document(3, vocabulary)
    was_training = model.training
    model.eval()
    try:
        beside_first = document_logits(model, [_document(1, vocabulary), document])
        beside_second = document_logits(model, [_document(2, vocabulary), document])
        alone = document_logits(model, [document])
    except TypeError as error:
        raise _refusal(model, f"its forward takes no document boundaries: {error}") from error
    finally:
        model.train(was_training)
    if _difference(beside_first, beside_second) > NEIGHBOUR_TOLERANCE[model.dtype]:
        raise _refusal(model, "a document's logits change when its neighbour does")
    if _difference(beside_first, alone) > ALONE_TOLERANCE[model.dtype]:
        raise _refusal(model, "a document's logits in a row are not those that it has alone")


def document_logits(model: PreTrainedModel, documents: list[Encoded]) -> Tensor:
    """float32 [L, V]: logits of the last document of a row, without gradients."""
    neighbours = [
        Encoded(tokens=other.tokens, trained=(False,) * len(other.tokens))
        for other in documents[:-1]
    ]
    batch = flat_batch([*neighbours, documents[-1]], ["isolation"])
    device = model.get_input_embeddings().get_parameter("weight").device
    with torch.no_grad():
        return CausalPolicy(model).logits(on_device(batch, device)).float()


def _document(seed: int, vocabulary: int) -> Encoded:
    tokens = tuple((seed * 7919 + i * 104_729) % vocabulary for i in range(DOCUMENT_LENGTH))
    return Encoded(tokens=tokens, trained=(False, *(True,) * (DOCUMENT_LENGTH - 1)))


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest logit; NaN counts as infinite."""
    gap = (one - other).abs().max() / one.abs().max().clamp_min(1e-30)
    return float(gap.nan_to_num(nan=float("inf")))


def _refusal(model: PreTrainedModel, why: str) -> UserError:
    return UserError(
        Problem(
            key="data.packing",
            what=f"{type(model).__name__} can't keep documents apart in one row: {why}",
            hint="write `data.packing: false` and `trainer.micro_batch_size: 1`",
        )
    )
