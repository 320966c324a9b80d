"""Prepared data -> everything that `framework data stats` says about it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framework.chat.template import template_origin
from framework.data.counts import Counts
from framework.data.preview import DataNumbers, data_numbers, found_formats
from framework.data.store import Store
from framework.reports.data_copies import Copies, Missing, exact_copies, near_copies
from framework.reports.data_excerpts import Excerpt, excerpt
from framework.reports.data_languages import Languages, languages
from framework.reports.data_numbers import (
    Distribution,
    compressed_ratios,
    distributions,
    sample_numbers,
)
from framework.reports.quantities import share_text

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder

MOST_READ_SAMPLES = 2000
"""Samples whose language is looked for."""
MOST_COMPRESSED_SAMPLES = 100_000
"""Samples among which the most repetitive ones are looked for."""
NUM_WORST = 5
"""Samples shown of each kind."""


@dataclass(frozen=True, kw_only=True)
class DatasetNumbers:
    """What one dataset of the part has become."""

    counts: Counts
    trained_share: float
    """Its trained tokens per token."""
    share_of_trained: float
    """Its trained tokens, of those of all datasets."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """What conversations were rendered with."""

    name: str
    """As the recipe writes it, or whose it is."""
    sha256: str
    """Of its text; empty without a template."""
    stop_tokens: tuple[str, ...]
    """Where a server stops."""


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The samples at one end of a scale."""

    title: str
    num_compared: int
    """Samples among which they are the worst."""
    samples: tuple[Excerpt, ...]


@dataclass(frozen=True, kw_only=True)
class DataStatistics:
    """Everything about one part of the data."""

    seed: int
    first_rows: int | None
    """With `data.streaming`: that many rows of each dataset are looked at; None: all are."""
    numbers: DataNumbers
    datasets: tuple[DatasetNumbers, ...]
    found_formats: tuple[str, ...]
    """Which format was found for each dataset whose recipe names none, and why."""
    sources: Mapping[str, Mapping[str, int]]
    """Dataset -> what its source counted, where that counts."""
    tokenizer: Mapping[str, Any]
    """Which backend was `asked` for, which was `used`, and the `difference` if they are two."""
    cleaners: tuple[dict[str, Any], ...]
    """What each cleaner found: `cleaner`, `file`, `num_change`, `num_drop`, `num_report` ..."""
    template: Template
    distributions: tuple[Distribution, ...]
    exact_copies: Copies
    near_copies: Copies | Missing
    languages: Languages | Missing
    random: tuple[Excerpt, ...]
    worst: tuple[Worst, ...]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints; these keys stay.

        - `seed`, and `first_rows`: null, or how many rows of each streamed dataset are looked at
        - `numbers`: as `framework preview --json`
        - `datasets`: for each `name`, `num_rows`, `num_samples`, `num_tokens`,
          `num_trained_tokens`, `trained_share`, `share_of_trained`, the other numbers and the
          lists of rows of `details.json`
        - `found_formats`: a line for each dataset whose format was found and not named
        - `sources`: what sources that count have counted, for each dataset
        - `tokenizer`: the backends `asked` for and `used`, and their `difference`
        - `cleaners`: for each `cleaner`, `file` and the number of its findings of each kind
        - `template`: `name`, `sha256`, `stop_tokens`
        - `distributions`: `length`, `trained_tokens`, `trained_turns` and `trained_share` (in
          percent), each with `unit`, `of`, `summary` and `histogram`
        - `exact_copies`, `near_copies`: `threshold`, `num_compared`, `num_copies`, `num_groups`,
          `num_trained_tokens` and the `largest` groups (`size`, `identifiers`)
        - `languages`: `num_samples` and, in `found`, `code`, `num_samples`, `identifiers`
        - `random`: excerpts with `id`, `num_tokens`, `num_trained_tokens`, `num_documents`, `why`,
          `text`
        - `worst`: `longest`, `most_repetitive` and `smallest_trained_share`, each with
          `num_compared` and `samples`, which are excerpts

        `near_copies` and `languages` are `{"package", "extra"}` where the package is missing.
        """
        plain = dataclasses.asdict(self)
        plain["numbers"]["trained_share"] = self.numbers.trained_share
        plain["datasets"] = [{**one.pop("counts"), **one} for one in plain["datasets"]]
        plain["distributions"] = {one.pop("name"): one for one in plain["distributions"]}
        plain["random"] = [_excerpt_json(one) for one in self.random]
        plain["worst"] = {
            one.title.replace(" ", "_"): {
                "num_compared": one.num_compared,
                "samples": [_excerpt_json(sample) for sample in one.samples],
            }
            for one in self.worst
        }
        return plain


def data_statistics(
    store: Store,
    chat: ChatEncoder,
    template_name: str | None,
    *,
    first_rows: int | None = None,
    num_samples: int,
    seed: int,
) -> DataStatistics:
    """Everything that is to be said about a part of the data.

    Args:
        template_name: as the recipe writes it; None for the tokenizer's own.
        first_rows: how many rows of each dataset the store holds at most; None for all.
        num_samples: how many random samples are shown.
        seed: draws them, and those that are looked at where not all can be.
    """
    numbers = sample_numbers(store)
    random = np.random.default_rng(seed)
    shown = _drawn(random, store.num_samples, num_samples)
    return DataStatistics(
        seed=seed,
        first_rows=first_rows,
        numbers=data_numbers(store),
        datasets=_datasets(store),
        found_formats=tuple(found_formats(store)),
        sources=store.details["sources"],
        tokenizer=store.details["tokenizer"],
        cleaners=tuple(store.details["cleaners"]),
        template=_template(chat, template_name),
        distributions=distributions(store, numbers),
        exact_copies=exact_copies(store, numbers),
        near_copies=near_copies(store, numbers, seed),
        languages=languages(
            store, chat.vocabulary, _drawn(random, store.num_samples, MOST_READ_SAMPLES)
        ),
        random=tuple(excerpt(store, chat.vocabulary, int(sample)) for sample in shown),
        worst=(
            _longest(store, chat, numbers.lengths),
            _most_repetitive(
                store, chat, _drawn(random, store.num_samples, MOST_COMPRESSED_SAMPLES)
            ),
            _least_trained(store, chat, numbers.trained_shares),
        ),
    )


def _drawn(random: np.random.Generator, count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below `count`, in rising order."""
    if count <= most:
        return np.arange(count)
    return np.sort(random.choice(count, most, replace=False))


