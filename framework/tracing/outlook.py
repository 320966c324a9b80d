"""Plan and devices -> what a run will need, before anything but a configuration is fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from framework.core.problems import UserError
from framework.core.protocols.models import Configured
from framework.core.protocols.sharding import Shares
from framework.core.protocols.training import Comparing, Online
from framework.core.registries import component_name
from framework.models.folder import has_tokenizer, has_weights
from framework.planning.changes import changes
from framework.planning.cost import Calls, Cost, run_cost
from framework.planning.devices import Cluster
from framework.planning.memory import Memory, peak_memory
from framework.planning.plan import (
    Plan,
    Steps,
    make_plan,
    make_steps,
    refuse_cadence,
    sequence_parallel_size,
    tensor_parallel_size,
)
from framework.planning.traffic import Transfer, sequence_traffic, tensor_traffic, traffic
from framework.recipe.optimization import warmup_notes
from framework.recipe.resolve import Resolved
from framework.recipe.schema import Recipe
from framework.tracing.choice import choose_planned
from framework.tracing.lengths import Lengths, lengths_of
from framework.tracing.peak import NEAR, Traces
from framework.tracing.shares import shares_of
from framework.tracing.speed import measured_here
from framework.tracing.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Option:
    """A change of the recipe and what it makes of the memory."""

    lines: tuple[str, ...]
    peak_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Everything that is known of a run before it starts."""

    plan: Plan
    cluster: Cluster
    trace: Trace
    lacking: tuple[str, ...]
    """What the model's folder has not: `weights`, `tokenizer`."""
    lengths: Lengths
    steps: Steps | None
    """None where the number of rows is not known."""
    shares: Shares
    memory: Memory
    transfers: tuple[Transfer, ...]
    operations_per_step: float
    """Of one device."""
    cost: Cost
    options: tuple[Option, ...]
    """Changes that were tried, up to the first that fits."""
    notes: tuple[str, ...]
    """What is not known."""

    @property
    def fits(self) -> bool:
        """Whether the peak is within a device's memory."""
        return self.memory.peak <= self.cluster.device.memory_bytes

    @property
    def num_tokens(self) -> int | None:
        """Of the whole run."""
        if self.steps is None:
            return None
        per_step = _units_per_step(self.plan.recipe, self.lengths) * self.lengths.counted_per_unit
        return round(self.steps.num_steps * per_step)

    def as_json(self) -> dict[str, Any]:
        """For `plan --json` and `plan.json`."""
        steps = self.steps and self.steps.num_steps
        work = None if steps is None else steps * self.operations_per_step
        return {
            "num_devices": self.cluster.num_devices,
            "device": self.cluster.device_name,
            "strategy": component_name(self.plan.recipe.strategy),
            "fits": self.fits,
            "peak_bytes_per_device": self.memory.peak,
            "device_memory_bytes": self.cluster.device.memory_bytes,
            "memory": self.memory.kinds(),
            "host_bytes_per_device": self.memory.host,
            "peak_phase": self.memory.phase,
            "num_parameters": self.trace.num_parameters,
            "num_trained_parameters": self.trace.num_trained,
            "modules": [
                {"name": name, "num_parameters": num, "num_trained_parameters": trained}
                for name, num, trained in self.trace.modules
            ],
            "weights_dtype": self.plan.weights_dtype,
            "autocast_dtype": self.plan.autocast_dtype,
            "lacking": list(self.lacking),
            "lengths": {"exact": self.lengths.exact, "origin": self.lengths.origin},
            "num_accumulation_steps": self.plan.num_accumulation_steps,
            "passes_per_step": self.lengths.passes_per_step,
            "num_steps": steps,
            "num_tokens": self.num_tokens,
            "flops_per_step_and_device": self.operations_per_step,
            "flops": None if work is None else work * self.cluster.num_devices,
            **asdict(self.cost),
            "communication_per_step": [asdict(one) for one in self.transfers],
            "changes": [asdict(one) for one in self.options],
            "notes": list(self.notes),
        }


def config_folder(recipe: Recipe) -> Path:
    """The model's config.json, and its other files if they are on this machine.

    Raises:
        UserError: it doesn't exist or can't be reached.
    """
    source = recipe.model.source
    return source.fetch_config() if isinstance(source, Configured) else source.fetch()


def look_ahead(resolved: Resolved, cluster: Cluster) -> Outlook:
    """What the recipe needs on these devices, and what to change where that is too much.

    Raises:
        UserError: so many processes can't run it, or the model's configuration can't be used.
    """
    plan = make_plan(resolved, cluster.world)
    folder = config_folder(plan.recipe)
    lengths = lengths_of(plan, folder)
    if lengths.exact:
        refuse_cadence(plan.recipe, make_steps(plan.recipe, lengths.num_units))
    device, traces = cluster.device, Traces(folder)
    plan = choose_planned(plan, traces, lengths, device.memory_bytes, device.context_bytes)
    cluster = measured_here(cluster, plan)
    outlook = outlook_of(plan, cluster, lengths, traces, folder)
    if outlook.fits:
        return outlook
    return replace(outlook, options=tuple(_options(outlook, folder, traces)))


