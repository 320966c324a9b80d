"""Every process holds a part of each weight and collects a layer's weights while it needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.problems import Problem, UserError
from framework.core.protocols.sharding import Shares
from framework.core.protocols.strategies import Setup, Spread
from framework.core.settings import setting
from framework.recipe.sequence_parallel import sequence_parallel_conflicts
from framework.recipe.tensor_parallel import tensor_parallel_conflicts

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class FSDP:
    """Fully sharded data parallel (PyTorch's FSDP2): weights, gradients and optimizer state are
    shared out, for models that no device holds whole. One process: as `ddp`."""

    keeps_parameters_whole: ClassVar[bool] = False
    parts_are_parameters: ClassVar[bool] = True

    reshard_after_forward: bool = True
    """Free a layer's weights after its forward pass and collect them again for the backward pass.
    `false`: keep them in between, which takes the memory of all weights and saves a third of the
    traffic."""
    gathered_dtype: Literal["compute", "weights"] = "compute"
    """What collected weights are held in. `compute`: the dtype of matrix products, half the traffic
    and memory where that has 16 bits; norms are computed in it too. `weights`: the weights' own,
    for the same rounding as `ddp`."""
    reduce_dtype: Literal["float32", "bfloat16"] = "float32"
    """What gradients are added up in over processes; `bfloat16` halves the traffic and rounds."""
    reduce_each_pass: bool = True
    """Add gradients up after every pass. `false`: after the last one of a step, which saves traffic
    where a step has several and takes the memory of whole gradients."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer state in the machine's memory, and step there: slower,
    and a device holds a few layers only."""
    num_replicas: int = setting(1, at_least=1)
    """Copies of the model (HSDP): each is shared out over so manyth a part of the processes, such
    as those of one machine. It has to divide their number."""
    tensor_parallel_size: int = setting(1, at_least=1)
    """Processes that compute each layer together, from the same data, by the model's own plan in
    transformers: for layers that are too large, or batches that are too small, for so many devices.
    What they exchange in every layer wants the links of one machine. It has to divide the number of
    processes and that of the model's key heads."""

    sequence_parallel_size: int = setting(1, at_least=1)
    """Processes that compute each row of documents together, a slice of its tokens each, for
    documents that are too long for a device. Around attention they exchange tokens for heads
    (DeepSpeed-Ulysses), which wants the links of one machine. It has to divide the number of
    processes and that of the model's key heads."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that would do nothing, and what can't be computed by several together."""
        if self.tensor_parallel_size > 1:
            yield from tensor_parallel_conflicts(recipe, self.tensor_parallel_size)
        if self.sequence_parallel_size > 1:
            yield from sequence_parallel_conflicts(recipe, self.sequence_parallel_size)
        if self.tensor_parallel_size > 1 and self.sequence_parallel_size > 1:
            yield Problem(
                key=".sequence_parallel_size",
                what="rows and layers can't both be computed together",
                hint="write sequence_parallel_size: 1, or tensor_parallel_size: 1",
            )
        if self.num_replicas > 1 and self.cpu_offload:
            yield Problem(
                key=".cpu_offload",
                what="saves memory, and copies of the model take it",
                hint="write num_replicas: 1, or cpu_offload: false",
            )

    def accelerator(self, setup: Setup) -> Accelerator:
        """See `protocols.Strategy`; `spread` reads the compute dtype from it."""
        from framework.distributed.accelerators import new_accelerator

        precision = "bf16" if setup.autocast_dtype == "bfloat16" else "no"
        return new_accelerator(
            precision,
            tensor_parallel_size=self.tensor_parallel_size,
            sequence_parallel_size=self.sequence_parallel_size,
        )

    def spread(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> Spread:
        """See `protocols.Strategy`.

        Raises:
            UserError: so many processes can't hold the model in that way.
        """
        from framework.distributed.replicated import Replicated
        from framework.distributed.sharded import Sharded, SharingSettings

        self._refuse(accelerator.num_processes)
        if accelerator.num_processes == 1:
            return Replicated(accelerator, model, build_optimizer)
        in_16_bits = self.gathered_dtype == "compute" and accelerator.mixed_precision == "bf16"
        settings = SharingSettings(
            gathered_dtype="bfloat16" if in_16_bits else None,
            reduce_dtype=self.reduce_dtype,
            reshard_after_forward=self.reshard_after_forward,
            reduce_each_pass=self.reduce_each_pass,
            cpu_offload=self.cpu_offload,
            num_replicas=self.num_replicas,
            tensor_parallel_size=self.tensor_parallel_size,
            sequence_parallel_size=self.sequence_parallel_size,
        )
        return Sharded(accelerator, model, build_optimizer, settings)

    def shares(self, num_processes: int, *, weights_dtype: str, products_dtype: str) -> Shares:
        """See `protocols.Sharding`; of what is left of the model where layers are cut."""
        if num_processes == 1:
            return Shares()
        num_processes //= self.tensor_parallel_size
        part = min(1.0, self.num_replicas / num_processes)
        gradients = part if self.reduce_each_pass else 1.0
        on_host, on_device = (1.0, 0.0) if self.cpu_offload else (0.0, 1.0)
        return Shares(
            weights=part * on_device if self.reshard_after_forward else 1.0,
            gradients=gradients * on_device,
            optimizer=part * on_device,
            host_weights=part * on_host,
            host_gradients=part * on_host,
            host_optimizer=part * on_host,
            gathered_dtype=products_dtype if self.gathered_dtype == "compute" else weights_dtype,
            # The one that is computed and the one that is fetched meanwhile.
            gathered_layers=2,
            gathers_embeddings=True,
            weight_gathers_per_pass=2 if self.reshard_after_forward else 1,
            reduction="reduce_scatter",
            reduction_dtype=self.reduce_dtype,
            reduces_each_pass=self.reduce_each_pass,
        )

    def _refuse(self, num_processes: int) -> None:
        if num_processes == 1 and self.cpu_offload:
            raise UserError(
                Problem(
                    key="strategy.cpu_offload",
                    what="one process shares nothing, and steps on its device",
                    hint="start several processes, or write cpu_offload: false",
                )
            )
        if num_processes % (self.num_replicas * self.tensor_parallel_size):
            together = self.tensor_parallel_size
            groups = f" in groups of {together}" if together > 1 else ""
            raise UserError(
                Problem(
                    key="strategy.num_replicas",
                    what=f"{num_processes} processes{groups} can't hold {self.num_replicas} copies",
                    hint="write a number that divides theirs, such as that of machines",
                )
            )
