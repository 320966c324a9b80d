"""Run directory -> `report.html`: one file that tells the whole run, without any network."""

from __future__ import annotations

from pathlib import Path

from framework.core import atomic
from framework.reports import run_answers, run_sections
from framework.reports.page import render_page
from framework.reports.run_record import read_run

REPORT = "report.html"


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` from what the run directory holds, and returns its path.

    What is missing or broken is said in the report; an unfinished run has one too.

    Raises:
        OSError: it can't be written.
    """
    record = read_run(run_dir)
    defaults = [setting for setting in record.settings if setting.origin == "default"]
    page = render_page(
        "run.html.jinja",
        {
            "record": record,
            "name": run_dir.resolve().name,
            "headline": run_sections.headline(record),
            "tiles": run_sections.tiles(record),
            "changes": run_sections.changes(record),
            "charts": run_sections.charts(record),
            "steepest": run_sections.steepest_steps(record),
            "parts": run_sections.part_sections(record),
            "answer_tables": run_answers.answer_tables(record),
            "watched": run_answers.watched_rows(record),
            "written": [s for s in record.settings if s.origin != "default"],
            "defaults": defaults,
            "environment": run_sections.flattened(record.environment),
            "most_ids": run_sections.MOST_IDS,
            "clipped": run_sections.clipped,
            "short_origin": run_sections.short_origin,
        },
    )
    path = run_dir / REPORT
    atomic.write_file(path, page)
    return path