def _datasets(store: Store) -> tuple[DatasetNumbers, ...]:
    counted = [Counts(**one) for one in store.details["datasets"]]
    total = sum(one.num_trained_tokens for one in counted)
    return tuple(
        DatasetNumbers(
            counts=one,
            trained_share=one.num_trained_tokens / max(one.num_tokens, 1),
            share_of_trained=one.num_trained_tokens / max(total, 1),
        )
        for one in counted
    )


def _template(chat: ChatEncoder, written: str | None) -> Template:
    stop_tokens = tuple(chat.vocabulary.text_of(token) for token in sorted(chat.stop_token_ids))
    if chat.template is None:
        return Template(name="none", sha256="", stop_tokens=stop_tokens)
    text = chat.template.text + chat.template.text_with_tools
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Template(name=template_origin(written), sha256=digest, stop_tokens=stop_tokens)


# ---- the worst samples


def _longest(store: Store, chat: ChatEncoder, lengths: NDArray[np.int64]) -> Worst:
    return _worst("longest", store, chat, np.arange(len(lengths)), -lengths, lambda _: "")


def _most_repetitive(store: Store, chat: ChatEncoder, samples: NDArray[np.int64]) -> Worst:
    ratios = compressed_ratios(store, samples)
    return _worst(
        "most repetitive",
        store,
        chat,
        samples,
        ratios,
        lambda at: f"zlib packs it to {share_text(float(ratios[at]))}",
    )


def _least_trained(store: Store, chat: ChatEncoder, shares: NDArray[np.float64]) -> Worst:
    return _worst(
        "smallest trained share",
        store,
        chat,
        np.arange(len(shares)),
        shares,
        lambda at: f"{share_text(float(shares[at]))} trained",
    )


def _worst(
    title: str,
    store: Store,
    chat: ChatEncoder,
    samples: NDArray[np.int64],
    scale: NDArray[Any],
    why: Callable[[int], str],
) -> Worst:
    """The samples of the smallest values; of equal ones, the first."""
    order = np.argsort(scale, kind="stable")[:NUM_WORST].tolist()
    return Worst(
        title=title,
        num_compared=len(samples),
        samples=tuple(excerpt(store, chat.vocabulary, int(samples[at]), why(at)) for at in order),
    )


def _excerpt_json(one: Excerpt) -> dict[str, Any]:
    return {
        "id": one.identifier,
        "num_tokens": one.num_tokens,
        "num_trained_tokens": one.num_trained_tokens,
        "num_documents": one.num_documents,
        "why": one.why,
        "text": one.text,
    }
