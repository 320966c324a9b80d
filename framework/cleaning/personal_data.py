"""Text -> where addresses, numbers and keys stand in it, by presidio's patterns and our own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.cleaning.secrets import SECRETS, may_hold_secrets

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Match:
    """One item of personal data in a text."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, kw_only=True)
class _Search:
    """A recogniser, and where in a text it is worth asking."""

    entity: str
    recognizer: EntityRecognizer
    sign: re.Pattern[str]
    """What every item holds."""
    before: int
    after: int
    """Characters around the sign that an item can reach; so that the time is linear."""
    is_plausible: Callable[[str, int, int], bool]
    """Whether the text between two places, and around them, is what it looks like."""

    def __call__(self, text: str) -> Iterator[Match]:
        for begin, end in self._windows(text):
            window = text[begin:end]
            for found in self.recognizer.analyze(window, [self.entity], None):  # pyright: ignore[reportArgumentType]
                first, last = begin + found.start, begin + found.end
                if text[first] == "(" and ")" not in text[first:last]:
                    first += 1  # the sentence's, not the number's
                if self._is_whole(text, first, last, begin, end):
                    yield Match(start=first, end=last, entity=self.entity)

    def _windows(self, text: str) -> Iterator[tuple[int, int]]:
        begin, end = -1, -1
        for match in self.sign.finditer(text):
            first = max(0, match.start() - self.before)
            if end >= first and begin >= 0:
                end = match.end() + self.after
                continue
            if begin >= 0:
                yield begin, min(end, len(text))
            begin, end = first, match.end() + self.after
        if begin >= 0:
            yield begin, min(end, len(text))

    def _is_whole(self, text: str, first: int, last: int, begin: int, end: int) -> bool:
        """Not cut off by the window's edge, and plausible."""
        if first == begin > 0 and text[first - 1].isalnum():
            return False
        if last == end < len(text) and text[last].isalnum():
            return False
        return self.is_plausible(text, first, last)


class Detector:
    """Finds the personal data of some kinds; uses no model and no network."""

    def __init__(self, entities: Sequence[str], phone_regions: Sequence[str]) -> None:
        wanted = set(entities)
        self._secrets = {name: SECRETS[name] for name in SECRETS if name in wanted}
        searches = _searches(phone_regions) if wanted - set(SECRETS) else ()
        self._searches = [one for one in searches if one.entity in wanted]

    def __call__(self, text: str) -> list[Match]:
        """What is found, in order, no two of them overlapping."""
        found: list[Match] = []
        if self._secrets and may_hold_secrets(text):
            found += _secrets(text, self._secrets)
        for search in self._searches:
            if search.sign.search(text) is not None:
                found += search(text)
        if len(found) < 2:
            return found
        # Of overlapping ones the first searched counts: keys, then what has a checksum.
        kept: list[Match] = []
        for one in found:
            if all(one.end <= other.start or one.start >= other.end for other in kept):
                kept.append(one)
        return sorted(kept)


def _secrets(text: str, patterns: Mapping[str, re.Pattern[str]]) -> Iterator[Match]:
    for name, pattern in patterns.items():
        for match in pattern.finditer(text):
            # A pattern with a group finds the secret by what stands around it.
            start, end = match.span(1 if pattern.groups else 0)
            yield Match(start=start, end=end, entity=name)


def _searches(phone_regions: Sequence[str]) -> tuple[_Search, ...]:
    """Presidio's recognisers in the order in which they are believed."""
    from presidio_analyzer import Pattern
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
    )

    return (
        _Search(
            entity="IBAN_CODE",
            recognizer=IbanRecognizer(),
            sign=re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}[ -]?[A-Za-z0-9]{4}"),
            before=1,
            after=40,
            is_plausible=_always,
        ),
        _Search(
            entity="CREDIT_CARD",
            recognizer=CreditCardRecognizer(patterns=[Pattern("issuers", _CARD, 0.5)]),
            sign=re.compile(r"(?<!\d)[2-6](?:[ -]?\d){11}"),
            before=2,
            after=12,
            is_plausible=_is_card,
        ),
        _Search(
            entity="EMAIL_ADDRESS",
            recognizer=_email_recognizer(),
            sign=re.compile(r"@\w"),
            before=66,
            after=255,
            is_plausible=_is_email,
        ),
        _Search(
            entity="IP_ADDRESS",
            recognizer=IpRecognizer(),
            sign=re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|:[0-9A-Fa-f]{0,4}:"),
            before=45,
            after=45,
            is_plausible=_is_ip,
        ),
        _Search(
            entity="PHONE_NUMBER",
            recognizer=PhoneRecognizer(supported_regions=tuple(phone_regions)),
            sign=re.compile(r"[+(]{0,2}\d(?:[ ().\-/\u00a0\u2011]{0,3}\d){6,16}"),
            before=2,
            after=2,
            is_plausible=_is_phone,
        ),
    )


