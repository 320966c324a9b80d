"""What is listed of a text can't be abused."""

from __future__ import annotations

import pytest

from framework.cleaning.masking import LONGEST_EXCERPT, excerpt

KEY = "sk-" + "proj-" + "aB3" * 16


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "ada.lovelace@example.org",
        "4111 1111 1111 1111",
        "4111111111111111",
        "DE89 3704 0044 0532 0130 00",
        "GB33BUKB20201555555555",
        "+44 20 7946 0958",
        "postgres://ada:" + "s3cret-word@db.example.org/x",
        "ghp_" + "aZ09" * 9,
    ],
)
def test_an_excerpt_shows_no_key_address_or_long_number(secret):
    shown = excerpt(f"please keep {secret} for me")
    assert secret not in shown
    assert secret[4:12] not in shown
    assert "please keep" in shown
    assert "for me" in shown


def test_a_key_at_the_cut_is_not_shown_in_half():
    for spaces in range(LONGEST_EXCERPT - 60, 4 * LONGEST_EXCERPT):
        assert KEY[8:16] not in excerpt("x" * spaces + " " + KEY + " end" * 99)


def test_a_long_text_is_cut_on_one_line():
    assert excerpt("one\ntwo  three") == "one two three"
    assert excerpt("word " * 99) == ("word " * 99)[:LONGEST_EXCERPT] + " ..."


def test_a_private_key_longer_than_what_is_read_is_hidden():
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "aB3/" * 900 + "\n-----END RSA PRIVATE KEY-----"
    assert excerpt(f"mine: {key}").startswith("mine: --************")
    assert "aB3/" not in excerpt(f"mine: {key}")
