"""Optimizer state, gradients and, in stage 3, weights shared out by DeepSpeed's ZeRO.

Rajbhandari et al., 2020: https://arxiv.org/abs/1910.02054.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.nn import Module
from torch.optim import Optimizer

from framework.distributed.pieces import Piece, Pieces, capture_pieces
from framework.distributed.state import (
    OPTIMIZER,
    WEIGHTS,
    check_names,
    held_by,
    trained_names,
    typed,
)
from framework.distributed.whole import whole_parameters


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What this process holds of a trained parameter: a range of its numbers."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """Place of the first number in the parameter."""
    flat: Tensor
    """What the optimizer holds: parts of many parameters, in float32."""
    offset: int
    """Place of the first number in `flat`."""
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.length

    def within(self, flat: Tensor) -> Tensor:
        """[length]: its numbers, of a tensor that is laid out as `self.flat`."""
        return flat.detach().narrow(0, self.offset, self.length)


class Zero:
    """A model that DeepSpeed's engine drives; implements `protocols.Spread`.

    Args:
        config: DeepSpeed's, complete.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
        config: Mapping[str, Any],
    ) -> None:
        deepspeed = import_deepspeed(accelerator)
        self._accelerator = accelerator
        self.plain = model
        self._dtypes = {one: one.dtype for one in model.parameters()}
        self.optimizer = build_optimizer(model)
        self._trained = held_by(self.optimizer, model)
        self._group_names = trained_names(self.optimizer, self._trained)
        with _local_rank():
            _join_processes(accelerator)
            started = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=dict(config), dist_init_required=False
            )
        self.model: Any = started[0]
        # DeepSpeed's own: stages 1 and 2, stage 3, and stage 1 with 16-bit weights differ.
        self._zero: Any = self.model.optimizer
        self._stage: int = self.model.zero_optimization_stage()

    def one_pass(self, *, last: bool) -> AbstractContextManager[None]:
        """See `protocols.Spread`."""
        self.model.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `protocols.Spread`."""
        self.model.backward(loss)

    def step(self, max_norm: float | None, refuse: Callable[[float], None]) -> float:
        """See `protocols.Spread`; the norm is known, and refused, after the step."""
        self._zero.clip_grad = 0.0 if max_norm is None else max_norm
        self.model.step()
        norm = float(self.model.get_global_grad_norm())
        # DeepSpeed writes -1 for what is no number.
        norm = norm if norm >= 0 else float("nan")
        refuse(norm)
        return norm

    def zero_grad(self) -> None:
        """See `protocols.Spread`; DeepSpeed's step has done it."""

    @contextmanager
    def whole(self) -> Iterator[Module]:
        """See `protocols.Spread`; other processes keep their parts."""
        with whole_parameters(self.plain, self._gathered, keep=self._accelerator.is_main_process):
            yield self.plain

    def capture(self) -> Callable[[Path], None]:
        """See `protocols.Spread`."""
        rank = self._accelerator.process_index
        pieces: dict[str, Piece] = {}
        numbers: dict[str, Any] = {}
        for number, names in self._groups().items():
            with self._in_memory(number) as is_brought:
                found = self._pieces(names, numbers)
                if is_brought:
                    # What it was brought to is used for the next group.
                    found = {
                        key: replace(one, values=one.values.clone()) for key, one in found.items()
                    }
                pieces |= found
        groups = [
            {**group, "params": names}
            for group, names in zip(self.optimizer.param_groups, self._group_names, strict=True)
        ]
        details = {"numbers": numbers, "wrappers": {}, "param_groups": groups}
        return capture_pieces(rank, pieces, details if rank == 0 else {})

    def _pieces(self, names: Sequence[str], numbers: dict[str, Any]) -> dict[str, Piece]:
        """What this process has of some of the parameters; numbers of their state go into the
        other."""
        pieces: dict[str, Piece] = {}
        for part in map(self._part, names):
            values = {f"{WEIGHTS}/{part.name}": part.flat}
            for state, value in self.optimizer.state[part.flat].items():
                key = f"{OPTIMIZER}/{part.name}/{state}"
                if not isinstance(value, Tensor):
                    numbers[key] = value
                elif value.shape == part.flat.shape:
                    values[key] = value
                elif self._accelerator.is_main_process:
                    pieces[key] = Piece(values=value, start=0, shape=tuple(value.shape))
            for key, value in values.items() if part.length else ():
                pieces[key] = Piece(values=part.within(value), start=part.start, shape=part.shape)
        return pieces

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """See `protocols.Spread`."""
        pieces = Pieces(folder)
        check_names(self._trained, pieces)
        self._free_collected()
        for number, names in self._groups().items():
            with self._in_memory(number):
                parts = [self._part(name) for name in names]
                for flat in {id(part.flat): part.flat for part in parts}.values():
                    self._forget_state(flat)
                for part in parts:
                    weights = pieces.read(f"{WEIGHTS}/{part.name}", part.start, part.stop)
                    part.within(part.flat).copy_(weights)
                    self._load_optimizer_state(part, pieces)
                self._publish_group(number)
        groups = zip(self.optimizer.param_groups, pieces.details["param_groups"], strict=True)
        for current, group in groups:
            settings = typed(group, current)
            current.update({name: settings[name] for name in settings if name != "params"})
        self._publish_all()

    def ranges(self) -> Mapping[str, Piece]:
        """See `protocols.InRanges`; not for what waits on a disk."""
        parts = map(self._part, self._trained)
        return {
            part.name: Piece(values=part.within(part.flat), start=part.start, shape=part.shape)
            for part in parts
        }

    @torch.no_grad()
    def publish(self) -> None:
        """See `protocols.InRanges`."""
        self._free_collected()
        for number in self._groups():
            self._publish_group(number)
        self._publish_all()

    # ---- what DeepSpeed holds where

    def _groups(self) -> dict[int | None, list[str]]:
        """Trained parameters, by the group in which stage 3 steps and swaps them."""
        groups: dict[int | None, list[str]] = {}
        for name, one in self._trained.items():
            number = self._position(one)[0] if self._stage == 3 else None
            groups.setdefault(number, []).append(name)
        return groups

    def _position(self, parameter: Any) -> tuple[int, int, int]:
        """(Number of its group, place of the first number in that, how many numbers)."""
        return self._zero.grad_position[self._zero.get_param_id(parameter)]

    @contextmanager
    def _in_memory(self, number: int | None) -> Iterator[bool]:
        """What of a group waits on a disk is there meanwhile; whether it had to be brought."""
        if number is None or not self._zero._swappable_optimizer_subgroup(number):
            yield False
            return
        self._zero._optimizer_states_and_gradient_swap_in(number)
        yield True
        self._zero._optimizer_states_and_gradient_swap_out(number)

    def _part(self, name: str) -> _Part:
        """This process's part of a trained parameter; maybe an empty one, for what a whole
        parameter has besides."""
        parameter: Any = self._trained[name]
        if self._stage == 3:
            return self._part_in_stage_3(name, parameter)
        shape, mapping = tuple(parameter.shape), parameter._hp_mapping
        if mapping is None:
            flat = self._flat_of_group(name)
            return _Part(name=name, shape=shape, start=0, flat=flat, offset=0, length=0)
        return _Part(
            name=name,
            shape=shape,
            start=mapping.lp_fragment_address.start,
            flat=self._flat_of_group(name),
            offset=mapping.hp_fragment_address.start,
            length=mapping.hp_fragment_address.numel,
        )

    def _flat_of_group(self, name: str) -> Tensor:
        number = next(i for i, names in enumerate(self._group_names) if name in names)
        (flat,) = self.optimizer.param_groups[number]["params"]
        return flat

    def _part_in_stage_3(self, name: str, parameter: Any) -> _Part:
        number, offset, length = self._position(parameter)
        # Equal parts; the last ones are filled up.
        start = min(self._accelerator.process_index * length, parameter.ds_numel)
        return _Part(
            name=name,
            shape=tuple(parameter.ds_shape),
            start=start,
            flat=self._zero.fp32_partitioned_groups_flat[number],
            offset=offset,
            length=min(length, parameter.ds_numel - start),
        )

    def _forget_state(self, flat: Tensor) -> None:
        """A checkpoint may be of before the first step, which has nothing to put in its place."""
        state = self.optimizer.state.get(flat, {})
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            else:
                state[name] = 0

    def _load_optimizer_state(self, part: _Part, pieces: Pieces) -> None:
        prefix = f"{OPTIMIZER}/{part.name}/"
        state = self.optimizer.state[part.flat]
        for key, shape in pieces.shapes.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if shape != part.shape:
                # A count of steps: on the device where a fused optimizer wants it.
                state[name] = pieces.whole(key).to(part.flat.device)
                continue
            if name not in state:
                state[name] = torch.zeros_like(part.flat)
            part.within(state[name]).copy_(pieces.read(key, part.start, part.stop))
        for key, number in pieces.details["numbers"].items():
            if key.startswith(prefix):
                state[key.removeprefix(prefix)] = number

    def _free_collected(self) -> None:
        if self._stage == 3:
            self._zero._partition_all_parameters()

    def _publish_group(self, number: int | None) -> None:
        """What this process has of the weights that passes collect, from the optimizer's."""
        if number is not None:
            self._zero._reassign_or_swap_out_partitioned_parameters(number)

    def _publish_all(self) -> None:
        """What passes compute with and don't collect, from the optimizer's of all processes."""
        if self._stage < 3:
            self._zero.update_lp_params()
        elif kept := self._zero.persistent_parameters:
            kept[0].all_gather(kept)

    def _gathered(self, parameter: Any) -> Tensor | None:
        """All of a parameter, in the dtype that it was loaded in."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        dtype = self._dtypes[parameter]
        if parameter.requires_grad:
            whole = safe_get_full_fp32_param(parameter)
            assert whole is not None, "all that is trained is the optimizer's"
            shape = parameter.ds_shape if self._stage == 3 else parameter.shape
            return whole.reshape(shape).to(dtype)
        if self._stage < 3:
            return parameter.detach().to(dtype)
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().to(dtype, copy=True)


def import_deepspeed(accelerator: Accelerator) -> Any:
    """DeepSpeed, for the device of this run and silent about itself."""
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu:
        # Read when it is imported: else it looks for a GPU, and warns that it found none.
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed import ops

    if on_cpu:
        # Else it compiles this for more than a minute; gloo is there already.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # 0.19 calls torch's collectives by their old names.
    deprecated = "`torch.distributed.* is deprecated"
    warnings.filterwarnings("ignore", message=deprecated, category=FutureWarning)
    return deepspeed


@contextmanager
def _local_rank() -> Iterator[None]:
    """DeepSpeed asks the environment for it; processes that are started later must not find it."""
    known = "LOCAL_RANK" in os.environ
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        yield
    finally:
        if not known:
            del os.environ["LOCAL_RANK"]


def _join_processes(accelerator: Accelerator) -> None:
    """A process group, also where one process trains alone."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo" if accelerator.device.type == "cpu" else "nccl",
            store=HashStore(),
            rank=0,
            world_size=1,
        )
