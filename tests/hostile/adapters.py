"""Settings and weights of adapters that try to run code, to reach elsewhere, or to keep busy."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOW = "(|.|..)" * 30 + "[!?]"
"""A pattern without any repetition for which `re` tries as many ways as there are to cut a name
into ones and twos."""
ENDLESS = "(a+)+b"

SETTINGS: dict[str, dict[str, Any]] = {
    "a pattern that takes minutes": {"target_modules": SLOW},
    "the same for what is left out": {"exclude_modules": SLOW},
    "the same for ranks": {"rank_pattern": {SLOW: 2}},
    "the same for scales": {"alpha_pattern": {SLOW: 2}},
    "a pattern without end": {"target_modules": ENDLESS},
    "a pattern among names": {"target_modules": ["q_proj", ENDLESS]},
    "a pattern among whole modules": {"modules_to_save": [ENDLESS]},
    "a pattern for layers": {"layers_pattern": ENDLESS, "layers_to_transform": [0]},
    "patterns for layers": {"layers_pattern": ["layers", ENDLESS], "layers_to_transform": [0]},
    "a pattern without end for ranks": {"rank_pattern": {ENDLESS: 2}},
    "a pattern of a field to come": {"other_pattern": {ENDLESS: 2}},
    "no pattern": {"target_modules": "("},
    "megabytes of names": {"target_modules": ["q_proj"] * 500_000},
    "very many names": {"target_modules": [f"m{number}" for number in range(50_000)]},
    "very many ranks": {"rank_pattern": {f"m{number}": 2 for number in range(50_000)}},
    "numbers for names": {"target_modules": 7},
    "lists for names": {"target_modules": [["q_proj"]]},
    "a rank that fills the memory": {"r": 10**8},
    "a rank of some modules": {"rank_pattern": {"q_proj": 10**8}},
    "a rank that is none": {"r": "many"},
    "a rank without end": {"r": float("inf")},
    "layers without end": {"layer_replication": [[0, 10**8]]},
    "code of another library": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
    "a start that reads a file": {
        "init_lora_weights": "corda",
        "corda_config": {"cache_file": "x"},
    },
    "adapters of others": {"peft_type": "XLORA", "adapters": {"a": "owner/name"}},
    "a kind that there isn't": {"peft_type": "EVIL"},
    "a kind that is a list": {"peft_type": ["LORA"]},
    "a tokenizer": {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "x",
        "num_virtual_tokens": 4,
        "tokenizer_name_or_path": "EVIL",
        "tokenizer_kwargs": {"trust_remote_code": True},
    },
    "tokens that fill the memory": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**9},
    "tensors of another file": {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "num_virtual_tokens": 4,
        "prompt_tuning_init": "AVERAGE_SOURCE_TASKS",
        "prompt_tuning_init_state_dict_path": "EVIL/pytorch_model.bin",
    },
}
"""Every one is refused by whatever loads it."""

UNUSED: dict[str, Any] = {
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"},
    "base_model_name_or_path": "evil/model",
    "revision": "main",
}
"""Every adapter may have these; nothing is imported or downloaded for them."""


def _header(text: bytes, says: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if says is None else says) + text


def _tensor(shape: list[int], end: int) -> bytes:
    return _header(
        json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    )


WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda bomb: b"",
    "a pickle": lambda bomb: bomb,
    "a header without end": lambda bomb: _header(b"{}", says=1 << 62),
    "a header that is none": lambda bomb: _header(b"[" * 100_000),
    "a tensor that is not there": lambda bomb: _tensor([10**6, 10**6], 4 * 10**12),
    "a tensor larger than its bytes": lambda bomb: _tensor([10**6, 10**6], 4) + bytes(4),
    "a shape that overflows": lambda bomb: _tensor([1 << 62, 4], 4) + bytes(4),
    "a pickle after a header": lambda bomb: _tensor([1], 4) + bomb,
}
"""What stands in adapter_model.safetensors: each is refused."""


def change_settings(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**written, **changes}), encoding="utf-8")
