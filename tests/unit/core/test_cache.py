"""The cache directory follows the environment."""

from __future__ import annotations

from pathlib import Path

from framework.core.cache import cache_directory


def test_the_cache_is_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "framework"


def test_without_xdg_it_is_in_the_home_directory(monkeypatch):
    for value in ("", " "):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_directory() == Path.home() / ".cache" / "framework"
