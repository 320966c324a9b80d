"""`framework report`: a run directory -> its HTML report, written again."""

from __future__ import annotations

from framework.arguments import RunPath
from framework.core.problems import Problem, UserError


def run(
    run_dir: RunPath,
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
    from framework.reports.run_report import write_report

    print(write_report(run_dir))
