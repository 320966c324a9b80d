"""Combinations of components do what docs/support-matrix.md says."""

from __future__ import annotations

import itertools
import random

import pytest
from matrix_cells import DEFAULT_STRATEGY, NEEDS_GPU, RUNS, Cell, Matrix, is_bug, make_models
from support_matrix import PAGE, TRIED, Table, cells_in, introduction, read, tables, written

TABLES = tables()
NUM_SAMPLED = 3
"""Cells of each table that are tried again."""


@pytest.fixture(scope="module")
def page():
    return read(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def matrix(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    make_models(tiny_model_dir, folder)
    return Matrix(folder)


def sample() -> list[tuple[Table, Cell]]:
    """The same every time: each row's component in turn, over any column."""
    chance = random.Random(0)
    turns = {table.rows: itertools.cycle(table.names(table.rows)) for table in TABLES}
    found: list[tuple[Table, Cell]] = []
    for table in TABLES:
        columns = table.names(table.columns)
        cells = [
            table.cell(next(turns[table.rows]), chance.choice(columns)) for _ in range(NUM_SAMPLED)
        ]
        found += [(table, cell) for cell in dict.fromkeys(cells)]
    return found


SAMPLE = sample()


def test_the_page_has_every_combination_and_no_bug(page):
    assert PAGE.read_text(encoding="utf-8").startswith(introduction())
    assert list(page) == [table.heading for table in TABLES]
    for table in TABLES:
        found = cells_in(table, page[table.heading])
        assert list(found) == list(table.cells()), table.heading
        assert not [cell for cell, outcome in found.items() if is_bug(outcome)]
        assert f"\n{TRIED}" in page[table.heading]


def test_what_is_read_of_a_table_is_what_was_written():
    table = Table(rows="adapter", columns="optimizer")
    outcomes = [RUNS, NEEDS_GPU, ("`adapter` is wrong; hint",), ("`a` b", "`adapter` is wrong")]
    found = dict(zip(table.cells(), itertools.cycle(outcomes)))
    text = written(table, found, [f"{TRIED}today."])
    assert cells_in(table, text) == found
    other = f"intro\n\n{text}\n## another\n"
    assert read(other)[table.heading] == text


def test_the_sample_has_every_trainer_and_adapter():
    cells = [cell for _, cell in SAMPLE]
    for name in ("trainer", "adapter", "quantizer"):
        table = next(table for table in TABLES if name in (table.rows, table.columns))
        wanted = set(table.names(name))
        assert {vars(cell)[name] for cell in cells} == wanted, name


@pytest.mark.slow
@pytest.mark.parametrize(("table", "cell"), SAMPLE, ids=[str(cell) for _, cell in SAMPLE])
def test_a_cell_is_what_the_page_says(table, cell, matrix, page):
    says = cells_in(table, page[table.heading])[cell]
    # Other strategies run in launched processes; here it is seen that `check` lets them through.
    launched = cell.strategy != DEFAULT_STRATEGY and says in {RUNS, NEEDS_GPU}
    found = matrix.outcome(cell, is_known_to_run=launched)
    assert found == says or (launched and found == RUNS)