def _email_recognizer() -> EntityRecognizer:
    import tldextract
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    # Presidio's own asks the network for the list of domains; the one in the package will do.
    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        """An address whose domain ends in a known suffix."""

        def validate_result(self, pattern_text: str) -> bool:
            return extract(pattern_text.rpartition("@")[2]).fqdn != ""

    return OfflineEmailRecognizer()


# ---- what presidio's patterns let through


def _always(text: str, start: int, end: int) -> bool:
    return True


_CARD = (
    r"(?<![\w.-])(?:"
    r"4\d{3}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"
    r"|3[47]\d{2}[ -]?\d{6}[ -]?\d{5}"
    r"|3(?:0[0-5]|[68]\d)\d[ -]?\d{6}[ -]?\d{4}"
    r"|(?:6011|64[4-9]\d|65\d{2}|62\d{2}|352[89]|35[3-8]\d)[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"
    r")(?![\w-])"
)
"""The beginnings and lengths that card issuers use; the checksum is presidio's."""
_ORDER = re.compile(
    r"\b(?:order|invoice|tracking|ticket|serial|reference|ref|sku|part|parcel|shipment|article"
    r"|model|isbn|issn|doi|id|uuid|build|commit|hash)\b[^\n]{0,16}$",
    re.IGNORECASE,
)
"""What says that a number is the number of something else."""
_VERSION = re.compile(
    r"(?:\b(?:versions?|ver|v|release|rel|build|firmware|driver|kernel|rev|revision|section|chapter"
    r"|clause|paragraph|upgraded? to)\b[^\n]{0,24}|(?:[<>~^]=?|==)\s{0,2}|[\w§]-?)$",
    re.IGNORECASE,
)
_CALL = re.compile(
    r"(?:\b(?:phone|telephone|tel|telefon|mobile|cell|call|fax|whatsapp|ring|dial|text|sms|contact"
    r"|reach|handy|number is)\b|[\u260e\U0001f4de\U0001f4f1])[^\n]{0,24}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{1,4}(?:[ T]\d{0,2})?")
_GROUPED = re.compile(
    r"\(?\d{3}\)?[ .-]{1,2}\d{3}[ .-]\d{4}"  # 212-555-0199, as North America writes it
    r"|\(?0\d{1,5}\)?(?:[ /.-]{1,2}\d{2,8}){1,5}"  # 030 901820, with the prefix of other countries
)


def _before(text: str, start: int) -> str:
    return text[max(0, start - 40) : start]


def _is_card(text: str, start: int, end: int) -> bool:
    return _ORDER.search(_before(text, start)) is None


def _is_email(text: str, start: int, end: int) -> bool:
    # `git@host:path` names a repository.
    return not (text.startswith("git@", start) and text[end : end + 1] in {":", "/"})


def _is_ip(text: str, start: int, end: int) -> bool:
    written = text[start:end]
    address = ipaddress.ip_interface(written.partition("%")[0]).ip
    if address.is_loopback or address.is_unspecified:
        return False
    if address.version == 4:
        return _VERSION.search(_before(text, start)) is None
    # `dec::add` is code.
    return any(character.isdigit() for character in written) and written.count(":") > 2


def _is_phone(text: str, start: int, end: int) -> bool:
    written, before = text[start:end], _before(text, start)
    if _DATE.fullmatch(written) or _ORDER.search(before):
        return False
    if text[start - 1 : start] in {".", "-", "/", "_", "$", "€", "£", "#", "=", ":"} and start:
        return text[start - 4 : start] == "tel:"
    if text[end : end + 1] in {"-", "_", "%", "/"}:
        return False
    if written.startswith(("+", "(+", "00")) or _CALL.search(before):
        return True
    return _GROUPED.fullmatch(written) is not None
