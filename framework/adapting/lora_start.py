"""LoRA's starts that look at data, at what quantisation lost, or that change the frozen weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from framework.core.batch import Batch
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import Quantizer
from framework.models.policy import CausalPolicy

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER = "default"
START = "start"
"""Name of the buffer, beside a matrix, that holds what it started as; no file has it."""


def look_at_inputs(model: PreTrainedModel, config: LoraConfig, batches: Sequence[Batch]) -> None:
    """Measures what CorDA needs, and leaves it at the layers for peft to find."""
    from peft.tuners.lora.corda import preprocess_corda

    def run() -> None:
        policy = CausalPolicy(model)
        for batch in batches:
            policy.logits(batch)

    _name_all_linear(model, config)
    preprocess_corda(model, config, run_model=run)


def look_at_gradients(model: PreTrainedModel, config: LoraConfig, batches: Sequence[Batch]) -> None:
    """The same for LoRA-GA: gradients of the mean loss of the batches' labels."""
    from peft.tuners.lora.loraga import get_target_modules, preprocess_loraga

    def run() -> None:
        policy = CausalPolicy(model)
        for batch in batches:
            policy.negative_log_likelihood(batch).mean().backward()

    _name_all_linear(model, config)
    # It takes the first r directions for one matrix and the next r for the other.
    sizes = [min(layer.weight.shape) for _, layer in get_target_modules(model, config)]
    if max([config.r, *(config.rank_pattern or {}).values()]) * 2 > min(sizes):
        raise UserError(
            Problem(
                key="adapter.r",
                what=f"{config.r} is more than half of a layer's {min(sizes)} rows or columns, "
                "which `lora_ga` needs",
                hint=f"write `r: {min(sizes) // 2}`, or less",
            )
        )
    preprocess_loraga(model, config, train_step=run)


def start_in_activations(model: PeftModel, batches: Sequence[Batch]) -> None:
    """Lets the update read the directions in which a layer's inputs vary most, and gives layers
    with more of them more rank (EVA, Paischer et al. 2024).

    Raises:
        UserError: there are fewer tokens than directions to find.
    """
    from peft import initialize_lora_eva_weights

    config: Any = model.peft_config[ADAPTER]
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    needed = round(max(ranks) * config.eva_config.rho)
    fewest = min(batch.input_ids.shape[1] for batch in batches)
    if fewest < needed:
        raise UserError(
            Problem(
                key="adapter.init_lora_weights",
                what=f"`eva` finds {needed} directions in each batch, and one has {fewest} tokens",
                hint="write `eva_rho: 1`, a lower `r`, or a larger `data.max_length`",
            )
        )
    policy = CausalPolicy(model)
    # Numbers of batches, as peft moves and copies what a loader gives.
    numbers = [torch.tensor(number) for number in range(len(batches))]
    initialize_lora_eva_weights(
        model,
        numbers,
        forward_fn=lambda _, number: policy.logits(batches[int(number)]),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=lambda inputs, *_: _rows(inputs),
        gather_distributed_inputs=False,
        show_progress_bar=False,
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Matrices of another rank are new, and have the frozen weights' dtype.
            parameter.data = parameter.data.float()


def start_at_quantization_error(model: PeftModel, quantizer: Quantizer, folder: Path) -> None:
    """Gives back, as well as the rank allows, what quantisation took away (LoftQ, Li et al. 2023).

    Args:
        folder: the model's, with the weights before they were quantised.
    """
    plain = model.get_base_model()
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if not isinstance(layer, LoraLayer) or not quantizer.holds(layer.get_base_layer()):
                continue
            held = quantizer.dequantized(layer.get_base_layer())
            lost = _weight(folder, f"{name}.weight").to(held) - held
            left, values, right = torch.linalg.svd(lost, full_matrices=False)
            rank = layer.r[ADAPTER]
            root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
            reads, writes = _matrices(layer)
            reads.weight.copy_(root[:, None] * right[:rank])
            writes.weight.copy_(left[:, :rank] * root)


def keep_start(model: PeftModel) -> None:
    """Remembers the matrices as they are; no checkpoint needs them, the same start makes them."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            if ADAPTER not in layer.lora_A:
                raise UserError(
                    Problem(
                        key="adapter.init_lora_weights",
                        what="has no meaning for embeddings, which are among target_modules",
                        hint="write `init_lora_weights: default`, or other target_modules",
                    )
                )
            for matrix in _matrices(layer):
                matrix.register_buffer(START, matrix.weight.detach().clone(), persistent=False)


def save_change(model: PeftModel, folder: Path) -> None:
    """Saves the adapter for the weights as they were before the start was taken out of them.

    What was learned is s (B A - B0 A0) = s [B, -B0] [A; A0], an update of twice the rank
    (appendix of PiSSA, Meng et al. 2024).
    """
    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    plain = model.base_model.get_submodule("model")
    for name, layer in plain.named_modules():
        if isinstance(layer, LoraLayer):
            reads, writes = _matrices(layer)
            prefix = f"base_model.model.{name}"
            first, last = reads.get_buffer(START), writes.get_buffer(START)
            tensors[f"{prefix}.lora_A.weight"] = torch.cat([reads.weight, first], 0)
            tensors[f"{prefix}.lora_B.weight"] = torch.cat([writes.weight, -last], 1)
    config: Any = copy.deepcopy(model.peft_config[ADAPTER])
    config.r *= 2
    # The scale stays: alpha / r, or alpha / sqrt(r).
    factor = 2**0.5 if config.use_rslora else 2
    config.lora_alpha *= factor
    config.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
    config.alpha_pattern = {key: factor * alpha for key, alpha in config.alpha_pattern.items()}
    config.init_lora_weights = True
    config.corda_config = config.lora_ga_config = None
    config.base_model_name_or_path = model.get_base_model().name_or_path
    config.inference_mode = True
    save_file(
        # Clones, as tied embeddings share memory, which safetensors refuses.
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))


def _name_all_linear(model: PreTrainedModel, config: LoraConfig) -> None:
    # peft resolves `all-linear` only when the adapter is applied, which is after this.
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    _maybe_include_all_linear_layers(config, model)


def _matrices(layer: LoraLayer) -> tuple[Any, Any]:
    """(A, which reads the input, and B, which writes the output)."""
    return layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]


def _rows(inputs: Any) -> Tensor:
    """[tokens, d]: what goes into a layer, from the arguments of its call."""
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    return first.reshape(-1, first.shape[-1])


def _weight(folder: Path, name: str) -> Tensor:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - the file is no mapping
                return file.get_tensor(name)
    raise AssertionError(f"{name} is not in {folder}")
