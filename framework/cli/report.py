"""`framework report`: a run directory -> its HTML report, or the samples of one of its steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AsJson, RunPath
from framework.core.consent import granted
from framework.core.problems import Problem, UserError, reading, warn


def run(
    run_dir: RunPath,
    blame: Annotated[
        str | None,
        typer.Option(
            metavar="STEP|worst",
            help="Show the samples of a step with their losses, or of the steps that stand out.",
        ),
    ] = None,
    allow_env: AllowedEnvironment = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run, also of one that is going on or was stopped."""
    if not (run_dir / "settings.json").is_file():
        raise UserError(
            Problem(
                file=str(run_dir),
                what="is not a run directory: it holds no settings.json",
                hint="give the `output.dir` of a recipe that was trained",
            )
        )
    if blame is not None:
        _blame(run_dir, blame, allow_env or (), as_json=as_json)
        return
    from framework.reports.run_report import write_report
    from framework.tracing.hindsight import plan_again

    with reading(run_dir, "the report"), granted((), allow_env or ()):
        plan_again(run_dir, allow_env or ())
        path = write_report(run_dir)
    print(json.dumps({"report": str(path)}) if as_json else path)


def _blame(run_dir: Path, asked: str, allow_env: list[str] | tuple[()], *, as_json: bool) -> None:
    from framework.recipe.resolve import resolve_run
    from framework.reports import blame
    from framework.reports.run_record import read_run

    if asked != "worst" and not asked.isdigit():
        raise UserError(f"--blame {asked!r} is neither a step nor `worst`", hint="write --blame 12")
    with reading(run_dir, "what the run did"):
        record = read_run(run_dir)
    if asked == "worst":
        jumps = blame.worst_steps(record)
        if not jumps:
            raise UserError(
                Problem(
                    file=str(run_dir / "metrics.jsonl"),
                    what="has too few steps to find one that stands out",
                    hint="write --blame 1 for the samples of the first",
                )
            )
        chosen = [(jump.step, jump.why) for jump in jumps]
    else:
        chosen = [(int(asked), "")]
    recipe = resolve_run(run_dir, allowed_environment=allow_env).recipe
    with reading(run_dir, "what the steps saw"), granted((), allow_env):
        warn(blame.changed_files(run_dir))
        steps = tuple(blame.blame(record, recipe, step, why) for step, why in chosen)
    if as_json:
        print(json.dumps(blame.as_json(steps), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for step in steps:
        blame.print_blamed(step, console)
