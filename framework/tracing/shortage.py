"""Out of memory -> what the plan says that the run needs, and what to write to need less."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from framework.core.problems import RunFailed, UserError
from framework.planning.changes import changes
from framework.planning.devices import GIB
from framework.planning.memory import Memory
from framework.planning.plan import Plan, make_plan
from framework.tracing.lengths import lengths_of
from framework.tracing.peak import predicted_memory

_OF_THE_CPU = "DefaultCPUAllocator"
"""What PyTorch's RuntimeError names where the machine's memory is too small."""
_MOST_CHANGES = 3
_WORTH_RATIO = 0.95
"""Changes that save less are not named."""


@contextmanager
def shortage_explained(plan: Plan, folder: Path) -> Iterator[None]:
    """What runs out of memory meanwhile ends with the plan's numbers.

    Args:
        folder: the model's.

    Raises:
        RunFailed: it did.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        said = str(error).strip().partition("\n")[0] or "MemoryError"
        # Their tensors would be in the way of what follows.
        traceback.clear_frames(error.__traceback__)
    raise RunFailed(
        f"out of memory (rank {plan.world.rank} on {plan.world.torch_device}): {said}",
        hint=_advice(plan, folder),
    )


def _is_shortage(error: MemoryError | RuntimeError) -> bool:
    import torch

    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or _OF_THE_CPU in str(error)


def _advice(plan: Plan, folder: Path) -> str:
    resume = (
        "then start the same command: it goes on from the last checkpoint, or says that the key "
        "makes it another run"
    )
    try:
        memory = _memory(plan, folder)
        lines = list(_less(plan, folder, memory))
    except (UserError, MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        return f"`framework plan` says what needs less (not planned here: {reason}); {resume}"
    kinds = ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.kinds().items() if size)
    needs = f"each process is planned to need {memory.peak / GIB:.2f} GiB ({kinds})"
    if not lines:
        return f"{needs}; nothing that is known needs less: take a smaller model or a larger device"
    return f"{needs}; write {'; or '.join(lines)}; {resume}"


def _memory(plan: Plan, folder: Path) -> Memory:
    return predicted_memory(plan, folder, lengths_of(plan, folder))


def _less(plan: Plan, folder: Path, memory: Memory) -> Iterator[str]:
    """The first changes that save something, with what is needed then."""
    found = 0
    for change in changes(plan.recipe, plan.world.num_processes):
        try:
            changed = make_plan(replace(plan.resolved, recipe=change.recipe), plan.world)
            peak = _memory(changed, folder).peak
        except UserError:
            continue
        if peak < _WORTH_RATIO * memory.peak:
            yield f"{' and '.join(change.lines)} ({peak / GIB:.2f} GiB)"
            found += 1
        if found == _MOST_CHANGES:
            return
