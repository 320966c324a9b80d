"""Linear layers -> layers that round their weights in training as they will be rounded later."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem, UserError
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class QAT:
    """Trains weights so that they can be rounded to few bits later (quantisation-aware training).

    Weights stay as they are, every forward pass rounds them, and gradients pass as if it didn't
    (torchao). `final/` holds the unrounded weights; quantise them to the same integers to serve
    them.
    """

    freezes_weights: ClassVar[bool] = False
    layers: ClassVar[str] = "fake_quantized"

    bits: int = setting(4, at_least=2, at_most=8)
    """Of the integers that weights are rounded to, zero in the middle."""
    group_size: int = setting(32, at_least=1)
    """Weights of a row that share a scale; divides the number of inputs of every layer."""
    activations: Literal["int8", "none"] = "int8"
    """`int8`: inputs are rounded to 8 bits, each token with its own range, as CPUs and phones
    compute. `none`: only weights are rounded."""
    skip_modules: tuple[str, ...] = ()
    """Names of further linear layers that stay as they are, besides the output layer."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """torchao must be installed."""
        return missing_extra("torchao", "torchao", key="model.quantization")

    def prepare(self, model: PreTrainedModel) -> None:
        """Puts rounding layers in the place of all linear layers but the output layer.

        Raises:
            UserError: a layer's inputs can't be shared out in such groups.
        """
        from torch.nn import Linear
        from torchao.quantization.qat.linear import FakeQuantizedLinear

        for name, module in list(model.named_modules()):
            kept = module is model.get_output_embeddings() or name.endswith(self.skip_modules)
            if kept or type(module) is not Linear:
                continue
            if module.in_features % self.group_size:
                raise UserError(
                    Problem(
                        key="model.quantization.group_size",
                        what=f"{self.group_size} does not divide the {module.in_features} inputs "
                        f"of {name}",
                        hint="write a smaller power of two, or name the layer in `skip_modules`",
                    )
                )
            weights, inputs = self._weight_rounding(), self._input_rounding()
            rounding = FakeQuantizedLinear.from_linear(module, inputs, weights)
            model.set_submodule(name, rounding.train(module.training))

    def holds(self, module: Module) -> bool:
        """See `protocols.Quantizer`."""
        from torchao.quantization.qat.linear import FakeQuantizedLinear

        return isinstance(module, FakeQuantizedLinear)

    def dequantized(self, module: Module) -> Tensor:
        """See `protocols.Quantizer`."""
        import torch
        from torchao.quantization.qat.linear import FakeQuantizedLinear

        assert isinstance(module, FakeQuantizedLinear)
        assert module.weight_fake_quantizer is not None
        with torch.no_grad():
            return module.weight_fake_quantizer(module.weight).float()

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """See `protocols.Quantizer`."""
        weight = module.get_parameter("weight")
        weight.data = weight.data.to(dtype)

    def round_activations(self, model: Module, on: bool) -> None:
        """See `protocols.RoundsActivations`."""
        from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer
        from torchao.quantization.qat.linear import FakeQuantizedLinear

        for module in model.modules():
            rounding = isinstance(module, FakeQuantizedLinear) and module.activation_fake_quantizer
            if isinstance(rounding, IntxFakeQuantizer):
                rounding.enabled = on

    def _weight_rounding(self) -> IntxFakeQuantizeConfig:
        import torch
        from torchao.quantization.qat import IntxFakeQuantizeConfig

        integers = getattr(torch, f"int{self.bits}")
        return IntxFakeQuantizeConfig(integers, group_size=self.group_size, is_symmetric=True)

    def _input_rounding(self) -> IntxFakeQuantizeConfig | None:
        import torch
        from torchao.quantization.qat import IntxFakeQuantizeConfig

        if self.activations == "none":
            return None
        return IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
