"""The straight line: `accelerate launch -m framework.train recipe.yaml [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.consent import granted
from framework.core.problems import warn
from framework.core.world import World
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins

if TYPE_CHECKING:
    from framework.engine.result import Result


def run(
    path: Path | str,
    overrides: Sequence[str] = (),
    allowed_environment: Collection[str] = (),
    allowed_urls: Collection[str] = (),
) -> Result:
    """A recipe becomes a trained model.

    Raises:
        UserError: with the exit code of what went wrong.
    """
    resolved = resolve_with_origins(path, overrides, allowed_environment)
    plan = make_plan(resolved, World.from_env())
    warn(resolved.warnings)

    from framework.data.prepared import prepare_data
    from framework.engine.export import export
    from framework.engine.fit import fit
    from framework.engine.preparation_display import PreparationDisplay
    from framework.engine.run_directory import open_run
    from framework.models.load import load_bundle

    with open_run(plan) as directory:
        with granted(allowed_urls, allowed_environment), PreparationDisplay() as progress:
            data = prepare_data(plan.recipe, progress=progress, verify=True)
        bundle = load_bundle(plan, data.model_path, data.tokenizer)
        result = fit(plan, data, bundle, directory)
        return export(plan, data, bundle, directory, result)


if __name__ == "__main__":
    from framework.__main__ import main

    sys.argv[1:1] = ["train"]
    main()
