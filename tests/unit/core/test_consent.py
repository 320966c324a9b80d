"""Rows and keys go only where the user allowed it; addresses that look alike are others."""

from __future__ import annotations

import os

import pytest

from framework.core import consent
from framework.core.problems import Refused


@pytest.fixture(autouse=True)
def no_consent(monkeypatch):
    monkeypatch.delenv(consent.URLS, raising=False)
    monkeypatch.delenv(consent.VARIABLES, raising=False)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:1/v1"]
)
def test_this_machine_needs_no_consent(url):
    consent.refuse_unless_allowed(url, None)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1.example.com/v1", "http://localhost.example.com", "http://10.0.0.1/v1"],
)
def test_another_machine_needs_consent_and_the_line_to_write_is_named(url):
    with pytest.raises(Refused) as caught:
        consent.refuse_unless_allowed(url, None)
    assert caught.value.exit_code == 3
    assert f"--allow-url {url}" in str(caught.value)
    with consent.granted([url], []):
        consent.refuse_unless_allowed(url, None)
    with pytest.raises(Refused):
        consent.refuse_unless_allowed(url, None)


@pytest.mark.parametrize(
    "allowed",
    [
        "https://api.example.com",
        "https://api.example.com/",
        "https://api.example.com:443/v1",
        "https://api.example.com/v1",
    ],
)
def test_an_allowed_address_allows_what_lies_under_it(allowed):
    with consent.granted([allowed], []):
        consent.refuse_unless_allowed("https://api.example.com/v1", None)


@pytest.mark.parametrize(
    "allowed",
    [
        "http://api.example.com/v1",
        "https://api.example.com:8443/v1",
        "https://api.example.com/v",
        "https://api.example.com/v1/models",
        "https://example.com",
        "https://api.example.com:x/v1",
        "https://me@api.example.com/v1",
        "api.example.com",
        "https://",
    ],
)
def test_another_scheme_port_host_or_path_is_not_allowed_by_it(allowed):
    with consent.granted([allowed], []), pytest.raises(Refused):
        consent.refuse_unless_allowed("https://api.example.com/v1", None)


def test_the_key_of_a_variable_needs_its_own_consent_even_on_this_machine():
    with pytest.raises(Refused, match=r"value of SECRET .*--allow-env SECRET"):
        consent.refuse_unless_allowed("http://127.0.0.1/v1", "SECRET")
    with consent.granted([], ["SECRET"]):
        consent.refuse_unless_allowed("http://127.0.0.1/v1", "SECRET")
        with pytest.raises(Refused):
            consent.refuse_unless_allowed("http://127.0.0.1/v1", "OTHER")


def test_consent_ends_with_its_context_and_adds_to_what_the_environment_has(monkeypatch):
    monkeypatch.setenv(consent.URLS, "https://a.example")
    with consent.granted(["https://b.example"], []):
        assert os.environ[consent.URLS] == "https://a.example https://b.example"
        consent.refuse_unless_allowed("https://a.example/v1", None)
        consent.refuse_unless_allowed("https://b.example/v1", None)
    assert os.environ[consent.URLS] == "https://a.example"
    assert consent.VARIABLES not in os.environ
