"""Recipe -> what is known of its model's files before anything is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, UserError
from framework.core.protocols.data import Local

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

CONFIG = "config.json"


def local_folder(recipe: Recipe) -> Path | None:
    """The model's folder, if it is one of this machine."""
    source = recipe.model.source
    # A source that may be elsewhere, such as a GGUF file, has a path or none.
    path: str | None = source.path if isinstance(source, Local) else None
    return Path(path) if path is not None and Path(path).is_dir() else None


def text_config(recipe: Recipe) -> Mapping[str, Any]:
    """What config.json says of the language model; empty where it isn't on this machine, or can't
    be read, which is told where the model's own settings are checked."""
    try:
        config = written_config(local_folder(recipe))
    except UserError:
        return {}
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def written_config(folder: Path | None) -> Mapping[str, Any]:
    """config.json of the folder; empty where there is none.

    Raises:
        UserError: it can't be read.
    """
    if folder is None or not (folder / CONFIG).is_file():
        return {}
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            Problem(
                key="model.source",
                what=f"{str(path)!r} can't be read: {error}",
                hint="copy it from the model's repository again",
            )
        ) from error
    return config if isinstance(config, dict) else {}


def rotations_by_length(config: Mapping[str, Any]) -> str | None:
    """Kind of a model's rotations, where they depend on the longest position that is given."""
    for name in ("rope_parameters", "rope_scaling"):
        written = config.get(name)
        if isinstance(written, dict):
            # Of all layers, or of each kind of them.
            for one in (written, *written.values()):
                kind = one.get("rope_type", one.get("type")) if isinstance(one, dict) else None
                if kind in {"dynamic", "longrope"}:
                    return str(kind)
    return None
