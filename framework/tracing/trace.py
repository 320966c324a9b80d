"""Plan, configuration and sizes of a batch -> what a step of training allocates and computes.

The model's own code runs on tensors without content, for one and for two of its repeated layers;
what the second one adds stands for each further one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Module, ModuleList, Parameter
from transformers.modeling_layers import GradientCheckpointingLayer

from framework.attention.segmented import document_lengths
from framework.attention.sequence_parallel import SequenceGroup, SlicedRow
from framework.core.batch import Batch, Features, Policy
from framework.core.protocols.sharding import StateSized, StepSized
from framework.core.protocols.training import Comparing, Online
from framework.core.protocols.training import Trainer as Method
from framework.engine.parameter_groups import parameter_groups
from framework.models.collate import flat_batch
from framework.models.heads import trained_policy
from framework.models.layers import Layers, layers_of, own_weights
from framework.models.load import DTYPES
from framework.models.peft_models import is_peft_model
from framework.planning.cost import Calls
from framework.planning.memory import FIRST, FORWARD_AND_LAST, STEP, Moments, Traced
from framework.planning.plan import Plan, sequence_parallel_size
from framework.recipe.sharing import shares_prefixes
from framework.tracing.build import Empty
from framework.tracing.ledger import Ledger
from framework.tracing.offload import offloading_traced
from framework.tracing.shares import shares_of

LONGEST_PERIOD = 8
"""Layers after which a model may repeat itself; one that doesn't is run whole."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Floating-point operations of one forward and backward pass."""

    products: float
    """Of everything but attention; grows with the number of tokens."""
    attention: float
    """Grows with the sum of the squared lengths of documents."""
    pass_calls: Calls
    """How many they are."""
    step_calls: Calls
    """Those of the optimizer's step, after all passes."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was found of a model and a micro-batch."""

    memory: Traced
    work: Work
    num_tokens: int
    """Of the micro-batch that was run; what documents share counts once."""
    sum_of_squares: int
    """Of its documents' lengths, without those of what they share with another."""
    modules: tuple[tuple[str, int, int], ...]
    """(Part of the model, its parameters, those of them that are trained)."""
    num_parameters: int
    """Of the whole model."""
    num_trained: int
    summed_bytes: float
    """Of activations and their gradients that the processes which compute layers together add up
    in a pass."""
    gathered_bytes: float
    """Of those that they put together."""
    exchanged_bytes: float
    """Of those that a process which computes a slice of a row gives into exchanges in a pass."""


def trace(plan: Plan, empty: Empty, samples: Sequence[Features], *, alone: bool) -> Trace:
    """What one device does that holds everything, or its part of each layer where several compute
    layers together; of a row, the slice with most labels where several compute slices.

    Args:
        empty: the plan's model; it may be traced again.
        samples: those of the largest micro-batch.
        alone: it is the only one of every step, so that none has left gradients before it.

    Raises:
        UserError: the model's layers are in no list.
    """
    layers = layers_of(empty.plain, "model.source")
    period = _period(empty, layers)
    batch = flat_batch(samples, [str(number) for number in range(len(samples))])
    counted = _Counted.of(empty, layers)
    sizes = (period, 2 * period) if period else (len(layers.modules),) * 2
    sequence = _busiest(plan, batch)
    runs = [
        _run(plan, empty, layers, size, period or size, batch, sequence, alone=alone)
        for size in dict.fromkeys(sizes)
    ]
    one, two = runs[0], runs[-1]
    num_tokens, sum_of_squares = _computed(batch, shares=shares_prefixes(plan.recipe))
    blocks = len(layers.modules) / period if period else 2.0
    reference, average = _beside(plan, empty)
    return Trace(
        memory=Traced(
            num_blocks=blocks,
            one_block=one.moments,
            two_blocks=two.moments,
            reference_bytes=reference,
            average_bytes=average,
            **vars(counted),
        ),
        work=Work(
            products=two.products + (blocks - 2) * (two.products - one.products),
            attention=two.attention + (blocks - 2) * (two.attention - one.attention),
            pass_calls=two.pass_calls.plus(two.pass_calls.plus(one.pass_calls, -1), blocks - 2),
            step_calls=two.step_calls.plus(two.step_calls.plus(one.step_calls, -1), blocks - 2),
        ),
        num_tokens=num_tokens,
        sum_of_squares=sum_of_squares,
        modules=tuple(_modules(empty, layers)),
        num_parameters=counted.num_parameters + _elsewhere(empty, _cut_weights(empty)),
        num_trained=counted.num_trained + _elsewhere(empty, _trained(_cut_weights(empty))),
        summed_bytes=two.summed_bytes + (blocks - 2) * (two.summed_bytes - one.summed_bytes),
        gathered_bytes=two.gathered_bytes
        + (blocks - 2) * (two.gathered_bytes - one.gathered_bytes),
        exchanged_bytes=two.exchanged_bytes
        + (blocks - 2) * (two.exchanged_bytes - one.exchanged_bytes),
    )


