"""Linear layers -> 4 bits a weight, by bitsandbytes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Bitsandbytes4bit:
    """Frozen weights in 4 bits under an adapter (QLoRA, Dettmers et al. 2023); CPU and GPU.

    Blocks of 64 weights share a scale. The output layer and the embeddings stay as they are. An
    adapter learns over the rounded weights, so `framework merge` folds it into those.
    """

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = "bitsandbytes_4bit"

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Values that 4 bits stand for. `nf4`: the quantiles of a normal distribution, as weights have.
    `fp4`: floating-point numbers."""
    double_quant: bool = True
    """Hold the scales in 8 bits, too: 4.13 bits a weight instead of 4.5."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype in which a layer multiplies its dequantised weights. `auto`: that of all other
    products."""
    storage_dtype: Literal["uint8", "float32", "bfloat16", "float16"] = "uint8"
    """dtype as which the packed bits are held. Strategies that share out weights need that of the
    model's other weights."""
    skip_modules: tuple[str, ...] = ()
    """Names of further linear layers that stay as they are."""

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> Bitsandbytes4bit | None:
        """Takes what bitsandbytes quantised to 4 bits."""
        return cls() if written.get("load_in_4bit") else None

    def checkpoint_config(self) -> Any:
        """See `protocols.ReadsCheckpoint`."""
        return None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """bitsandbytes must be installed."""
        return missing_extra("bitsandbytes", "bitsandbytes", key="model.quantization")

    def config(self, compute_dtype: str, unquantized: Sequence[str]) -> Any:
        """See `protocols.Quantizes`."""
        import torch
        from transformers import BitsAndBytesConfig

        compute = compute_dtype if self.compute_dtype == "auto" else self.compute_dtype
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, compute),
            bnb_4bit_quant_storage=getattr(torch, self.storage_dtype),
            llm_int8_skip_modules=[*unquantized, *self.skip_modules],
        )

    def bits_per_weight(self, written: Mapping[str, Any]) -> float:
        """See `protocols.Packing`; 64 weights share a scale, 256 scales another one."""
        return 4 + 8 / 64 + 32 / (64 * 256) if self.double_quant else 4 + 32 / 64

    def prepare(self, model: PreTrainedModel) -> None:
        """Keeps the layers as they are in evaluation.

        On CPUs with bfloat16 instructions a layer in evaluation mode repacks its weight for good,
        into a form that has no gradient, computes in bfloat16 and fails for fewer than 64 inputs
        (bitsandbytes 0.50).
        """
        from bitsandbytes.nn.modules import Linear4bit

        from framework.models.four_bit_blocks import repair_blocks

        repair_blocks()
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False

    def holds(self, module: Module) -> bool:
        """See `protocols.Quantizer`."""
        from bitsandbytes.nn.modules import Linear4bit

        return isinstance(module, Linear4bit)

    def dequantized(self, module: Module) -> Tensor:
        """See `protocols.Quantizer`."""
        import torch
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn.modules import Params4bit

        weight = module.get_parameter("weight")
        assert isinstance(weight, Params4bit), type(weight).__name__
        # Else the numbers are rounded to the dtype that the weights were loaded in.
        state = copy.copy(weight.quant_state)
        state.dtype = torch.float32
        return dequantize_4bit(weight.data, state)

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """See `protocols.Quantizer`."""
        from bitsandbytes.nn.modules import Linear4bit

        assert isinstance(module, Linear4bit), type(module).__name__
        module.compute_dtype = dtype
