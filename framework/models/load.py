"""Recipe -> model and tokenizer in memory, with the adapter applied and nothing left to chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.nn import Module
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from framework.attention.attention import AttentionChoice, choose_attention, register
from framework.attention.sequence_parallel import SequenceGroup
from framework.core.batch import Batch, Encoded
from framework.core.heads import Head, head_of
from framework.core.problems import Problem, RunFailed, UserError
from framework.core.protocols.models import (
    Adapter,
    Announcing,
    LookingAround,
    Quantizer,
    Surroundings,
)
from framework.models.heads import (
    auto_class,
    check_classes,
    check_head_is_trained,
    head_arguments,
    head_note,
    prepare_head,
    unexplained,
)
from framework.models.isolation import document_logits, prove_isolation, prove_slices
from framework.models.memory import save_memory
from framework.models.policy import plain_model
from framework.models.quantized import (
    count_parameters,
    keep_to_each_process,
    loading_arguments,
    settle_dtypes,
    weights_alone,
)
from framework.models.quiet import quiet
from framework.models.rope import forget_lengths, num_positions, rope_arguments
from framework.models.speed import fuse, speed_up
from framework.models.tokenizer import padding_id
from framework.recipe.comparisons import learns_from_pairs, rows_hold_several_documents
from framework.recipe.long_context import group_size, length_conflicts
from framework.recipe.quantization import (
    quantizer_conflicts,
    quantizer_of,
    written_quantization,
)
from framework.recipe.sharing import shares_prefixes

if TYPE_CHECKING:
    from framework.planning.plan import Plan
    from framework.recipe.schema import Recipe, RopeScaling

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
    quantizer: Quantizer | None = None
    """What holds some of the weights in few bits."""
    num_quantized_parameters: int = 0
    alone_because: str = ""
    """Why a forward pass can have one document at a time; empty: nothing was found that says so."""
    notes: tuple[str, ...] = ()
    """What was switched on, what was not and why, and what the adapter trains; for the log."""


def load_bundle(
    plan: Plan,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    first_batches: Callable[[int], Sequence[Batch]] | None = None,
) -> Bundle:
    """The model of `folder` on this process's device, ready to train.

    One that will be shared out waits in the machine's memory, since no device may hold it whole;
    what is quantised is on the device as soon as it is read. What keeps documents apart is left to
    be proven, by `prove_attention`.

    Args:
        first_batches: so many of the first samples, for adapters that start from data.

    Raises:
        UserError: the folder, the architecture or the adapter doesn't fit the recipe.
        RunFailed: the weights don't fit the device.
    """
    recipe, device = plan.recipe, plan.world.torch_device
    _check_device(device)
    dtype = plan.autocast_dtype or plan.weights_dtype
    attention = choose_attention(recipe.model.attention, device, dtype, group_size(recipe))
    quantizer, head = usable_quantizer(recipe, folder), head_of(recipe)
    model = load_weights(
        folder,
        dtype=plan.weights_dtype,
        attention=attention.name,
        quantizer=quantizer,
        compute_dtype=dtype,
        device=device,
        head=head,
        rope_scaling=recipe.model.rope_scaling,
        seed=recipe.trainer.seed,
    )
    if head is not None:
        model.config.pad_token_id = padding_id(tokenizer)
    _check_length(model, recipe)
    fit_embeddings(model, tokenizer, recipe.tokenizer.add_tokens)
    alone_because = ""
    if not is_shared_out(plan):
        _move(model, device)
        alone_because = _prove_or_step_back(model, plan, quantizer)
    # New weights are drawn from the recipe's seed alone.
    torch.manual_seed(recipe.trainer.seed)
    notes = list(speed_up(model, recipe.model, device))
    with quiet():
        trained = _adapted(model, recipe.adapter, quantizer, folder, first_batches)
        notes += save_memory(model, recipe.model, device)
    shared_out = not recipe.strategy.keeps_parameters_whole
    notes.append(fuse(trained, recipe.model, device, shared_out=shared_out))
    if head is not None:
        check_head_is_trained(trained)
        notes.append(head_note(head, folder))
    if isinstance(recipe.adapter, Announcing):
        notes += recipe.adapter.announced(trained)
    if quantizer is not None:
        keep_to_each_process(trained, quantizer)
    num_parameters, num_quantized = count_parameters(trained, quantizer)
    return Bundle(
        model=trained,
        attention=attention,
        alone_because=alone_because,
        quantizer=quantizer,
        num_parameters=num_parameters,
        num_quantized_parameters=num_quantized,
        num_trained_parameters=sum(p.numel() for p in trained.parameters() if p.requires_grad),
        notes=tuple(notes),
    )


def as_loaded(plan: Plan, bundle: Bundle) -> Plan:
    """The plan, with one document in each pass where the model was found to need it."""
    if not bundle.alone_because:
        return plan
    found = plan.one_by_one(bundle.alone_because)
    assert found is not None, "it was loaded so"
    return found


def is_shared_out(plan: Plan) -> bool:
    """Whether no process will hold the model whole."""
    return not plan.recipe.strategy.keeps_parameters_whole and plan.world.num_processes > 1


def _move(model: PreTrainedModel, device: str) -> None:
    try:
        if model.device != torch.device(device):
            model.to(device)  # pyright: ignore[reportArgumentType]
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"the model does not fit {device}: {error}",
            hint="write `model.dtype: bfloat16`, choose a smaller model, or more devices and "
            "`strategy: fsdp`",
        ) from error


def _prove_or_step_back(model: PreTrainedModel, plan: Plan, quantizer: Quantizer | None) -> str:
    """Proves the attention of passes as the plan has them; where `auto` alone asks for several
    documents at a time, of one. Why it is that, empty where it isn't."""
    try:
        prove_attention(model, plan, quantizer)
    except UserError as error:
        one_by_one = plan.one_by_one()
        if one_by_one is None:
            raise
        prove_attention(model, one_by_one, quantizer)
        return error.problems[0].what
    return ""