def outlook_of(
    plan: Plan, cluster: Cluster, lengths: Lengths, traces: Traces, folder: Path
) -> Outlook:
    """What the plan needs on these devices, without a look at what would need less."""
    traced = traces.heaviest(plan, lengths)
    recipe, num_devices = plan.recipe, cluster.num_devices
    shares = shares_of(plan)
    num_parts, num_passes = plan.data_parallel_size, lengths.passes_per_step
    of_layers, of_rows = tensor_parallel_size(recipe), sequence_parallel_size(recipe)
    transfers = (
        *traffic(traced.memory, shares, num_devices // of_layers, num_passes),
        *tensor_traffic(
            traced.summed_bytes * num_passes, traced.gathered_bytes * num_passes, of_layers
        ),
        *sequence_traffic(traced.exchanged_bytes * num_passes, of_rows),
    )
    steps = None
    if lengths.num_units is not None or recipe.trainer.max_steps is not None:
        steps = make_steps(recipe, lengths.num_units)
    units = _units_per_step(recipe, lengths)
    operations = _operations(traced, lengths, units / num_parts)
    return Outlook(
        plan=plan,
        cluster=cluster,
        trace=traced,
        lacking=tuple(_lacking(folder)),
        lengths=lengths,
        steps=steps,
        shares=shares,
        memory=peak_memory(traced.memory, shares, cluster.device.context_bytes),
        transfers=transfers,
        operations_per_step=operations,
        cost=run_cost(
            cluster,
            _products_dtype(plan),
            operations_per_step=operations,
            calls_per_step=_calls(traced, num_passes),
            tokens_per_step=units * lengths.counted_per_unit,
            transfers=transfers,
            num_steps=steps and steps.num_steps,
        ),
        options=(),
        notes=tuple(_notes(plan, cluster, steps)),
    )


def _units_per_step(recipe: Recipe, lengths: Lengths) -> float:
    """On average: the last step of an epoch may have fewer."""
    most = recipe.trainer.global_batch_size
    if lengths.num_units is None:
        return most
    return lengths.num_units / math.ceil(lengths.num_units / most)


def _lacking(folder: Path) -> Iterator[str]:
    if not has_weights(folder):
        yield "weights"
    if not has_tokenizer(folder):
        yield "tokenizer"


def _operations(traced: Trace, lengths: Lengths, units: float) -> float:
    """Of so many units of average length."""
    products = traced.work.products / traced.num_tokens * lengths.tokens_per_unit
    attention = traced.work.attention / traced.sum_of_squares * lengths.squares_per_unit
    return units * (products + attention)


def _calls(traced: Trace, num_passes: float) -> Calls:
    """Of a step of so many passes."""
    return traced.work.step_calls.plus(traced.work.pass_calls, num_passes)


def _products_dtype(plan: Plan) -> str:
    dtype = plan.autocast_dtype or plan.weights_dtype
    return "tf32" if dtype == "float32" and plan.recipe.model.tf32 else dtype


def _options(outlook: Outlook, folder: Path, traces: Traces) -> Iterator[Option]:
    """Changes and their peaks, until one fits."""
    plan, cluster = outlook.plan, outlook.cluster
    for change in changes(plan.recipe, cluster.num_devices):
        resolved = replace(plan.resolved, recipe=change.recipe)
        try:
            changed = make_plan(resolved, cluster.world)
            lengths = outlook.lengths
            if change.recipe.trainer != plan.recipe.trainer:
                lengths = lengths_of(changed, folder)
            traced = traces.heaviest(changed, lengths)
        except UserError:
            continue
        shares = shares_of(changed)
        memory = peak_memory(traced.memory, shares, cluster.device.context_bytes)
        fits = memory.peak <= cluster.device.memory_bytes
        yield Option(lines=change.lines, peak_bytes=memory.peak, fits=fits)
        if fits:
            return


def _notes(plan: Plan, cluster: Cluster, steps: Steps | None) -> Iterator[str]:
    recipe = plan.recipe
    if steps is not None and recipe.trainer.max_steps is None:
        yield from (str(note) for note in warmup_notes(recipe.trainer, steps.num_steps))
    method = recipe.trainer.method
    if isinstance(method, Online):
        yield (
            "answers: the memory and time of generating them, of reward models and of a value head "
            "are not in these numbers"
        )
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if comparison is not None and comparison.source is not None:
        yield "the teacher's own weights and time are not in these numbers"
    if cluster.device.kind == "cuda":
        yield (
            "fragments of the allocator and workspaces of kernels are not known; above "
            f"{NEAR:.0%} of a device's memory a run may fail that fits here"
        )
        yield "traced as PyTorch's SDPA; FlashAttention, Liger and torch.compile need no more"
    if recipe.model.float8:
        yield "float8: not traced, the copies of weights in 8 bits come on top"
    if recipe.evaluation.evaluators or recipe.evaluation.num_generations:
        yield "generating answers for evaluation is not in these numbers"
