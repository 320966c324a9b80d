"""DeepSpeed's ZeRO: processes share out optimizer state, gradients and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem, UserError
from framework.core.protocols.sharding import Shares
from framework.core.protocols.strategies import Setup, Spread
from framework.core.settings import setting
from framework.recipe.deepspeed_file import DeepSpeedFile
from framework.recipe.optimization import no_skipping

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class DeepSpeed:
    """ZeRO of DeepSpeed: optimizer state, gradients and weights are shared out over the processes.

    In bfloat16, weights are held in 16 bits and the optimizer's copy of them in float32.
    """

    keeps_parameters_whole: ClassVar[bool] = False
    parts_are_parameters: ClassVar[bool] = False

    stage: Literal[1, 2, 3] | None = None
    """What is shared out. 1: optimizer state; 2: gradients too; 3: weights too. Default: what the
    file says, or 2 without one."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state is and the optimizer computes: `none`: on the device; `cpu`: in the
    machine's memory; `nvme`: with gradients on a disk, in stage 3, and brought to memory group by
    group, and all of it for a checkpoint."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """Where weights wait that are not computed with; stage 3 only. Not on a disk: from there
    DeepSpeed 0.19 reads float32 weights as bfloat16, and others into buffers that are in use."""
    offload_folder: str | None = setting(None, path=True)
    """Folder of a fast disk that `nvme` means; on each machine, with room for what its processes
    leave there. What is in it is worth nothing after the run."""
    overlap_communication: bool | None = None
    """Sends gradients while others are computed, for memory. Default: DeepSpeed's, on in stage
    3."""
    reduce_bucket_size: int | None = setting(None, at_least=1)
    """Numbers of gradients that are sent at once. Default: DeepSpeed's, 500 million."""
    prefetch_bucket_size: int | None = setting(None, at_least=0)
    """Numbers of weights that are fetched ahead in stage 3. Default: DeepSpeed's, 50 million."""
    parameter_persistence_threshold: int | None = setting(None, at_least=0)
    """Weights of fewer numbers stay whole on every device in stage 3. Default: DeepSpeed's,
    100,000."""
    config: str | None = setting(None, path=True)
    """A configuration file of DeepSpeed, in the place of all settings above. Its values may be
    `auto`, which the recipe decides then; it must not contradict the recipe."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """DeepSpeed must be installed, and what is written twice must be the same."""
        yield from missing_extra("deepspeed", "deepspeed", key="strategy")
        yield from no_skipping(recipe, "DeepSpeed says what the gradient's norm is after its step")
        if self.config is None:
            yield from self._offloading()
        else:
            found = (*self._written_beside_config(), *DeepSpeedFile(self.config).problems(recipe))
            yield from found
            if found:
                return
        if recipe.trainer.ema is not None and self._disk_folders():
            yield Problem(
                key="trainer.ema",
                what="averages weights after each step, and here they wait on a disk",
                hint="remove it, or keep them in memory, as with `offload_optimizer: cpu`",
            )

    def _offloading(self) -> Iterator[Problem]:
        if self.offload_parameters != "none" and self.stage != 3:
            yield Problem(
                key=".offload_parameters",
                what=f"every device needs all weights in stage {self.stage or 2}",
                hint="write stage: 3 beside it, or leave it out",
            )
        if self.offload_optimizer == "nvme" and self.stage != 3:
            yield Problem(
                key=".offload_optimizer",
                what=f"stage {self.stage or 2} keeps optimizer state in memory",
                hint="write stage: 3 beside it, or offload_optimizer: cpu",
            )
        uses_disk = self.offload_optimizer == "nvme"
        if uses_disk and self.offload_folder is None:
            yield Problem(
                key=".offload_folder",
                what="nothing says on which disk",
                hint="write offload_folder: and a folder of it, such as /local_nvme",
            )
        if self.offload_folder is not None and not uses_disk:
            yield Problem(
                key=".offload_folder",
                what="nothing is offloaded to a disk",
                hint="write offload_optimizer: nvme beside it, or leave it out",
            )

    def shares(self, num_processes: int, *, weights_dtype: str, products_dtype: str) -> Shares:
        """See `protocols.Sharding`."""
        zero = self._zero()
        stage, part = zero["stage"], 1 / num_processes
        state, weights_at = _device(zero, "offload_optimizer"), _device(zero, "offload_param")
        weights = part if stage == 3 else 1.0
        gathers = stage == 3 and (num_processes > 1 or weights_at != "none")
        gradients = part if stage >= 2 else 1.0
        # Of what is on a disk, the buffers that it passes through are not counted.
        return Shares(
            weights=weights if weights_at == "none" else 0.0,
            host_weights=weights if weights_at == "cpu" else 0.0,
            gradients=0.0 if state != "none" and stage >= 2 else gradients,
            host_gradients=part if state == "cpu" else 0.0,
            optimizer=part if state == "none" else 0.0,
            host_optimizer=part if state == "cpu" else 0.0,
            gathered_dtype=products_dtype if gathers else None,
            # The one that is computed and what is fetched ahead.
            gathered_layers=2 if gathers else 1,
            weight_gathers_per_pass=2 if gathers else 0,
            weight_gathers_per_step=1 if stage < 3 and num_processes > 1 else 0,
            reduction="reduce_scatter",
            reduces_each_pass=stage >= 2,
            # float32 beside the weights; stage 3 has it in their place where they have 32 bits.
            extra_optimizer_bytes_per_parameter=4.0 if stage < 3 else 2.0,
        )

    def accelerator(self, setup: Setup) -> Accelerator:
        """See `protocols.Strategy`.

        Raises:
            UserError: the file contradicts what this run is.
        """
        from framework.distributed.accelerators import new_accelerator
        from framework.distributed.disk import check_disk

        precision = "bf16" if setup.autocast_dtype == "bfloat16" else "no"
        accelerator = new_accelerator(precision)
        for folder in self._disk_folders():
            check_disk(folder, accelerator)
        if self.config is not None:
            problems = DeepSpeedFile(self.config).run_problems(
                autocast_dtype=setup.autocast_dtype,
                num_accumulation_steps=setup.num_accumulation_steps,
            )
            if found := tuple(problems):
                raise UserError(found)
        return accelerator

    def spread(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> Spread:
        """See `protocols.Strategy`.

        Raises:
            UserError: DeepSpeed can't use the file.
        """
        from framework.distributed.zero import Zero

        in_bfloat16 = accelerator.mixed_precision == "bf16"
        # Passes of a step are summed in float32.
        sums = {"data_types": {"grad_accum_dtype": "fp32"}} if in_bfloat16 else {}
        config = {
            **sums,
            **({} if self.config is None else DeepSpeedFile(self.config).settled),
            "zero_optimization": self._zero(),
            "bf16": {"enabled": in_bfloat16},
            # The engine knows which pass is the last of a step, and cuts to the recipe's norm.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        try:
            return Zero(accelerator, model, build_optimizer, config)
        except (ValueError, TypeError, KeyError) as error:
            if self.config is None:
                raise
            problem = Problem(file=self.config, what=f"DeepSpeed can't use it: {error}")
            raise UserError(problem) from error

    def _zero(self) -> Mapping[str, Any]:
        """`zero_optimization` of the configuration."""
        if self.config is not None:
            return DeepSpeedFile(self.config).zero
        written = {
            "overlap_comm": self.overlap_communication,
            "reduce_bucket_size": self.reduce_bucket_size,
            "stage3_prefetch_bucket_size": self.prefetch_bucket_size,
            "stage3_param_persistence_threshold": self.parameter_persistence_threshold,
        }
        return {
            "stage": self.stage or 2,
            "offload_optimizer": {
                "device": self.offload_optimizer,
                **({} if self.offload_folder is None else {"nvme_path": self.offload_folder}),
            },
            "offload_param": {"device": self.offload_parameters},
            **{name: value for name, value in written.items() if value is not None},
        }

    def _disk_folders(self) -> set[str]:
        """Folders of disks that something is offloaded to."""
        section = self._zero().get("offload_optimizer", {})
        return {str(section.get("nvme_path", ""))} if section.get("device") == "nvme" else set()

    def _written_beside_config(self) -> Iterator[Problem]:
        for field in fields(self):
            if field.name != "config" and vars(self)[field.name] != field.default:
                yield Problem(
                    key=f".{field.name}",
                    what="stands beside `config`, whose file says it",
                    hint="keep one of the two",
                )


def _device(zero: Mapping[str, Any], name: str) -> str:
    """Where something is offloaded to."""
    return zero.get(name, {}).get("device", "none")
