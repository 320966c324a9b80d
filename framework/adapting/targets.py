"""Names and patterns of modules that a recipe writes -> what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from framework.core.linear_pattern import (
    PatternError,
    find_in_names,
    refuse_unbounded_name_pattern,
)
from framework.core.problems import Problem, UserError, did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe

Names = str | tuple[str, ...]
"""One pattern, or names that stand for every module whose path ends with one of them."""

EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "lm_head")
"""What the input and output embeddings are called in the models that transformers has."""

ALL_LINEAR = "all-linear"
"""Every linear layer but the output layer, in peft's words."""

QUANTIZED_LAYERS = frozenset(
    {"bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "gptq", "awq", "fake_quantized"}
)
"""Every kind of quantised layer; what an adapter that replaces no linear layer works over."""

QUANTIZED_LINEAR = QUANTIZED_LAYERS - {"gptq", "awq"}
"""Those over which adapters that do were measured: trained, they are what they are over the weights
that the quantised ones stand for."""

NAMING = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")
"""The fields of adapters that name modules; every adapter has some of them."""

PATTERNED = ("rank_pattern", "alpha_pattern")
"""The fields that have values by patterns."""

PATH = re.compile(r"[\w.-]+")
"""A pattern that is a name, or the path of one."""


def unreadable_patterns(adapter: object) -> Iterator[Problem]:
    """A problem for every pattern of the adapter that is no regular expression."""
    for name, value in _named(adapter).items():
        if isinstance(value, str):
            yield from unreadable_pattern(f".{name}", value)


def unreadable_pattern(key: str, pattern: str) -> Iterator[Problem]:
    """A problem if it is no regular expression."""
    try:
        refuse_unbounded_name_pattern(pattern)
    except PatternError as error:
        usual = "write a pattern such as `.*q_proj`, or names in a list: [q_proj, v_proj]"
        yield Problem(key=key, what=str(error), hint=error.hint or usual)


def untrained_tokens(
    recipe: Recipe, trained: Names = (), *, saves_modules: bool = True
) -> Iterator[Problem]:
    """A problem if the recipe adds tokens whose embeddings the adapter leaves as they are.

    Args:
        trained: names of the modules whose weights the adapter trains.
        saves_modules: whether the adapter has `modules_to_save`.
    """
    added = recipe.tokenizer.add_tokens
    if added and not name_embeddings(trained):
        trains = "modules_to_save: [embed_tokens, lm_head]"
        yield Problem(
            key=".modules_to_save" if saves_modules else "adapter",
            what=f"tokenizer.add_tokens adds {len(added)} tokens, "
            "but this adapter leaves their embeddings frozen",
            hint=f"write `{trains}`" if saves_modules else f"write `{{type: lora, {trains}}}`",
        )


def name_embeddings(names: Names) -> bool:
    """Whether the input or output embeddings are among them, going by the names they have."""
    return any(name.rpartition(".")[2] in EMBEDDINGS for name in as_tuple(names))


def unmatched(model: PreTrainedModel, adapter: object) -> Iterator[Problem]:
    """A problem for every name and pattern of the adapter that fits nothing in the model."""
    paths = module_paths(model)
    for key, value in _named(adapter).items():
        for pattern in as_tuple(value):
            with in_setting(key):
                fits = value == ALL_LINEAR or fitting(value, pattern, paths)
            if not fits:
                yield nothing_fits(key, pattern, linear_names(model))


@contextmanager
def in_setting(key: str) -> Iterator[None]:
    """What is wrong with a pattern is wrong with this setting of the recipe's adapter."""
    try:
        yield
    except UserError as error:
        problems = tuple(replace(one, key=f"adapter.{key}") for one in error.problems)
        raise UserError(problems) from error


def module_paths(model: Module) -> tuple[str, ...]:
    """The paths of the model's modules, without its own, which is empty."""
    return tuple(path for path, _ in model.named_modules() if path)


def fitting(value: Names, pattern: str, paths: tuple[str, ...]) -> frozenset[str]:
    """The paths that `pattern`, which is `value` or one of it, stands for.

    Raises:
        UserError: the pattern takes too long.
    """
    if isinstance(value, str):
        return find_in_names(pattern, paths, whole=True)
    return frozenset(filter(ends_with(pattern), paths))


def fitting_part(pattern: str, paths: tuple[str, ...]) -> frozenset[str]:
    """The paths that a pattern of `rank_pattern` stands for: it fits whole parts at their end.

    Raises:
        UserError: the pattern takes too long.
    """
    return find_in_names(rf"(?:.*\.)?(?:{pattern})", paths, whole=True)


def values_by_path(patterns: Mapping[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """Path -> the value of the first pattern that fits it, where there is one.

    Raises:
        UserError: a pattern takes too long.
    """
    found: dict[str, Any] = {}
    for pattern, value in patterns.items():
        for path in fitting_part(pattern, paths):
            found.setdefault(path, value)
    return found


def name_exactly(config: PeftConfig, paths: tuple[str, ...]) -> None:
    """Puts the modules themselves in the place of patterns, which peft would look for with Python's
    `re`, that nothing stops.

    Args:
        paths: of the modules of the model, which has no adapter yet.

    Raises:
        UserError: a pattern takes too long.
    """
    written = vars(config)
    for key in ("target_modules", "exclude_modules", "feedforward_modules"):
        value = written.get(key)
        if isinstance(value, str) and value != ALL_LINEAR:
            with in_setting(key):
                found = find_in_names(value, paths, whole=True)
            setattr(config, key, _listed(found, paths, key))
    for key in PATTERNED:
        patterns = written.get(key) or {}
        if not all(map(PATH.fullmatch, patterns)):
            with in_setting(key):
                by_path = values_by_path(patterns, paths)
            setattr(config, key, _values_exactly(by_path))


def _listed(found: frozenset[str], paths: Iterable[str], key: str) -> set[str] | str:
    endings = tuple(f".{path}" for path in found)
    stands_for_others = any(path not in found and path.endswith(endings) for path in paths)
    if stands_for_others or key == "feedforward_modules":
        # Names in a list stand for every path that ends with one of them.
        return _any_of(found)
    return set(found)


def _values_exactly(by_path: Mapping[str, Any]) -> dict[str, Any]:
    """One pattern for all paths of a value, which `re` goes through in one pass."""
    paths_of: dict[Any, list[str]] = {}
    for path, value in by_path.items():
        paths_of.setdefault(value, []).append(path)
    return {f"^(?:{_any_of(paths)})": value for value, paths in paths_of.items()}


def _any_of(paths: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(paths)))


def ends_with(name: str) -> Callable[[str], bool]:
    """Whether a path is `name` or ends with it, as peft matches names in a list."""
    return lambda path: path == name or path.endswith(f".{name}")


def nothing_fits(key: str, pattern: str, available: tuple[str, ...]) -> Problem:
    """The problem of a name or pattern in the field `key` of the recipe's adapter."""
    near = did_you_mean(pattern.rpartition(".")[2], available)
    listed = f"the model's linear layers are: {', '.join(available)}"
    return Problem(
        key=f"adapter.{key}",
        what=f"{pattern!r} fits no module of the model",
        hint=f"{near} {listed}" if near.startswith("did") else listed,
    )


def linear_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Last parts of the paths of the model's linear layers."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    layers = (path for path, module in model.named_modules() if isinstance(module, Linear | Conv1D))
    return tuple(sorted({path.rpartition(".")[2] for path in layers}))


def as_tuple(names: Names) -> tuple[str, ...]:
    """The names, or the one pattern, as a tuple."""
    return (names,) if isinstance(names, str) else names


def as_peft(value: Any) -> Any:
    """A list in place of a tuple, None in place of an empty one: what peft takes."""
    return (list(value) or None) if isinstance(value, tuple) else value


def _named(adapter: object) -> Mapping[str, Names]:
    written = vars(adapter)
    return {name: written[name] for name in NAMING if written.get(name) is not None}
