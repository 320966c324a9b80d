"""The preview's page shows tokens exactly, tells each one's id, and runs nothing."""

from __future__ import annotations

import html
import re

from test_preview_text import NUMBERS, piece

from framework.data.preview import Piece, ShownSample
from framework.reports.preview_page import preview_page


def page(*pieces: Piece, identifier: str = "a:1") -> str:
    sample = ShownSample(identifier=identifier, documents=(pieces,))
    return preview_page("recipe.yaml", "train", NUMBERS, [sample])


def shown_text(markup: str) -> str:
    """The characters of the first sample as a browser shows them."""
    found = re.search(r'<p class="tokens">(.*?)</p>', markup, flags=re.DOTALL)
    assert found is not None
    return html.unescape(re.sub(r"<[^>]*>", "", found.group(1)))


def test_tokens_are_shown_exactly() -> None:
    markup = page(piece("  two spaces "), piece("\n\n"), piece("\tend", trained=True))
    assert shown_text(markup) == "  two spaces ⏎\n⏎\n\tend"


def test_trained_and_special_tokens_are_marked() -> None:
    markup = page(piece("no"), piece("yes", trained=True), piece("<|x|>", special=True))
    assert '<span title="token 0: id 1">no</span>' in markup
    assert '<mark title="token 0: id 1">yes</mark>' in markup
    assert '<span class="special" title="token 0: id 1">&lt;|x|&gt;</span>' in markup


def test_joined_tokens_tell_all_their_ids() -> None:
    joined = Piece(text="日", token_ids=(5, 6, 7), position=9, trained=False, special=False)
    assert 'title="tokens 9 to 11: ids 5, 6, 7"' in page(joined)


def test_text_of_the_data_is_never_markup() -> None:
    hostile = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"{{ 7 * 7 }}"
    markup = page(piece(hostile), identifier=hostile)
    assert "<script" not in markup
    assert "<img" not in markup
    assert shown_text(markup) == hostile


def test_the_page_loads_nothing() -> None:
    markup = page(piece("text"))
    assert not re.search(r"https?://|@import|<link|<script|src=|url\((?!#)", markup)
    assert not re.findall(r'href="(?!#)', markup)
    assert "trained tokens (20.0 %)" in markup
    assert 'aria-label="Lengths of train"' in markup
