"""Planted duplicates, copies of held-out rows and personal data are found, and nothing else."""

from __future__ import annotations

import measures
import planted
import pytest

SEED = 7
LEAST = 0.95


@pytest.mark.parametrize("name", measures.SUITES)
def test_rows_that_repeat_others_are_found_with_the_row_that_they_repeat(name):
    quality = measures.SUITES[name](SEED, 2000)
    print(name, quality, f"precision {quality.precision:.4f} recall {quality.recall:.4f}")
    assert quality.num_planted >= 80
    assert quality.precision >= LEAST
    assert quality.recall >= LEAST
    assert quality.num_right_rows >= LEAST * quality.num_right


def test_personal_data_of_every_kind_is_found_among_what_only_looks_like_it():
    found = measures.personal_data(SEED, 60)
    assert set(found) == set(planted.MAKERS)
    assert len(planted.DECOYS) >= 15
    for entity, quality in found.items():
        print(entity, f"precision {quality.precision:.4f} recall {quality.recall:.4f}")
    assert {name: one for name, one in found.items() if one.precision < LEAST} == {}
    assert {name: one for name, one in found.items() if one.recall < LEAST} == {}


def test_what_is_found_depends_on_the_rows_alone():
    first, second = (
        {row: finding.reason for row, finding in measures.findings(cleaner, data.rows).items()}
        for cleaner, data in (
            (measures.NearDuplicates(), planted.duplicates(SEED, 400, "near")) for _ in range(2)
        )
    )
    assert first == second
    assert len(first) > 20