def prove_attention(
    model: Module,
    plan: Plan,
    quantizer: Quantizer | None,
    sequence: SequenceGroup | None = None,
) -> None:
    """Computes a few tokens, where rows hold several documents as a proof that they are kept apart.

    Every process of a model that is shared out calls it, on the device that it trains on.

    Args:
        sequence: processes that compute rows together, of which it is proven too that they can.

    Raises:
        UserError: the attention can't compute them, or doesn't keep them apart.
    """
    recipe = plan.recipe
    inner = plain_model(model)
    assert isinstance(inner, PreTrainedModel), type(inner).__name__
    device, shares = torch.device(plan.world.torch_device), shares_prefixes(recipe)
    several = rows_hold_several_documents(recipe)
    # Weights that are shared out are collected in the dtype of products.
    name = plan.autocast_dtype if is_shared_out(plan) else None
    dtype = None if name is None else DTYPES[name]
    with weights_alone(inner, quantizer):
        if several:
            in_pairs = learns_from_pairs(recipe)
            prove_isolation(inner, in_pairs=in_pairs, shares=shares, device=device, dtype=dtype)
        if sequence is not None:
            prove_slices(
                inner, sequence, several=several, shares=shares, device=device, dtype=dtype
            )
    if not several:
        # Runs the attention once, so that what it can't compute is refused here.
        document_logits(inner, [Encoded(tokens=(0, 1), trained=(False, True))], device)


def _adapted(
    model: PreTrainedModel,
    adapter: Adapter,
    quantizer: Quantizer | None,
    folder: Path,
    first_batches: Callable[[int], Sequence[Batch]] | None,
) -> Module:
    if not isinstance(adapter, LookingAround):
        return adapter.apply(model)
    num_samples = adapter.num_first_samples()
    assert not num_samples or first_batches is not None, "this adapter starts from data"
    batches = first_batches(num_samples) if num_samples and first_batches else ()
    around = Surroundings(batches=batches, quantizer=quantizer, folder=folder)
    return adapter.apply_within(model, around)


def usable_quantizer(recipe: Recipe, folder: Path) -> Quantizer | None:
    """How the weights in `folder` are held; see `quantizer_of`.

    Raises:
        UserError: the recipe can't train them, or a package is missing.
    """
    quantizer = quantizer_of(recipe, folder)
    problems = () if quantizer is None else tuple(quantizer_conflicts(recipe, quantizer))
    if problems:
        raise UserError(problems)
    return quantizer


def load_weights(
    folder: Path,
    *,
    dtype: str,
    attention: str,
    quantizer: Quantizer | None = None,
    compute_dtype: str = "float32",
    device: str = "cpu",
    head: Head | None = None,
    rope_scaling: RopeScaling | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """The folder's model, every one of its weights from the folder.

    Args:
        compute_dtype: dtype of matrix products with quantised weights.
        device: where quantised weights are put; others are on the CPU.
        head: in the place of the output embeddings; the folder may lack it.
        rope_scaling: written into the model's configuration.
        seed: what such a head is drawn from.

    Raises:
        UserError: transformers doesn't know the architecture, or weights are missing, left over or
            of another shape: a head is never initialised at random in silence.
    """
    register(attention)
    if head is not None:
        check_classes(head, folder)
    arguments = {
        **loading_arguments(quantizer, folder, compute_dtype, device),
        **rope_arguments(folder, rope_scaling),
    }
    try:
        with quiet():
            pair: Any = auto_class(head).from_pretrained(
                folder,
                dtype=DTYPES[dtype],
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **head_arguments(head),
                **arguments,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(_unloadable(folder, str(error))) from error
    model, loaded = pair
    problems = _loading_problems(folder, loaded, head)
    if problems:
        raise UserError(problems)
    if rope_scaling is not None and rope_scaling.type == "dynamic":
        forget_lengths(model)
    if head is not None:
        prepare_head(model, seed if loaded["missing_keys"] else None)
    if quantizer is not None:
        quantizer.prepare(model)
        if written_quantization(folder) is not None:
            settle_dtypes(model, quantizer, DTYPES[dtype], DTYPES[compute_dtype])
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


def _loading_problems(folder: Path, loaded: Mapping[str, Any], head: Head | None) -> list[Problem]:
    says = {
        "missing_keys": "lacks {} that the model has, and which would start at random",
        "unexpected_keys": "holds {} that the model has no place for",
        "mismatched_keys": "holds {} of another shape than the model's",
    }
    return [
        Problem(
            key="model.source",
            what=f"{str(folder)!r} " + what.format(_weights(names)),
            hint="config.json and the *.safetensors files must be of one and the same "
            "causal language model",
        )
        for kind, what in says.items()
        if (names := unexplained(map(str, loaded[kind]), head))
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


def _check_length(model: PreTrainedModel, recipe: Recipe) -> None:
    problems = tuple(length_conflicts(recipe, num_positions(model)))
    if problems:
        raise UserError(problems)


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
