"""The straight line: `accelerate launch -m framework.train recipe.yaml [key=value ...]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.consent import granted
from framework.core.launched import announce
from framework.core.problems import warn
from framework.core.world import World
from framework.distributed.peers import DEFAULT_TIMEOUT_SECONDS, Peers, meet
from framework.engine.agreement import same_data, same_folder, same_recipe, same_versions
from framework.launching.preflight import refuse_hopeless_start, refuse_unreachable_store
from framework.planning.plan import Plan, make_plan, make_steps, refuse_cadence
from framework.recipe.resolve import placing, resolve_with_origins
from framework.runs.rehearsal import NO_REHEARSAL, Rehearsal

if TYPE_CHECKING:
    from framework.runs.result import Result


def run(
    path: Path | str,
    overrides: Sequence[str] = (),
    allowed_environment: Collection[str] = (),
    allowed_urls: Collection[str] = (),
    peer_timeout: float = DEFAULT_TIMEOUT_SECONDS,
    rehearsal: Rehearsal = NO_REHEARSAL,
) -> Result:
    """A recipe becomes a trained model.

    Args:
        peer_timeout: seconds that a process may be silent, or keep the others waiting.
        rehearsal: of the run that this one repeats.

    Raises:
        UserError: with the exit code of what went wrong.
    """
    started = time.monotonic()
    with planned_together(path, overrides, allowed_environment, peer_timeout) as (plan, peers):
        consent = partial(granted, allowed_urls, allowed_environment)
        return _follow(plan, peers, consent, started, rehearsal)


@contextmanager
def planned_together(
    path: Path | str,
    overrides: Sequence[str],
    allowed_environment: Collection[str],
    peer_timeout: float,
) -> Iterator[tuple[Plan, Peers]]:
    """The plan of a recipe, the same on all processes that were started together, which stay
    together while the context lasts.

    Args:
        peer_timeout: see `run`.

    Raises:
        UserError: they don't meet, or can't run the recipe.
    """
    announce()
    world = World.from_env()
    refuse_unreachable_store(os.environ)
    with meet(world, peer_timeout) as peers:
        refuse_hopeless_start(os.environ, world.device)
        same_versions(peers)
        resolved = resolve_with_origins(path, overrides, allowed_environment)
        with placing(resolved.origins):
            plan = make_plan(resolved, world)
            same_recipe(peers, plan)
            warn(resolved.warnings)
            yield plan, peers


def _follow(
    plan: Plan,
    peers: Peers,
    consent: Callable[[], AbstractContextManager[None]],
    started: float,
    rehearsal: Rehearsal,
) -> Result:
    from framework.data.prepared import prepare_data
    from framework.data.reference import fetch_reference
    from framework.engine.export import export
    from framework.engine.feed import units_per_epoch
    from framework.engine.first_samples import first_batches
    from framework.engine.fit import fit
    from framework.engine.preparation_display import PreparationDisplay
    from framework.models.load import as_loaded, load_bundle
    from framework.runs.lock import write_lock
    from framework.runs.other_passes import drawn_otherwise
    from framework.runs.run_directory import open_run
    from framework.tracing.choice import choose_strategy
    from framework.tracing.shortage import shortage_explained

    with open_run(plan, consent) as directory:
        same_folder(peers, directory)
        with consent(), PreparationDisplay() as progress:
            data = prepare_data(plan.recipe, progress=progress, verify=True)
            fetch_reference(plan.recipe, data)
        same_data(peers, data)
        steps = make_steps(plan.recipe, units_per_epoch(data, plan.recipe.trainer))
        refuse_cadence(plan.recipe, steps)
        plan = choose_strategy(plan, data.model_path, peers)
        changed = write_lock(plan, data, directory)
        notes = (f"not as the run was started: {one}" for one in changed)
        plan = replace(plan, notes=(*plan.notes, *notes))
        rehearsal.before_training(plan, directory)
        begin = partial(first_batches, plan, data)
        with shortage_explained(plan, data.model_path):
            bundle = load_bundle(plan, data.model_path, data.tokenizer, begin)
            plan = as_loaded(plan, bundle)
            plan = replace(plan, notes=(*plan.notes, *drawn_otherwise(changed, bundle.model)))
            result = fit(plan, data, bundle, directory, peers, started, rehearsal)
            return export(plan, bundle, directory, result) if result.is_whole else result


if __name__ == "__main__":
    from framework.__main__ import main

    sys.argv[1:1] = ["train"]
    main()
