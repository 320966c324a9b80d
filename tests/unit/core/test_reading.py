"""What somebody else's files end in is a message, and so is a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.core.problems import UserError, reading

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no disk that is always full")
def test_a_full_disk_is_no_fault_of_what_was_read(tmp_path):
    with pytest.raises(UserError) as told, reading(tmp_path, "the report"):
        FULL.write_text("text", encoding="utf-8")
    assert "the report: No space left on device" in str(told.value)
    assert "free space" in str(told.value)
    assert "as the run left it" not in str(told.value)


def test_files_that_are_nothing_of_the_kind_are_named(tmp_path):
    with pytest.raises(UserError) as told, reading(tmp_path, "the report"):
        {}["steps"]  # pyright: ignore[reportUnusedExpression]
    assert str(tmp_path) in str(told.value)
    assert "nothing to read the report from: KeyError: 'steps'" in str(told.value)
