"""Measured shares of a step, and its recipe -> what would help, the most first.

Every rule stands with its threshold in docs/profiling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from framework.core.protocols.training import Comparing, Online
from framework.core.registries import component_name
from framework.planning.plan import Plan, num_together, tensor_parallel_size
from framework.profiling.clock import RECOMPUTED
from framework.profiling.findings import Advice, Findings
from framework.profiling.parts import HEAD
from framework.reports.quantities import bytes_text, count_text, share_text

MOST_DATA = 0.05
MOST_HEAD = 0.3
MOST_RECOMPUTED = 0.02
MOST_OPTIMIZER = 0.15
MOST_COMMUNICATION = 0.2
MOST_REFERENCE = 0.1
MOST_ANSWERS = 0.5
MOST_SAVE = 0.05
MOST_REST = 0.15
FEWEST_TOKENS = 1024
"""Of a pass, below which the work around matrix products shows."""
LEAST_EFFICIENCY = 0.5
"""Of forward and backward passes, from which on small ones are no trouble."""
LEAST_SPEEDUP = 1.5
"""Of products in bfloat16, to be worth their rounding."""
LEAST_BUSY = 0.6
"""Share of its threads' time that a process computes on a CPU."""

Rule = Callable[[Findings, Plan], "tuple[float, str] | None"]
"""(Share of a step that it could save at most, what to write); None where it doesn't apply."""


def advise(findings: Findings, plan: Plan) -> tuple[Advice, ...]:
    """All rules that apply."""
    said = {name: rule(findings, plan) for name, rule in RULES.items()}
    found = [(*one, name) for name, one in said.items() if one is not None]
    found.sort(key=lambda one: -one[0])
    return tuple(Advice(rule=name, text=text) for _, text, name in found)


