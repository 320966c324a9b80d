"""Numbers are short and exact enough to read."""

from __future__ import annotations

import pytest

from framework.reports import quantities


@pytest.mark.parametrize(
    ("name", "number", "text"),
    [
        ("count_text", 1234567, "1,234,567"),
        ("short_count", 0, "0"),
        ("short_count", 12.34, "12.3"),
        ("short_count", 1234.4, "1,234"),
        ("short_count", 12345, "12.3 k"),
        ("short_count", 134_515_008, "134.5 M"),
        ("short_count", 7e9, "7.0 B"),
        ("share_text", 0.225, "22.5 %"),
        ("bytes_text", 512, "512 bytes"),
        ("bytes_text", 1536, "1.5 KiB"),
        ("bytes_text", 3 * 2**50, "3072.0 TiB"),
        ("gibibytes_text", 2**31 + 2**29, "2.5 GiB"),
        ("rate_text", 0.00015, "1.5e-4"),
        ("rate_text", 0, "0"),
        ("rate_text", 1.0, "1e0"),
        ("duration_text", 0.84, "0.8 s"),
        ("duration_text", 59.4, "59 s"),
        ("duration_text", 59.9, "1 min 00 s"),
        ("duration_text", 3599.9, "1 h 00 min"),
        ("duration_text", 18240, "5 h 04 min"),
        ("duration_text", 183_600, "2 d 03 h"),
        ("loss_text", 0, "0"),
        ("loss_text", 1.23456, "1.235"),
        ("loss_text", 0.00001234, "1.2e-05"),
    ],
)
def test_numbers_become_short_text(name: str, number: float, text: str) -> None:
    assert getattr(quantities, name)(number) == text
