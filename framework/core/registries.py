"""The kinds of component and their registries."""

from __future__ import annotations

from framework.core.problems import UserError, did_you_mean
from framework.core.registry import Registry

KINDS = (
    "adapters",
    "cleaners",
    "data_sources",
    "evaluators",
    "formatters",
    "mixtures",
    "model_sources",
    "optimizers",
    "over_length",
    "quantizers",
    "rewards",
    "schedules",
    "strategies",
    "submitters",
    "tokenizer_backends",
    "trackers",
    "trainers",
)

_REGISTRIES = {kind: Registry(kind) for kind in KINDS}


def registry(kind: str) -> Registry:
    """The registry of one kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in _REGISTRIES:
        raise UserError(f"{kind!r} is not a kind of component", hint=did_you_mean(kind, KINDS))
    return _REGISTRIES[kind]


def all_names() -> str:
    """Every kind with its components, in a line."""
    return "; ".join(f"{kind}: {' '.join(registry(kind).names())}" for kind in KINDS)


def component_name(component: object) -> str | None:
    """The name by which a recipe writes this component, None for anything else."""
    names = (registry(kind).name_of(type(component)) for kind in KINDS)
    return next((name for name in names if name is not None), None)
