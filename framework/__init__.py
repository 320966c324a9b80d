"""Fine-tune language models from one declarative recipe; nothing about the run is silent."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`train`, `check` and `plan` as functions; loaded at first use, so importing stays light."""
    if name not in {"train", "check", "plan"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from framework import api

    # The submodule `framework.train` would otherwise take the function's place once imported.
    globals().update(train=api.train, check=api.check, plan=api.plan)
    return globals()[name]
