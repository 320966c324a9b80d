"""Linear layers -> 8 bits a weight, by torchao."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from torchao.quantization import Int8Tensor
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


_INT8 = "Int8WeightOnlyConfig"


@dataclass(frozen=True, kw_only=True)
class Torchao:
    """Frozen weights in 8 bits under LoRA, by torchao; CPU and GPU, and torch.compile.

    The output layer and the embeddings stay as they are.
    """

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = "torchao"
    indivisible: ClassVar[bool] = True

    weights: Literal["int8", "int4"] = "int8"
    """Integers that the weights are held in, with a scale for each row. `int4` is refused: its
    products have no gradient that an adapter could learn from."""
    skip_modules: tuple[str, ...] = ()
    """Names of further linear layers that stay as they are."""

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> Torchao | None:
        """Takes weights that torchao holds in 8 bits, and nothing else of it."""
        return cls() if _INT8 in json.dumps(written) else None

    def checkpoint_config(self) -> Any:
        """See `protocols.ReadsCheckpoint`."""
        return None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """torchao must be installed, and its integers trainable through."""
        yield from missing_extra("torchao", "torchao", key="model.quantization")
        if self.weights == "int4":
            yield Problem(
                key=".weights",
                what="products with torchao's int4 weights have no gradient, on any device",
                hint="write `quantization: bitsandbytes_4bit`, or `weights: int8`",
            )

    def config(self, compute_dtype: str, unquantized: Sequence[str]) -> Any:
        """See `protocols.Quantizes`."""
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        assert self.weights == "int8", self.weights
        return TorchAoConfig(
            quant_type=Int8WeightOnlyConfig(set_inductor_config=False),
            # It looks for them in names of weights, in which they are not the end.
            modules_to_not_convert=[
                rf"(?:.*\.)?{re.escape(name)}" for name in (*unquantized, *self.skip_modules)
            ],
        )

    def bits_per_weight(self, written: Mapping[str, Any]) -> float:
        """See `protocols.Packing`; each row of weights has one scale."""
        return 8.0

    def prepare(self, model: PreTrainedModel) -> None:
        """Nothing is to be done."""

    def holds(self, module: Module) -> bool:
        """See `protocols.Quantizer`."""
        from torch.nn import Linear
        from torchao.utils import TorchAOBaseTensor

        return isinstance(module, Linear) and isinstance(module.weight, TorchAOBaseTensor)

    def dequantized(self, module: Module) -> Tensor:
        """See `protocols.Quantizer`."""
        import torch

        return _integers(module).dequantize(torch.float32)

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """See `protocols.Quantizer`."""
        from torch.nn import Parameter
        from torchao.quantization import Int8Tensor

        weight = _integers(module)
        other = Int8Tensor(weight.qdata, weight.scale.to(dtype), weight.block_size, dtype)
        module.register_parameter("weight", Parameter(other, requires_grad=False))


def _integers(module: Module) -> Int8Tensor:
    from torchao.quantization import Int8Tensor

    weight = module.get_parameter("weight")
    assert isinstance(weight, Int8Tensor), type(weight).__name__
    return weight