def _busiest(plan: Plan, batch: Batch) -> SequenceGroup | None:
    """The process whose slice of the row has most labels; None where rows aren't cut."""
    size = sequence_parallel_size(plan.recipe)
    if size == 1:
        return None
    shared = batch.shared if shares_prefixes(plan.recipe) else None
    rows = batch.label_positions if shared is None else shared.rows[batch.label_positions]
    num_tokens = batch.input_ids.numel() if shared is None else shared.tokens.numel()
    groups = [SequenceGroup(rank=rank, size=size) for rank in range(size)]
    slices = [SlicedRow(group=one, num_tokens=max(num_tokens, size)) for one in groups]
    return max(slices, key=lambda one: one.labels(rows).rows.numel()).group


def _computed(batch: Batch, *, shares: bool) -> tuple[int, int]:
    """Tokens that are computed, and the sum of what the squares of lengths grow by with them."""
    shared = batch.shared if shares else None
    if shared is None:
        lengths = document_lengths(batch.boundaries)
        return batch.input_ids.numel(), sum(length**2 for length in lengths)
    depths = batch.position_ids[0, shared.tokens].tolist()
    added = (
        (depths[start] + stop - start) ** 2 - depths[start] ** 2
        for start, stop, _ in shared.segments
    )
    return len(depths), sum(added)


# ---- what the whole model is made of


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """See `Traced`."""

    weights_bytes: float
    trained_bytes: float
    num_parameters: int
    num_trained: int
    num_layer_parameters: int
    num_layer_trained: int
    layer_bytes: float
    num_other_parameters: int
    num_other_trained: int

    @staticmethod
    def of(empty: Empty, layers: Layers) -> _Counted:
        own = [weight for _, weight in own_weights(empty.model)]
        inside = [list(layer.parameters()) for layer in layers.modules]
        largest = max(inside, key=_num_bytes)
        within = {id(weight) for layer in inside for weight in layer}
        outside = [weight for weight in own if id(weight) not in within]
        return _Counted(
            weights_bytes=_num_bytes(own),
            trained_bytes=_num_bytes(_trained(own)),
            num_parameters=_num_numbers(empty.model, own),
            num_trained=_num(_trained(own)),
            num_layer_parameters=_num(largest),
            num_layer_trained=_num(_trained(largest)),
            layer_bytes=_num_bytes(largest),
            num_other_parameters=_num(outside),
            num_other_trained=_num(_trained(outside)),
        )


def _trained(weights: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in weights if one.requires_grad]


def _num(weights: Sequence[Tensor]) -> int:
    return sum(one.numel() for one in weights)