def _data(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("data")
    if ratio <= MOST_DATA:
        return None
    cause = (
        "write `data.streaming: null`, so that rows are tokenized once, before training"
        if plan.recipe.data.streaming is not None
        else "prepared rows are read from the cache: set XDG_CACHE_HOME to a local disk"
    )
    return ratio, f"making batches takes {share_text(ratio)} of the step: {cause}"


def _head_and_loss(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("loss") + findings.ratio("forward", "backward", parts=(HEAD, "loss"))
    if ratio <= MOST_HEAD or not findings.num_trained_tokens:
        return None
    labels = findings.num_trained_tokens / (findings.num_tokens or 1)
    said = f"head and loss take {share_text(ratio)} of the step, at {share_text(labels)} of the "
    said += "tokens, those that are trained: "
    data = plan.recipe.data
    if labels > 0.5 and data.train_on != ("assistant",):
        return ratio, said + "fewer with `data.train_on: [assistant]`"
    if data.turns == "all":
        return ratio, said + "fewer with `data.turns: last`, if earlier turns needn't be learned"
    return ratio, said + "a model with a smaller vocabulary spends less on them"


def _checkpointing(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("backward", parts=(RECOMPUTED,))
    if ratio <= MOST_RECOMPUTED or findings.unneeded_checkpointing is None:
        return None
    needed, room = findings.unneeded_checkpointing
    return ratio, (
        f"layers that are computed again take {share_text(ratio)} of the step, and without that "
        f"{bytes_text(needed)} are planned of the {bytes_text(room)} that are there: write "
        "`model.gradient_checkpointing: false`"
    )


def _float32(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    faster = findings.bfloat16_gemm_peak
    if faster is None or faster < LEAST_SPEEDUP * findings.gemm_peak:
        return None
    gained = 1 - findings.gemm_peak / faster
    return findings.ratio("forward", "backward") * gained, (
        "products are float32, and this device multiplies bfloat16 "
        f"{faster / findings.gemm_peak:.1f} times as fast: write `model.dtype: auto`, or "
        "`bfloat16` for weights in it too"
    )


def _small_passes(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    # Processes that compute layers together have the same tokens.
    num_parts = findings.num_processes // tensor_parallel_size(plan.recipe)
    per_pass = findings.num_tokens / (findings.num_passes * num_parts)
    if per_pass >= FEWEST_TOKENS or findings.efficiency >= LEAST_EFFICIENCY:
        return None
    recipe, size = plan.recipe, plan.pass_size
    if size.reason:
        return None  # what it says is why passes can't have more
    said = f"a pass has {count_text(per_pass)} tokens, too few for large matrix products: "
    if size.num_units is None:
        said += "write a larger `trainer.global_batch_size`"
    elif not recipe.data.packing and recipe.trainer.method.packs:
        said += "write `data.packing: true`"
    elif findings.num_passes > 1:
        said += (
            "write `trainer.micro_batch_size: auto`, or a larger number; "
            f"{count_text(findings.num_passes)} passes make a step"
        )
    else:
        said += "write a larger `trainer.micro_batch_size` and `trainer.global_batch_size`"
    lost = 1 - findings.efficiency / LEAST_EFFICIENCY
    return findings.ratio("forward", "backward") * lost, said


def _optimizer(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("optimizer")
    if ratio <= MOST_OPTIMIZER:
        return None
    name = component_name(plan.recipe.trainer.optimizer)
    said = f"the optimizer takes {share_text(ratio)} of the step: "
    if name != "adamw":
        return ratio, said + f"`{name}` is not fused, `trainer.optimizer: adamw` is"
    if plan.recipe.adapter.trains_all_weights:
        return ratio, said + (
            "a larger `trainer.global_batch_size` steps less often, `adapter: lora` steps fewer "
            "weights"
        )
    return ratio, said + "a larger `trainer.global_batch_size` steps less often"


def _communication(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("communication")
    if ratio <= MOST_COMMUNICATION:
        return None
    said = f"waiting for other processes takes {share_text(ratio)} of the step: "
    if num_together(plan.recipe) > 1:
        return ratio, said + (
            "those that compute layers or rows together exchange in every layer; put them on one "
            "machine, or write a smaller size of such a group"
        )
    if not plan.recipe.strategy.keeps_parameters_whole:
        return ratio, said + "`strategy: ddp` sends less, where a device holds the model whole"
    return ratio, said + "a larger `trainer.global_batch_size` sends gradients less often"


def _reference(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("reference")
    method = plan.recipe.trainer.method
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if ratio <= MOST_REFERENCE or comparison is None:
        return None
    said = f"the model that is compared with takes {share_text(ratio)} of the step: "
    if comparison.source is not None:
        return ratio, said + "write `trainer.top_k: 64`, and it is asked once, before training"
    return ratio, said + "write `trainer.precompute_reference: true`"


def _answers(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("answers")
    method = plan.recipe.trainer.method
    if ratio <= MOST_ANSWERS or not isinstance(method, Online):
        return None
    return ratio, (
        f"making answers and judging them takes {share_text(ratio)} of the step: learn more often "
        f"from each with `trainer.num_iterations: {method.num_iterations + 1}`, or write a smaller "
        "`trainer.max_new_tokens`"
    )


def _save(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.save_ratio
    if ratio <= MOST_SAVE:
        return None
    said = (
        f"a checkpoint each {count_text(findings.steps_per_save)} steps takes {share_text(ratio)} "
        "of the time: write a larger `checkpoint.every_steps`"
    )
    if not plan.recipe.checkpoint.asynchronous:
        said += ", or `checkpoint.asynchronous: true`"
    return ratio, said


def _rest(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    ratio = findings.ratio("rest") + findings.ratio("forward", parts=("rest",))
    if ratio <= MOST_REST:
        return None
    auto = plan.pass_size.num_units is None
    larger = "trainer.global_batch_size" if auto else "trainer.micro_batch_size"
    return ratio, (
        f"what is no part of the model takes {share_text(ratio)} of the step, as it does for small "
        f"models and small passes: write a larger `{larger}`"
    )


def _threads(findings: Findings, plan: Plan) -> tuple[float, str] | None:
    if findings.device != "cpu":
        return None
    busy = findings.cpu_seconds / (findings.seconds * findings.num_threads)
    if busy >= LEAST_BUSY:
        return None
    threads = f"{findings.num_threads} thread{'s' * (findings.num_threads > 1)}"
    return 1 - busy, (
        f"{threads} computed {share_text(busy)} of the time: other programs have the processors; "
        "end them, or set OMP_NUM_THREADS to fewer"
    )


RULES: Mapping[str, Rule] = {
    "data": _data,
    "head_and_loss": _head_and_loss,
    "checkpointing": _checkpointing,
    "float32": _float32,
    "small_passes": _small_passes,
    "optimizer": _optimizer,
    "communication": _communication,
    "reference": _reference,
    "answers": _answers,
    "save": _save,
    "rest": _rest,
    "threads": _threads,
}
