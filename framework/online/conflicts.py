"""An online trainer and the recipe around it -> what can't go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from framework.core.consent import is_loopback
from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.protocols.training import Online
from framework.core.registries import component_name
from framework.online.vllm import VLLM

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def online_conflicts(method: Online, recipe: Recipe) -> Iterator[Problem]:
    """Every conflict that any online trainer has with the recipe."""
    trainer, data = recipe.trainer, recipe.data
    if not method.rewards:
        yield Problem(
            key="trainer.rewards",
            what="is empty: nothing says which answers are good",
            hint="write rewards: [{type: exact_match}] (`framework list rewards` shows all)",
        )
    answers, group = trainer.global_batch_size, method.num_generations
    if answers % group:
        yield Problem(
            key="trainer.global_batch_size",
            what=f"{answers} answers are no whole number of groups of num_generations {group}",
            hint=f"write global_batch_size: {-(-answers // group) * group}",
        )
    if data.streaming is not None:
        yield Problem(
            key="data.streaming",
            what="prompts are few and short, and are prepared before the model answers them",
            hint="leave it out",
        )
    if component_name(data.over_length) not in {"error", "drop"}:
        yield Problem(
            key="data.over_length",
            what="a prompt that is cut asks something else",
            hint="write over_length: drop, or error",
        )


def vllm_conflicts(
    generation: Literal["transformers", "vllm"], vllm: VLLM | None
) -> Iterator[Problem]:
    """What vLLM needs."""
    if generation != "vllm":
        if vllm is not None:
            yield Problem(
                key=".vllm",
                what="has no meaning while transformers answers",
                hint="write generation: vllm, or leave it out",
            )
        return
    yield from missing_extra("vllm", "vllm", key=".generation")
    address = (vllm or VLLM()).server_base_url
    if (vllm or VLLM()).mode == "server" and address is None:
        yield Problem(
            key=".vllm.server_base_url",
            what="is missing",
            hint="write server_base_url: http://localhost:8000",
        )
    if address is not None and not is_loopback(address):
        yield Problem(
            key=".vllm.server_base_url",
            what=f"{address} is another machine's: prompts and weights would be sent there",
            hint="forward it to this machine (ssh -L 8000:localhost:8000 HOST) and write "
            "http://localhost:8000",
        )
