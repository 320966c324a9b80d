"""Folder of an adapter, from whoever made it -> its settings as peft may have them.

peft believes what adapter_config.json says: it looks for patterns of names with Python's `re`,
makes matrices of any rank, and where there are no safetensors it takes a pickle or asks the Hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.adapting.adapted import NOT_FITTING
from framework.adapting.targets import ALL_LINEAR, PATH, PATTERNED, name_exactly
from framework.core.linear_pattern import PatternError, refuse_unbounded_name_pattern
from framework.core.problems import Problem, UserError
from framework.models.folder import endless_files

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn import Module

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MOST_BYTES = 4 << 20
"""Of adapter_config.json."""
MOST_NAMES = 10_000
"""In one of its lists; a model with experts has some thousand modules."""
LONGEST_PATTERN = 1 << 18
"""Characters; patterns that list all modules of a model are long."""
LARGEST_RANK = 1024
"""Of any model; of one with larger layers, as much as their width."""
KINDS = frozenset(
    {
        *("ADALORA", "BOFT", "C3A", "DELORA", "FOURIERFT", "HIRA", "HRA", "IA3", "LN_TUNING"),
        *("LOHA", "LOKR", "LORA", "MISS", "OFT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"),
        *("RANDLORA", "ROAD", "SHIRA", "TRAINABLE_TOKENS", "VERA"),
    }
)
"""Those that peft makes of nothing but their folder."""
FOR_THE_MODEL_AS_IT_IS = (True, False, "gaussian", "eva", "orthogonal")
"""Starts of LoRA that leave the weights under it alone."""
FOREIGN = (
    *("megatron_config", "layer_replication", "tokenizer_kwargs", "prompt_tuning_init_text"),
    *("arrow_config", "prompt_tuning_init_state_dict_path"),
)
"""Settings that import what they name, read other files or copy layers as often as they say."""
IGNORED = ("auto_mapping", "runtime_config")
"""Settings that say what peft should import, or how it should compute."""
_PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_NAMES = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")


def read_config(folder: Path, key: str = "") -> dict[str, Any]:
    """What adapter_config.json says, which has no pattern that could take forever.

    Args:
        key: where the recipe names the folder, for messages.

    Raises:
        UserError: it can't be read, or says what no adapter does.
    """
    path = folder / CONFIG
    endless = tuple(endless_files(folder, key)) if folder.is_dir() else ()
    if endless:
        raise UserError(endless)
    try:
        if not path.is_file():
            raise ValueError("it is not there, or no file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        hint = f"it must hold {CONFIG} and {WEIGHTS}, both whole"
        raise UserError(_problem(folder, f"can't be read: {error}", hint, key)) from error
    _refuse(_wrong(config), folder, key)
    return config


def _refuse(faults: Iterable[str], folder: Path, key: str = "") -> None:
    hint = "nothing of it was loaded; look at it, and ask whoever made it"
    problems = tuple(_problem(folder, what, hint, key) for what in faults)
    if problems:
        raise UserError(problems)


def _problem(folder: Path, what: str, hint: str, key: str = "") -> Problem:
    if key:
        return Problem(key=key, what=f"the adapter in {str(folder)!r} {what}", hint=hint)
    return Problem(file=str(folder / CONFIG), what=what, hint=hint)


def with_trained_adapter(model: Module, folder: Path, name: str = "default") -> PeftModel:
    """The model with the adapter of a folder, of which nothing is trained.

    Args:
        model: a plain one, or one that has other adapters already.
        name: what the adapter is called in peft.

    Raises:
        UserError: the folder holds none that is safe to load, or one that doesn't fit.
    """
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (folder / WEIGHTS).is_file():
        raise UserError(
            Problem(
                file=str(folder),
                what=f"has no {WEIGHTS}",
                hint="pickles such as adapter_model.bin can run code and are never loaded",
            )
        )
    try:
        settings = trained_settings(folder, model)
        if isinstance(model, PeftModel):
            model.add_adapter(name, settings)
            model.load_adapter(str(folder), name, torch_device=str(model.device))
            return model
        return PeftModel.from_pretrained(model, str(folder), name, config=settings)
    except (*NOT_FITTING, RuntimeError, OSError, SafetensorError, torch.OutOfMemoryError) as error:
        raise UserError(
            Problem(
                file=str(folder),
                what=f"holds no adapter that fits the model: {_first_line(error)}",
                hint="give the folder of an adapter of this very model, whole",
            )
        ) from error


def trained_settings(folder: Path, model: Module) -> PeftConfig:
    """What peft is told of the adapter in a folder, its modules named one by one.

    Args:
        model: what it is for.

    Raises:
        UserError: they ask for what no adapter of the model has.
    """
    from peft import PeftConfig

    config = read_config(folder)
    _refuse(_unusable(config), folder)
    _refuse(_too_large(config, folder, model), folder)
    written = {name: value for name, value in config.items() if name not in IGNORED}
    settings: Any = PeftConfig.from_peft_type(**written)
    try:
        name_exactly(settings, plain_paths(model))
    except UserError as error:
        _refuse((f"has a pattern that {one.what}" for one in error.problems), folder)
    settings.inference_mode = True
    return settings


def _unusable(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        yield f"says peft_type {str(kind)[:40]!r}, and those that can be loaded are {known}"
    start = config.get("init_lora_weights", True)
    if kind == "LORA" and start not in FOR_THE_MODEL_AS_IT_IS:
        yield f"was saved for a model that its start {str(start)[:40]!r} had changed"


def plain_paths(model: Module) -> tuple[str, ...]:
    """The paths of the model's modules as they are without adapters."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    found = [(path, module) for path, module in plain.named_modules() if path]
    inside = tuple(f"{path}." for path, module in found if isinstance(module, BaseTunerLayer))
    return tuple(path for path, _ in found if not path.startswith(inside))


