"""Recipe -> model and tokenizer in memory, with the adapter applied and nothing left to chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.nn import Module
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from framework.core.batch import Encoded
from framework.core.problems import Problem, RunFailed, UserError
from framework.models.attention import AttentionChoice, choose_attention, register
from framework.models.isolation import document_logits, prove_isolation
from framework.models.quiet import quiet

if TYPE_CHECKING:
    from framework.planning.plan import Plan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What is trained."""

    model: Module
    """With the adapter applied."""
    attention: AttentionChoice
    """What computes attention, and why."""
    num_parameters: int
    """Numbers in the model, the adapter's included; tied weights count once."""
    num_trained_parameters: int


def load_bundle(plan: Plan, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Bundle:
    """The model of `folder` on this process's device, ready to train.

    Raises:
        UserError: the folder, the architecture or the adapter doesn't fit the recipe.
        RunFailed: the weights don't fit the device.
    """
    recipe, device = plan.recipe, plan.world.torch_device
    _check_device(device)
    dtype = plan.autocast_dtype or plan.weights_dtype
    attention = choose_attention(recipe.model.attention, device, dtype)
    model = load_weights(folder, dtype=plan.weights_dtype, attention=attention.name)
    _check_length(model, recipe.data.max_length)
    fit_embeddings(model, tokenizer, recipe.tokenizer.add_tokens)
    try:
        model.to(device)  # pyright: ignore[reportArgumentType]
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"the model does not fit {device}: {error}",
            hint="write `model.dtype: bfloat16`, choose a smaller model or more devices",
        ) from error
    if recipe.data.packing or recipe.trainer.micro_batch_size > 1:
        prove_isolation(model)
    else:
        # Runs the attention once, so that what it can't compute is refused here.
        document_logits(model, [Encoded(tokens=(0, 1), trained=(False, True))])
    # New weights are drawn from the recipe's seed alone.
    torch.manual_seed(recipe.trainer.seed)
    with quiet():
        trained = recipe.adapter.apply(model)
    if recipe.model.gradient_checkpointing:
        _checkpoint_gradients(model, inputs_need_gradients=not recipe.adapter.trains_all_weights)
    return Bundle(
        model=trained,
        attention=attention,
        num_parameters=sum(p.numel() for p in trained.parameters()),
        num_trained_parameters=sum(p.numel() for p in trained.parameters() if p.requires_grad),
    )


def load_weights(folder: Path, *, dtype: str, attention: str) -> PreTrainedModel:
    """The folder's model on the CPU, every one of its weights from the folder.

    Raises:
        UserError: transformers doesn't know the architecture, or weights are missing, left over or
            of another shape: a head is never initialised at random in silence.
    """
    register()
    try:
        with quiet():
            pair: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(_unloadable(folder, str(error))) from error
    model, loaded = pair
    problems = _loading_problems(folder, loaded)
    if problems:
        raise UserError(problems)
    return model


def _unloadable(folder: Path, error: str) -> Problem:
    # What transformers says of an architecture whose attention is more than SDPA's.
    if "scaled_dot_product_attention" in error:
        return Problem(
            key="model.attention",
            what=f"the model in {str(folder)!r} has an attention that `sdpa` can't compute",
            hint="write `attention: eager`, or `flash_attention_2` on a GPU",
        )
    return Problem(
        key="model.source",
        what=f"the model in {str(folder)!r} can't be loaded: {error}",
        hint="it must be a causal language model that transformers has built in, "
        "with all its *.safetensors files complete",
    )


def _loading_problems(folder: Path, loaded: Mapping[str, Any]) -> list[Problem]:
    says = {
        "missing_keys": "lacks {} that the model has, and which would start at random",
        "unexpected_keys": "holds {} that the model has no place for",
        "mismatched_keys": "holds {} of another shape than the model's",
    }
    return [
        Problem(
            key="model.source",
            what=f"{str(folder)!r} " + what.format(_weights(loaded[kind])),
            hint="config.json and the *.safetensors files must be of one and the same "
            "causal language model",
        )
        for kind, what in says.items()
        if loaded[kind]
    ]


def _weights(names: Any) -> str:
    listed = sorted(str(name) for name in names)
    shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
    return f"{len(listed)} weight{'s' if len(listed) > 1 else ''} ({shown})"


def _check_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "this machine has a GPU, but the PyTorch that is installed can't use it",
            hint="install PyTorch's build for it, or set ACCELERATE_USE_CPU=true to use the CPU",
        )


def _check_length(model: PreTrainedModel, max_length: int) -> None:
    limit = model.config.get_text_config().to_dict().get("max_position_embeddings")
    if isinstance(limit, int) and max_length > limit:
        raise UserError(
            Problem(
                key="data.max_length",
                what=f"{max_length} is longer than the model's {limit} positions",
                hint=f"write `data.max_length: {limit}`",
            )
        )


def fit_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, added: tuple[str, ...]
) -> None:
    """Grows the embeddings to the tokenizer's size and starts added tokens at the mean.

    The mean of the existing rows, in the input and the output embeddings: no randomness, and a
    logit that is ordinary instead of extreme.
    """
    if len(tokenizer) > model.get_input_embeddings().get_parameter("weight").shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vocabulary = tokenizer.get_vocab()
    new_ids = sorted(vocabulary[text] for text in added)
    embeddings = {model.get_input_embeddings(), model.get_output_embeddings()}
    weights = {layer.get_parameter("weight") for layer in embeddings if layer is not None}
    with torch.no_grad():
        for weight in weights if new_ids else ():
            weight[new_ids] = weight[: new_ids[0]].float().mean(0).to(weight.dtype)


def _checkpoint_gradients(model: PreTrainedModel, *, inputs_need_gradients: bool) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    if inputs_need_gradients:
        model.enable_input_require_grads()
