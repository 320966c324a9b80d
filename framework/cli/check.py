"""`framework check`: a recipe -> every problem in it, without torch or network."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath
from framework.core.consent import granted
from framework.core.problems import UserError, warn
from framework.recipe.resolve import resolve_with_origins

if TYPE_CHECKING:
    from framework.lint.template_lint import Finding, TemplateReport


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    templates: Annotated[
        bool,
        typer.Option("--templates", help="Lint the chat template too; fetches the model."),
    ] = False,
    rows: Annotated[
        int, typer.Option(min=0, help="With --templates: rows of each dataset to render.")
    ] = 100,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Find everything that is wrong with a recipe, before anything is downloaded."""
    problems, warnings, report = (), (), None
    exit_code = UserError.exit_code
    try:
        resolved = resolve_with_origins(recipe, overrides or (), allow_env or ())
        warnings = resolved.warnings
        if templates:
            from framework.lint.template_lint import lint_recipe

            with granted(allow_url or (), allow_env or ()):
                report = lint_recipe(resolved.recipe, rows)
    except UserError as error:
        exit_code = error.exit_code
        problems, warnings = error.problems, (*warnings, *error.warnings)
    good = not problems and not (report and report.problems)
    if as_json:
        shown = {
            "ok": good,
            "problems": [problem.as_json() for problem in problems],
            "warnings": [warning.as_json() for warning in warnings],
        }
        print(json.dumps({**shown, **({"templates": _json(report)} if report else {})}, indent=2))
    else:
        warn(warnings)
        for problem in problems:
            print(problem, file=sys.stderr)
        if report:
            _print(report)
        if good:
            print(f"{recipe}: good")
    if not good:
        raise typer.Exit(exit_code)


def _json(report: TemplateReport) -> dict[str, Any]:
    return {**dataclasses.asdict(report), "num_problems": len(report.problems)}


def _print(report: TemplateReport) -> None:
    for finding in report.findings:
        _print_finding(finding)
    num_problems = len(report.problems)
    print(
        f"template {report.template}: problems {num_problems}, "
        f"notes {len(report.findings) - num_problems} "
        f"({report.num_probes} probes, {report.num_rows:,} rows)"
    )
    if report.refused:
        print(f"it refuses: {'; '.join(report.refused)}")


def _print_finding(finding: Finding) -> None:
    hint = f"; {finding.hint}" if finding.hint else ""
    print(f"{finding.severity}: {finding.where}: {finding.what} [{finding.rule}]{hint}")
    for name, tokens in (("trained", finding.tokens), ("served", finding.served_tokens)):
        if tokens:
            texts = (f"{one.id} {json.dumps(one.text, ensure_ascii=False)}" for one in tokens)
            print(f"    {name}: {'  '.join(texts)}")
    if finding.num_more:
        print(f"    and {finding.num_more:,} more of this kind")