def _wrong(config: Mapping[str, Any]) -> Iterator[str]:
    for name in FOREIGN:
        if config.get(name):
            yield f"has {name}, which no adapter needs that is loaded to be used"
    for name in _NAMES:
        yield from _wrong_names(name, config.get(name))
    for name, value in config.items():
        if name.endswith("_pattern") and value:
            yield from _wrong_patterns(name, value)


def _wrong_names(name: str, value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value != ALL_LINEAR:
            yield from _wrong_pattern(name, value)
    elif isinstance(value, list):
        # peft takes some of them for patterns.
        if not all(isinstance(one, str) and PATH.fullmatch(one) for one in value):
            yield f"has in {name} what is no name of a module"
        elif len(value) > MOST_NAMES:
            yield f"has {len(value):,} names in {name}, the most are {MOST_NAMES:,}"
    elif value is not None:
        yield f"has in {name} neither names nor a pattern"


def _wrong_patterns(name: str, value: object) -> Iterator[str]:
    if name == "layers_pattern":
        names = [value] if isinstance(value, str) else value
        yield from _wrong_names(name, names)
        return
    if not isinstance(value, dict):
        yield f"has in {name} no patterns with their values"
        return
    if len(value) > MOST_NAMES:
        yield f"has {len(value):,} patterns in {name}, the most are {MOST_NAMES:,}"
        return
    for pattern in value:
        if name in PATTERNED:
            yield from _wrong_pattern(name, pattern)
        elif not PATH.fullmatch(pattern):
            yield f"has in {name} what is no name of a module"
            return


def _wrong_pattern(name: str, pattern: str) -> Iterator[str]:
    if PATH.fullmatch(pattern):
        return
    try:
        refuse_unbounded_name_pattern(pattern, longest=LONGEST_PATTERN)
    except PatternError as error:
        yield f"has in {name} a pattern that can't be looked for: {error}"


def _too_large(config: Mapping[str, Any], folder: Path, model: Module) -> Iterator[str]:
    """What is larger than anything that the folder's weights could fill."""
    shapes = [one.shape for one in model.parameters() if one.ndim == 2]
    width = max([LARGEST_RANK, *(min(shape) for shape in shapes)])
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if isinstance(rank, (int, float)) and rank > width:
            yield f"says a rank of {rank:,}, and this model's layers are at most {width:,} wide"
            return
    if config.get("peft_type") in _PROMPTS:
        written = _num_numbers(folder / WEIGHTS)
        for name in ("num_virtual_tokens", "token_dim", "num_layers", "encoder_hidden_size"):
            number = config.get(name)
            if isinstance(number, (int, float)) and number > written:
                yield f"says {name} {number:,}, and its weights are {written:,} numbers"


def _num_numbers(path: Path) -> int:
    from math import prod

    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).partition("\n")[0][:500]
