"""Settings of RoPE scaling -> positions that plain transformers reads the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.nn import Module
from transformers import AutoConfig, PreTrainedModel

from framework.core.problems import Problem, UserError
from framework.recipe.schema import RopeScaling


def rope_arguments(folder: Path, scaling: RopeScaling | None) -> dict[str, Any]:
    """What `from_pretrained` is given, so that the configuration in `folder` has the scaling.

    Raises:
        UserError: the architecture has no rotary positions, or its own are scaled already.
    """
    if scaling is None:
        return {}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    written = config.to_dict()
    current, limit = written.get("rope_parameters"), written.get("max_position_embeddings")
    if not isinstance(current, dict) or "rope_theta" not in current or not isinstance(limit, int):
        raise _refusal(
            f"{type(config).__name__} has no rotary positions that are one for all layers"
        )
    own = current.get("rope_type", "default")
    if own != "default":
        raise _refusal(f"the model's positions are scaled already ({own})")
    original = scaling.original_max_position_embeddings or limit
    parameters: dict[str, Any] = {**current, "rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type == "yarn":
        further = {
            "original_max_position_embeddings": original,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "attention_factor": scaling.attention_factor,
        }
        parameters |= {name: value for name, value in further.items() if value is not None}
    # `dynamic` begins to scale where these end; the others have so many in all.
    dynamic = scaling.type == "dynamic"
    limit = original if dynamic else round(original * scaling.factor)
    return {"rope_parameters": parameters, "max_position_embeddings": limit}


def num_positions(model: PreTrainedModel) -> int | None:
    """The longest row that the model's positions are made for; None where nothing says so."""
    written = model.config.get_text_config().to_dict()
    limit, rope = written.get("max_position_embeddings"), written.get("rope_parameters")
    if not isinstance(limit, int):
        return None
    if isinstance(rope, dict) and rope.get("rope_type") == "dynamic":
        return round(limit * rope["factor"])
    return limit


def forget_lengths(model: Module) -> None:
    """Makes dynamic rotations a function of the row alone.

    transformers keeps those of the longest row so far, so that what a row is trained with would
    depend on the rows before it, and a resumed run would differ.
    """

    def reset(module: Module, *_: Any) -> None:
        original = module.get_buffer("original_inv_freq").clone()
        module.register_buffer("inv_freq", original, persistent=False)
        module.max_seq_len_cached = vars(module)["original_max_seq_len"]

    for module in model.modules():
        if "max_seq_len_cached" in vars(module) and "original_inv_freq" in module._buffers:
            module.register_forward_pre_hook(reset)


def _refusal(what: str) -> UserError:
    return UserError(Problem(key="model.rope_scaling", what=what, hint="remove `rope_scaling`"))