def _num_bytes(weights: Sequence[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in weights)


def _cut_weights(empty: Empty) -> list[Tensor]:
    """What a device has of weights that a group cuts."""
    return [one for name, one in empty.plain.named_parameters() if name in empty.cut]


def _elsewhere(empty: Empty, cut: Iterable[Tensor]) -> int:
    """Numbers of these weights that other devices of a group have."""
    return sum(one.numel() for one in cut) * (empty.group.size - 1)


def _num_numbers(model: Module, own: Sequence[Tensor]) -> int:
    """What packed weights stand for, and all others."""
    return _num(own) + sum(_hidden_numbers(module) for module in model.modules())


def _hidden_numbers(module: Module) -> int:
    from framework.tracing.build import PackedLinear

    if not isinstance(module, PackedLinear):
        return 0
    return module.in_features * module.out_features - module.weight.numel()


def _modules(empty: Empty, layers: Layers) -> Iterator[tuple[str, int, int]]:
    """Embeddings, output layer, each kind of part of the layers, and what else there is."""
    found: dict[str, list[int]] = {}
    seen: set[int] = set()
    cut_ids = {id(one) for one in _cut_weights(empty)}
    for path, module in empty.plain.named_modules():
        own = [one for one in module.parameters(recurse=False) if id(one) not in seen]
        seen.update(id(one) for one in own)
        name = path
        if path.startswith(f"{layers.path}."):
            name = f"{layers.path}.*{_part(path, layers.path)}"
        counts = found.setdefault(name, [0, 0])
        cut = [one for one in own if id(one) in cut_ids]
        counts[0] += _num(own) + _hidden_numbers(module) + _elsewhere(empty, cut)
        counts[1] += _num(_trained(own)) + _elsewhere(empty, _trained(cut))
    for name, (num, trained) in found.items():
        if num:
            yield name, num, trained


def _part(path: str, layers: str) -> str:
    """`.self_attn` of `model.layers.3.self_attn.q_proj`."""
    parts = path[len(layers) + 1 :].split(".")[1:2]
    return "".join(f".{part}" for part in parts)


def _period(empty: Empty, layers: Layers) -> int | None:
    """Number of layers after which they repeat; None where they don't."""
    config: Any = empty.plain.config.get_text_config()
    kinds = config.to_dict().get("layer_types") or [""] * len(layers.modules)
    signatures = [
        (_signature(layer), kind) for layer, kind in zip(layers.modules, kinds, strict=False)
    ]
    number = len(signatures)
    for period in range(1, min(LONGEST_PERIOD, number // 2) + 1):
        if all(signatures[at] == signatures[at + period] for at in range(number - period)):
            return period
    return None


def _signature(layer: Module) -> tuple[Any, ...]:
    checkpointed = isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    weights = tuple(
        (name, tuple(one.shape), one.dtype, one.requires_grad)
        for name, one in layer.named_parameters()
    )
    return checkpointed, weights


def _beside(plan: Plan, empty: Empty) -> tuple[float, float]:
    """Bytes of a second frozen model, and of averaged weights."""
    trainer = plan.recipe.trainer
    comparison = trainer.method.compared_with() if isinstance(trainer.method, Comparing) else None
    own = [weight for _, weight in own_weights(empty.model)]
    kept = comparison is not None and comparison.source is None and not comparison.precompute
    second = kept and not is_peft_model(empty.model)
    average = 4 * _num(_trained(own)) if trainer.ema is not None else 0
    return float(_num_bytes(own) if second else 0), float(average)


# ---- a run


@dataclass(frozen=True, kw_only=True)
class _Run:
    moments: Moments
    products: float
    attention: float
    pass_calls: Calls
    step_calls: Calls
    summed_bytes: float = 0.0
    gathered_bytes: float = 0.0
    exchanged_bytes: float = 0.0


def _run(
    plan: Plan,
    empty: Empty,
    layers: Layers,
    num_layers: int,
    period: int,
    batch: Batch,
    sequence: SequenceGroup | None,
    *,
    alone: bool,
) -> _Run:
    """An optimizer step of the model with so few layers."""
    group = empty.group
    group.summed_bytes = group.gathered_bytes = 0
    if sequence is not None:
        sequence.exchanged_bytes = 0
    with _cut(empty, layers, num_layers), FakeTensorMode(allow_non_fake_inputs=True):
        _fill(empty.model)
        step = _Step(plan, empty, layers.modules[:num_layers], period, batch, sequence, alone=alone)
        found = step.run()
    return replace(
        found,
        summed_bytes=group.summed_bytes,
        gathered_bytes=group.gathered_bytes,
        exchanged_bytes=0 if sequence is None else sequence.exchanged_bytes,
    )


@contextmanager
def _cut(empty: Empty, layers: Layers, num_layers: int) -> Iterator[None]:
    """The model with its first layers alone."""
    config: Any = empty.plain.config.get_text_config()
    whole = config.num_hidden_layers
    before = empty.plain.get_submodule(layers.path)
    empty.plain.set_submodule(layers.path, ModuleList(layers.modules[:num_layers]))
    config.num_hidden_layers = num_layers
    try:
        yield
    finally:
        config.num_hidden_layers = whole
        empty.plain.set_submodule(layers.path, before)


def _fill(model: Module) -> None:
    """Fake tensors in the place of those without memory; what is tied stays tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    made[id(weight)] = Parameter(_like(weight), requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)]  # pyright: ignore[reportArgumentType]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(id(buffer), _like(buffer))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


@contextmanager
def _gathered(model: Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Meanwhile floating-point weights stand in this dtype, as where they are shared out and
    collected; their gradients go to the weights themselves."""
    held: list[tuple[Module, str, Parameter]] = []
    cast: dict[int, Tensor] = {}
    for module in model.modules() if dtype is not None else ():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_floating_point() and weight.dtype != dtype:
                held.append((module, name, weight))
                if id(weight) not in cast:
                    cast[id(weight)] = weight.to(dtype)
    for module, name, weight in held:
        module._parameters[name] = cast[id(weight)]  # pyright: ignore[reportArgumentType]
    cast.clear()
    try:
        yield
    finally:
        for module, name, weight in held:
            module._parameters[name] = weight


class _Step:
    """What the engine does with a micro-batch, on fake tensors."""

    def __init__(
        self,
        plan: Plan,
        empty: Empty,
        layers: Sequence[Module],
        period: int,
        batch: Batch,
        sequence: SequenceGroup | None,
        *,
        alone: bool,
    ) -> None:
        self._plan, self._empty, self._batch, self._alone = plan, empty, batch, alone
        self._model, self._trainer = empty.model, plan.recipe.trainer
        self._layers, self._period = layers, period
        self._policy = trained_policy(self._model, plan, sequence)
        self._reference = _reference(self._policy, self._trainer.method)
        self._model.train()
        self._trained = [one for one in self._model.parameters() if one.requires_grad]

    def run(self) -> _Run:
        """The moments of an optimizer step that is not the first, and the operations of a pass."""
        ledger = Ledger(self._empty.num_vocabulary)
        with ledger:
            ledger.hold_all(self._model.parameters(), "weights")
            ledger.hold_all(self._model.buffers(), "other")
            update = self._optimizer(ledger)
            self._stand_in_gradients(ledger)
            update()
            if self._alone:
                self._forget_gradients()
            hooks = [*self._mark_gradients(ledger), *self._mark_phases(ledger)]
            ledger.begin(FORWARD_AND_LAST)
            before = ledger.calls
            with _gathered(self._model, self._gathered_dtype()):
                with self._offloading(ledger):
                    loss = self._loss()
                loss.backward()
                del loss
            ledger.end(FORWARD_AND_LAST)
            ledger.end(FIRST)
            ledger.begin(STEP)
            passed = ledger.calls
            with ledger.during("other"):
                update()
                ledger.end(STEP)
            self._forget_gradients()
        for hook in hooks:
            hook.remove()
        return _Run(
            moments={phase: tuple(set(moments)) for phase, moments in ledger.phases.items()},
            products=ledger.num_operations - ledger.num_attention_operations,
            attention=ledger.num_attention_operations,
            pass_calls=passed.plus(before, -1),
            step_calls=ledger.calls.plus(passed, -1),
        )

    def _stand_in_gradients(self, ledger: Ledger) -> None:
        """As large as those of an earlier pass, or of the step before."""
        for one in self._trained:
            one.grad = torch.empty_like(one)
            ledger.hold(one.grad, "gradients")

    def _forget_gradients(self) -> None:
        for one in self._trained:
            one.grad = None

    def _loss(self) -> Tensor:
        method = self._trainer.method
        if isinstance(method, Online):
            # Answers don't exist yet; what any loss of their probabilities holds in memory.
            return self._policy.negative_log_likelihood(self._batch).sum()
        return method.loss(self._policy, self._reference, self._batch).sum * 0.5

    def _gathered_dtype(self) -> torch.dtype | None:
        """What layers find their weights in; None: as they are held."""
        name = shares_of(self._plan).gathered_dtype
        return None if name is None else DTYPES[name]

    def _offloading(self, ledger: Ledger) -> AbstractContextManager[None]:
        on_cpu = self._plan.world.device == "cpu"
        if on_cpu or not self._plan.recipe.model.activation_offload:
            return nullcontext()
        return offloading_traced(self._empty.plain, ledger)

    def _optimizer(self, ledger: Ledger) -> Callable[[], None]:
        """What steps: the recipe's optimizer, or one whose state has its size."""
        rule, limit = self._trainer.optimizer, self._trainer.max_grad_norm
        groups = parameter_groups(self._model, self._trainer, self._plan.recipe.adapter)
        if isinstance(rule, StateSized):
            numbers = [one.numel() for one in self._trained]
            sizes = [rule.state_bytes(number) for number in numbers]
            states = [torch.empty(size, dtype=torch.uint8) for size in sizes]
            ledger.hold_all(states, "optimizer")

            on_cpu = self._plan.world.device == "cpu"

            def clip_and_step() -> None:
                assert len(states) == len(self._trained), "kept as long as it may be stepped"
                self._clip(limit)
                if on_cpu and isinstance(rule, StepSized):
                    torch.empty(rule.step_bytes(max(numbers)), dtype=torch.uint8)

            return clip_and_step
        optimizer = rule.build(groups, self._trainer.learning_rate)

        def update() -> None:
            self._clip(limit)
            optimizer.step()
            ledger.hold_all(_tensors(optimizer.state_dict()["state"]), "optimizer")

        return update

    def _clip(self, limit: float | None) -> None:
        given = [one for one in self._trained if one.grad is not None]
        torch.nn.utils.clip_grad_norm_(
            given, float("inf") if limit is None else limit, error_if_nonfinite=False
        )

    def _mark_gradients(self, ledger: Ledger) -> Iterator[Any]:
        def mark(parameter: Tensor) -> None:
            assert parameter.grad is not None
            ledger.has_gradients = True
            ledger.hold(parameter.grad, "gradients")
            if self._trainer.optimizer_in_backward:
                parameter.grad = None

        for one in self._trained:
            yield one.register_post_accumulate_grad_hook(mark)

    def _mark_phases(self, ledger: Ledger) -> Iterator[Any]:
        """The backward pass of the last layers ends where the gradient of their input is there;
        that of the first ones begins where the gradient of their output is."""

        def inputs(module: Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = given[0] if given else named["hidden_states"]
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: ledger.end(FORWARD_AND_LAST))

        def output(module: Module, given: Any, result: Any) -> None:
            hidden = result[0] if isinstance(result, tuple) else result
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: ledger.begin(FIRST))

        first_of_last = self._layers[-self._period]
        yield first_of_last.register_forward_pre_hook(inputs, with_kwargs=True)
        yield self._layers[self._period - 1].register_forward_hook(output)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


class _Frozen:
    """A reference of the model's own size."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """See `Policy`."""
        with torch.no_grad():
            return self._policy.negative_log_likelihood(batch)

    def logits(self, batch: Batch) -> Tensor:
        """See `Policy`."""
        with torch.no_grad():
            return self._policy.logits(batch)


def _reference(policy: Policy, method: Method | Online) -> Policy | None:
    compared = isinstance(method, Comparing) and method.compared_with() is not None
    return _Frozen(policy) if compared else None
