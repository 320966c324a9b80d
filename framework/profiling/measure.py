"""A run that stands ready -> where the time and memory of its steps go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from framework.core.spans import listening
from framework.data.prepared import PreparedData
from framework.engine.console import TrainingDisplay
from framework.engine.fit import Run
from framework.engine.stop import StopRequest
from framework.models.load import DTYPES
from framework.models.policy import CausalPolicy
from framework.planning.plan import Plan
from framework.profiling.clock import RECOMPUTED, Clock, Place
from framework.profiling.counts import Counts
from framework.profiling.findings import Findings, Slice, StepMemory
from framework.profiling.parts import exchange_watched, parts_watched, reference_watched
from framework.profiling.peaks import PhasePeaks
from framework.profiling.tracing import traced
from framework.profiling.waits import waits_marked
from framework.tracing.gemm import gemm_peak
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import NEAR, predicted_memory

NUM_OTHER_STEPS = 2
"""One before those that are timed, in which operations are counted, and one after, for the trace.
"""


def measure(
    run: Run,
    num_steps: int,
    steps_per_save: int,
    trace: Path | None,
    say: Callable[[str], None],
) -> Findings:
    """Does a few steps and a save; every process calls it.

    Args:
        num_steps: that are timed.
        steps_per_save: between two checkpoints of the whole run.
        trace: where the trace of a further step is written; None: nowhere.
        say: told of each step.
    """
    device = run.accelerator.device
    # Its lines are about the whole run.
    run.display = TrainingDisplay(run.steps.num_steps, None)
    run.model.train()
    say("a step to warm up, in which operations are counted")
    counts, counted_tokens = _counted_step(run)
    peaks = PhasePeaks(device)
    clock = Clock(device, peaks)
    before, cpu = replace(run.progress), time.process_time()
    num_passes_before = run.num_passes
    for number in range(num_steps):
        say(f"step {number + 1} of {num_steps} that are timed")
        _step(run, clock)
    cpu_seconds = (time.process_time() - cpu) / num_steps
    now = replace(run.progress)
    num_passes = (run.num_passes - num_passes_before) / num_steps
    num_tokens = (now.num_tokens - before.num_tokens) / num_steps
    memory = _memory(run, counts, peaks)
    say("a step for the trace")
    _traced_step(run, trace)
    plan = run.plan
    return Findings(
        num_steps=num_steps,
        num_processes=plan.world.num_processes,
        device=str(device),
        num_threads=torch.get_num_threads(),
        slices=_slices(clock, counts, num_steps, num_tokens / counted_tokens),
        engine_seconds=(now.training_seconds - before.training_seconds) / num_steps,
        cpu_seconds=cpu_seconds,
        num_passes=num_passes,
        num_tokens=num_tokens,
        num_trained_tokens=(now.num_trained_tokens - before.num_trained_tokens) / num_steps,
        memory=memory,
        unneeded_checkpointing=_unneeded_checkpointing(plan, run.data, counts),
        save_seconds=_save_seconds(run),
        steps_per_save=steps_per_save,
        products_dtype=_products_dtype(plan),
        gemm_peak=gemm_peak(DTYPES[_products_dtype(plan)], device),
        bfloat16_gemm_peak=_bfloat16_peak(plan, device),
    )


@contextmanager
def _watched(run: Run, clock: Clock) -> Iterator[None]:
    """The clock hears of everything that the run does."""
    reference = run.references.train
    # Its own model, that is, not the trained one with its adapter switched off.
    other = reference.model if isinstance(reference, CausalPolicy) else None
    with ExitStack() as stack:
        stack.enter_context(listening(clock))
        stack.enter_context(parts_watched(run.model, clock, compiled=run.recipe.model.compile))
        stack.enter_context(reference_watched(other, clock))
        if run.accelerator.num_processes > 1:
            stack.enter_context(waits_marked())
            stack.enter_context(exchange_watched(run.model, clock))
        yield


def _step(run: Run, clock: Clock) -> None:
    with _watched(run, clock), clock.step():
        run.step(StopRequest())


def _counted_step(run: Run) -> tuple[Counts, int]:
    """(What it computes and keeps, its tokens)."""
    clock = Clock(run.accelerator.device)
    counts = Counts(run.model, clock)
    with counts, counts.keeping():
        _step(run, clock)
    return counts, run.progress.num_tokens


def _traced_step(run: Run, path: Path | None) -> None:
    """Processes do the same steps, whoever of them traces."""
    device = run.accelerator.device
    if path is None:
        _step(run, Clock(device))
        return
    with traced(path, device) as tracing:
        _step(run, Clock(device, tracing=tracing))


def _slices(clock: Clock, counts: Counts, num_steps: int, tokens_ratio: float) -> tuple[Slice, ...]:
    """Operations are those of the counted step, for as many tokens as the timed ones had."""
    places = dict.fromkeys((*clock.seconds, *counts.operations, *counts.kept))
    return tuple(
        Slice(
            place=place,
            seconds=clock.seconds.get(place, 0.0) / num_steps,
            operations=counts.operations.get(place, 0.0) * tokens_ratio,
            kept_bytes=counts.kept.get(place, 0),
        )
        for place in places
    )


def _memory(run: Run, counts: Counts, peaks: PhasePeaks) -> StepMemory:
    weights = list(run.plain_model.parameters())
    states = run.spread.optimizer.state.values()
    trained = [one for one in weights if one.requires_grad]
    return StepMemory(
        weights=_num_bytes(weights),
        gradients=_num_bytes(trained),
        optimizer=_num_bytes(
            [one for state in states for one in state.values() if isinstance(one, Tensor)]
        ),
        kept=sum(counts.kept.values()),
        peaks=dict(peaks.bytes),
    )


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    """What this process holds of them."""
    local = (one.to_local() if isinstance(one, DTensor) else one for one in tensors)
    return sum(one.numel() * one.element_size() for one in local)


def _save_seconds(run: Run) -> float:
    """What a step waits for."""
    started = time.perf_counter()
    run.save()
    seconds = time.perf_counter() - started
    run.saving.wait()
    return seconds


def _products_dtype(plan: Plan) -> str:
    return plan.autocast_dtype or plan.weights_dtype


def _bfloat16_peak(plan: Plan, device: torch.device) -> float | None:
    if _products_dtype(plan) != "float32" or not plan.world.fast_bfloat16:
        return None
    return gemm_peak(torch.bfloat16, device)


def _unneeded_checkpointing(
    plan: Plan, data: PreparedData, counts: Counts
) -> tuple[int, int] | None:
    """What is planned without it, where it is on and that fits; the main process alone asks."""
    if not plan.world.is_main or Place("backward", RECOMPUTED) not in counts.operations:
        return None
    model = replace(plan.recipe.model, gradient_checkpointing=False)
    without = replace(plan, recipe=replace(plan.recipe, model=model))
    needed = predicted_memory(without, data.model_path, lengths_of(without, data.model_path)).peak
    room = _room(plan)
    return (needed, room) if needed <= NEAR * room else None


def _room(plan: Plan) -> int:
    """Bytes of its device that a process can have, those that it holds included."""
    if plan.world.device == "cuda":
        return torch.cuda.get_device_properties(plan.world.torch_device).total_memory
    num_local = plan.world.num_local_processes or plan.world.num_processes
    free = psutil.virtual_memory().available // num_local
    return free + psutil.Process().memory_info().rss
