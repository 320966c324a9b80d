"""Recipe -> whether beginnings that documents have in common are computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.core.protocols.models import Prefixing
from framework.core.protocols.training import Noisy
from framework.recipe.comparisons import rows_hold_several_documents

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def shares_prefixes(recipe: Recipe) -> bool:
    """Whether they are; packs hold the more documents then."""
    return not unshared_because(recipe)


def unshared_because(recipe: Recipe) -> str:
    """Why they aren't; empty where they are. It is known without model, device and data."""
    model, method = recipe.model, recipe.trainer.method
    if not recipe.data.share_prefixes:
        return "data.share_prefixes is false"
    if not rows_hold_several_documents(recipe):
        return "every row is one document"
    if isinstance(recipe.adapter, Prefixing):
        return "the adapter puts tokens of its own before every document"
    if model.attention == "eager":
        return "model.attention is eager, which can't be told which rows a token may see"
    if model.shifted_attention is not None:
        return "shifted attention has groups of each document's own"
    if model.compile:
        return "model.compile compiles for rows of documents end to end"
    if isinstance(method, Noisy) and method.neftune_noise_alpha is not None:
        return "noise on embeddings is drawn for each document"
    return ""
