"""Everything that prepared data depends on -> the name under which it is kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.protocols.training import PreparesBy, Trainer
from framework.recipe.sharing import shares_prefixes

if TYPE_CHECKING:
    from framework.recipe.schema import Data, Dataset, Recipe

_CODE = (
    "chat",
    "cleaners",
    "cleaning",
    "core",
    "data",
    "data_sources",
    "endpoints",
    "formatters",
    "mixtures",
    "online",
    "over_length",
    "proofs",
    "reading",
    "templates",
    "tokenizer_backends",
    "trainers",
)
"""Folders whose code and templates turn rows into tokens: a changed rule makes new data."""
_FILES = ("attention/forest.py", "models/tokenizer.py", "recipe/row_slice.py")
"""Files of other folders that do."""

_ENCODING = ("jinja2", "tokenizers", "transformers")
_CLEANING = ("ftfy", "phonenumbers", "presidio-analyzer", "py3langid", "regex", "rensa")
"""Packages whose versions decide what rows become, as far as they are installed."""


def cache_key(recipe: Recipe, part: str, datasets: Sequence[Dataset], chat_fingerprint: str) -> str:
    """Hash of everything that the prepared data of a part depends on, our own code included.

    Paths are no part of it: the same content at another place has the same name.
    """
    data = recipe.data
    cleaned = part == "train" and bool(data.cleaners)
    cleaning = [repr(data.cleaners), data.dry_run] if cleaned else []
    held_out = [_described(one) for one in (*data.eval, *data.test)] if cleaned else []
    mixing = [repr(data.mixture), data.mixing_unit] if part == "train" else []
    parts = {
        "datasets": [_described(one) for one in datasets],
        "settings": _settings(data),
        "cleaning": [cleaning, held_out],
        "mixing": mixing,
        "sharing": recipe.data.packing and shares_prefixes(recipe),
        "method": _method(recipe.trainer.method),
        "chat": chat_fingerprint,
        "code": code_fingerprint(),
        "versions": _versions((*_ENCODING, *_CLEANING) if cleaned else _ENCODING),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _described(dataset: Dataset) -> list[str]:
    others = {name: value for name, value in vars(dataset).items() if name != "source"}
    return [dataset.source.fingerprint(), repr(others)]


def _method(method: Trainer) -> list[str]:
    """The trainer and those of its settings that decide what becomes of a sample."""
    kind = f"{type(method).__module__}.{type(method).__qualname__}"
    if not isinstance(method, PreparesBy):
        return [kind, repr(method)]
    return [kind, *(f"{name}={getattr(method, name)!r}" for name in method.features_depend_on)]


def _settings(data: Data) -> list[str]:
    apart = {"train", "eval", "test", "split", "cleaners", "dry_run", "mixture", "mixing_unit"}
    apart.add("share_prefixes")  # what becomes of it is a part of its own
    return [f"{name}={value!r}" for name, value in vars(data).items() if name not in apart]


def _versions(packages: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


@functools.cache
def code_fingerprint() -> str:
    """Hash of our own code that turns rows into tokens."""
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    """The files of this package that decide what rows become."""
    package = Path(__file__).parents[1]
    folders = [package / name for name in _CODE]
    files = [path for one in folders for path in sorted((*one.glob("*.py"), *one.glob("*.jinja")))]
    return [*files, *(package / name for name in _FILES)]
