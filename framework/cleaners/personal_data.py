"""Addresses, phone numbers, account numbers and keys -> placeholders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.cleaning.masking import mask
from framework.cleaning.personal_data import Detector, Match
from framework.cleaning.sample_texts import Text, with_texts
from framework.core.cleaning import Excerpt, Finding
from framework.core.extras import missing_extra
from framework.core.problems import Problem, did_you_mean
from framework.core.samples import NumberedSample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

Entity = Literal[
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "IP_ADDRESS",
    "CREDIT_CARD",
    "IBAN_CODE",
    "PRIVATE_KEY",
    "URL_CREDENTIALS",
    "JWT",
    "MODEL_API_KEY",
    "AWS_KEY",
    "AWS_SECRET",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "SLACK_TOKEN",
    "GOOGLE_KEY",
    "HUGGING_FACE_TOKEN",
    "STRIPE_KEY",
    "NPM_TOKEN",
    "PYPI_TOKEN",
    "SENDGRID_KEY",
]
ENTITIES: tuple[Entity, ...] = Entity.__args__  # pyright: ignore[reportAttributeAccessIssue]
_CONTEXT = 20
"""Characters around an item that are listed with it."""


@dataclass(frozen=True, kw_only=True)
class PersonalData:
    """E-mail addresses, phone numbers, IP addresses, cards, IBANs, keys and tokens.

    Presidio's patterns and checksums, and patterns of our own for keys; no language model, no
    network. Names and postal addresses of persons are not looked for.
    """

    entities: tuple[Entity, ...] = setting(ENTITIES, not_empty=True)
    """What is looked for. An `IP_ADDRESS` is none that means the machine itself, such as 127.0.0.1;
    `URL_CREDENTIALS` are the `user:password` of an address."""
    phone_regions: tuple[str, ...] = setting(("US", "GB", "DE", "FR", "IN"), not_empty=True)
    """Countries whose numbers are found without their international prefix, as two letters."""
    action: Literal["redact", "drop", "report"] = "redact"
    """`redact` writes the kind in the item's place, such as `<EMAIL_ADDRESS>`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its packages must be there, and know the regions."""
        missing = missing_extra("presidio_analyzer", "cleaning", key=".type")
        yield from missing
        if missing:
            return
        from phonenumbers import SUPPORTED_REGIONS

        for region in self.phone_regions:
            if region not in SUPPORTED_REGIONS:
                hint = did_you_mean(region.upper(), SUPPORTED_REGIONS)
                yield Problem(key=".phone_regions", what=f"{region!r} is no region", hint=hint)

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        detect = Detector(self.entities, self.phone_regions)

        def find(numbered: NumberedSample) -> Finding | None:
            excerpts: list[Excerpt] = []
            found: Counter[str] = Counter()

            def redact(one: Text) -> str:
                matches = detect(one.text)
                if not matches:
                    return one.text
                found.update(match.entity for match in matches)
                excerpts.extend(_excerpts(one, matches))
                return _replaced(one.text, [f"<{match.entity}>" for match in matches], matches)

            sample = with_texts(numbered.sample, redact)
            if not excerpts:
                return None
            return Finding(
                action="change" if self.action == "redact" else self.action,
                reason=", ".join(f"{count} x {entity}" for entity, count in found.items()),
                excerpts=tuple(excerpts),
                sample=sample,
            )

        return find


def _replaced(text: str, by: Sequence[str], matches: Sequence[Match]) -> str:
    parts: list[str] = []
    end = 0
    for match, replacement in zip(matches, by, strict=True):
        parts += [text[end : match.start], replacement]
        end = match.end
    return "".join([*parts, text[end:]])


def _excerpts(one: Text, matches: Sequence[Match]) -> Iterator[Excerpt]:
    """Each item by itself, masked, so that a list of findings is no list of secrets."""
    ends = [0, *(match.end for match in matches)]
    starts = [*(match.start for match in matches), len(one.text)]
    for at, match in enumerate(matches):
        before = one.text[max(ends[at], match.start - _CONTEXT) : match.start]
        after = one.text[match.end : min(starts[at + 1], match.end + _CONTEXT)]
        hidden = mask(one.text[match.start : match.end])
        yield Excerpt(
            where=one.where,
            before=f"{before}{hidden}{after}",
            after=f"{before}<{match.entity}>{after}",
        )
