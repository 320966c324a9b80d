"""Model and peft's configuration of an adapter -> the model with it, and a plain model again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from framework.adapting.targets import linear_names, module_paths, name_exactly, unmatched
from framework.core.problems import Problem, UserError
from framework.core.registries import component_name

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor
    from torch import dtype as torch_dtype
    from torch.nn import Module
    from transformers import PreTrainedModel

NOT_FITTING = (ValueError, TypeError, NotImplementedError, LookupError, AssertionError)
"""What peft raises where an adapter's sizes, targets or kinds of layer don't fit the model."""


def adapted(
    model: PreTrainedModel, config: PeftConfig, adapter: object, name: str = "default"
) -> PeftModel:
    """The model with the adapter, whose numbers are float32 even where the weights are 16-bit.

    Args:
        adapter: the recipe's, for what is said of it.
        name: what it is called in peft.

    Raises:
        UserError: a name or pattern fits no module, or the adapter doesn't fit the model.
    """
    from peft import get_peft_model

    from framework.models.heads import has_head, task_type

    # peft treats heads of token classification models less well than those of sequences.
    config.task_type = "SEQ_CLS" if has_head(model) else "CAUSAL_LM"
    problems = tuple(unmatched(model, adapter))
    if problems:
        raise UserError(problems)
    name_exactly(config, module_paths(model))
    try:
        with warnings.catch_warnings():
            # A setting that peft would change is refused instead.
            warnings.filterwarnings("error", message=".*Adjusted")
            trained: Any = get_peft_model(
                model, config, adapter_name=name, autocast_adapter_dtype=True
            )
    except (*NOT_FITTING, UserWarning) as error:
        raise UserError(
            Problem(
                key="adapter",
                what=f"{component_name(adapter)} can't be applied to {type(model).__name__}: "
                f"{error}",
                hint=f"its linear layers are: {', '.join(linear_names(model))}",
            )
        ) from error
    config.task_type = task_type(model)
    _hold_trained_weights_in_float32(trained)
    return trained


def _hold_trained_weights_in_float32(model: Module) -> None:
    """Also those of whole modules, whose copies peft leaves in 16 bits, where updates are lost.

    What such a module takes and gives stays in the dtype of the model around it.
    """
    for module in list(model.modules()):
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        halves = {p.dtype for p in own if p.dtype.itemsize == 2}
        for dtype in halves:
            module.register_forward_pre_hook(_floats_in_float32)
            module.register_forward_hook(_output_in(dtype))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _floats_in_float32(module: Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.float() if value.is_floating_point() else value for value in inputs)


def _output_in(dtype: torch_dtype) -> Callable[[Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: output.to(dtype)


def merged(model: Module) -> PreTrainedModel:
    """The plain model with the adapter's change folded into its weights.

    Raises:
        UserError: the adapter holds NaN or infinity.
    """
    from peft import PeftModel

    assert isinstance(model, PeftModel), type(model).__name__
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(
            f"the adapter can't be merged: {error}",
            hint="its weights are not finite; take an earlier checkpoint",
        ) from error


def unmergeable(why: str) -> UserError:
    """Refusal of an adapter that can't become weights, with how it is served instead."""
    return UserError(
        f"the adapter can't be merged: {why}",
        hint="serve the base model with it: "
        "`peft.PeftModel.from_pretrained(base, 'RUN/final')`, or `framework chat RUN`",
    )
