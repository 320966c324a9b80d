"""Whose folder a run's folder is."""

from __future__ import annotations

import pytest

from framework.core.problems import Refused
from framework.core.world import World
from framework.engine.run_directory import open_run
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins


def test_a_start_that_was_killed_while_it_wrote_what_run_it_is_can_be_made_again(
    write_recipe, tmp_path
):
    plan = make_plan(resolve_with_origins(write_recipe()), World())
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".settings.json.half"):
        (run / name).touch()
    with open_run(plan):
        assert (run / "settings.json").is_file()


@pytest.mark.parametrize("name", ["thesis.tex", ".git", "settings.json.old"])
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(write_recipe, tmp_path, name):
    plan = make_plan(resolve_with_origins(write_recipe()), World())
    run = tmp_path / "run"
    run.mkdir()
    (run / name).touch()
    with pytest.raises(Refused, match="not from a run"), open_run(plan):
        pass
    assert [path.name for path in run.iterdir()] == [name]
