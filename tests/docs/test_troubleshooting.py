"""Every section of the troubleshooting page that a message names is there."""

from __future__ import annotations

import re
from pathlib import Path

import framework
from framework.distributed.peers import TALK_HINT, WAITING_HINT
from framework.distributed.watch import LOST_HINT
from framework.engine.agreement import FOLDER_HINT, NODES_HINT

PACKAGE = Path(framework.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = {line.lstrip("# ") for line in PAGE.splitlines() if line.startswith("#")}
HINTS = (TALK_HINT, WAITING_HINT, LOST_HINT, FOLDER_HINT, NODES_HINT)
NAMED = re.compile(r"docs/troubleshooting\.md: ([A-Z][^;\"]*)")


def test_every_section_that_a_hint_names_exists():
    named = [name for hint in HINTS for name in NAMED.findall(hint)]
    assert len(named) == len(HINTS)
    assert [name for name in named if name.strip() not in HEADINGS] == []


def test_every_mention_of_the_page_in_the_code_is_one_of_those_hints():
    mentions = sum(
        path.read_text(encoding="utf-8").count("docs/troubleshooting.md:")
        for path in PACKAGE.rglob("*.py")
    )
    assert mentions == len(HINTS)
