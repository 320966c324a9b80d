"""Recipe -> what is wrong with its chat template, for probe conversations and its own rows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from framework.chat.encoder import ChatEncoder
from framework.chat.lazy_chat import LazyChat
from framework.chat.template import template_origin, template_variables
from framework.chat.tokens import Rendered, Vocabulary
from framework.core.problems import Problem
from framework.core.samples import Classified, Conversation, RowError, Sample, Scored
from framework.lint import template_rules as rules
from framework.lint.template_case import Case, Fault, Place
from framework.lint.template_probes import PROBES, Probe, parts_of
from framework.lint.template_whole import default_system_faults, template_faults
from framework.reading.rows import BadRow, read_samples

if TYPE_CHECKING:
    from framework.recipe.schema import Data, Dataset, Recipe

Severity = Literal["problem", "note"]

MOST_ROWS = 3
"""Rows that are shown of each rule; the rest are counted."""
WINDOW = 5
"""Tokens that are shown before and after a place."""
_ONLY_WHOLE = frozenset({"earlier_turn_changes", "thinking_stripped", "tokens_merge"})
"""Rules that `data.turns: last` and `each` make harmless."""


@dataclass(frozen=True, kw_only=True)
class ShownToken:
    """A token as a rendering has it."""

    id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or good to know, about a template."""

    rule: str
    """A key of `RULES`."""
    severity: Severity
    where: str
    """`probe: NAME`, `FILE:LINE`, or `recipe`."""
    what: str
    hint: str = ""
    tokens: tuple[ShownToken, ...] = ()
    """Around the place, as they are trained."""
    served_tokens: tuple[ShownToken, ...] = ()
    """Around the place, as a server has them; empty where nothing is compared."""
    num_more: int = 0
    """Further rows or probes with a finding of this rule."""


@dataclass(frozen=True, kw_only=True)
class TemplateReport:
    """What the lint has seen and found."""

    template: str
    """The name, file or origin of the template."""
    findings: tuple[Finding, ...]
    num_rows: int
    """Rows of the recipe's datasets that were looked at and hold conversations."""
    num_probes: int
    refused: tuple[str, ...]
    """Probes that the template refuses aloud, as it may: it has no place for such things."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are problems."""
        return tuple(one for one in self.findings if one.severity == "problem")


def lint_recipe(recipe: Recipe, num_rows: int) -> TemplateReport:
    """Lints the recipe's template over the probes and the first rows of each of its datasets.

    Raises:
        UserError: model or data can't be read, or there is no template.
    """
    chat = LazyChat(recipe, recipe.model.source.fetch()).unchecked_chat
    datasets = (*recipe.data.train, *recipe.data.eval, *recipe.data.test)
    rows = itertools.chain.from_iterable(_rows(one, recipe.data, num_rows) for one in datasets)
    severity: Severity = "problem" if recipe.data.on_bad_row == "error" else "note"
    written = recipe.tokenizer.chat_template
    return lint_template(
        chat,
        rows,
        name=template_origin(written),
        own_template=written is None,
        bad_row_severity=severity,
    )


@dataclass(frozen=True, kw_only=True)
class LintedRow:
    """A row's conversation, or why there is none."""

    place: Callable[[], str]
    """`FILE:LINE`; looking it up may read the file again."""
    conversation: Conversation | RowError


def lint_template(
    chat: ChatEncoder,
    rows: Iterable[LintedRow] | None = None,
    *,
    name: str = "",
    own_template: bool = False,
    bad_row_severity: Severity = "problem",
) -> TemplateReport:
    """Lints the encoder's template over the probes and the rows.

    A finding about a probe is a problem only where the rows have the probe's parts (further
    turns, a system message, thinking, tools); without any `rows` at all it always is.

    Raises:
        UserError: there is no template.
    """
    _ = chat.stops
    assert chat.template is not None, "stops demand a template"
    make = _Lint(chat, own_template, bad_row_severity)
    if rows is not None:
        for row in rows:
            make.row(row)
        if not make.num_rows:
            make.nothing_to_render()
    from_rows, make.findings = make.findings, []
    for probe in PROBES:
        make.probe(probe, None if rows is None else make.parts)
    make.arguments()
    return TemplateReport(
        template=name,
        findings=(*_one_of_each(make.findings), *_first_of_each(from_rows)),
        num_rows=make.num_rows,
        num_probes=len(PROBES),
        refused=tuple(make.refused),
    )


def _rows(dataset: Dataset, data: Data, num_rows: int) -> Iterator[LintedRow]:
    for result in itertools.islice(read_samples(dataset, "", data), num_rows):
        place = functools.partial(_place, dataset, result.row)
        if isinstance(result, BadRow):
            error = result.error
            if isinstance(error, Problem):
                error = RowError(error.what, error.hint)
            yield LintedRow(place=place, conversation=error)
            continue
        for conversation in _conversations(result.sample):
            yield LintedRow(place=place, conversation=conversation)


def _place(dataset: Dataset, row: int) -> str:
    file, line = dataset.source.place(row)
    return f"{file}:{line}" if line else f"{file}: row {row}"


def _conversations(sample: Sample) -> Iterator[Conversation]:
    """The sample itself, or the conversation that is classified or scored."""
    content = sample.content if isinstance(sample, Classified | Scored) else sample
    if isinstance(content, Conversation):
        yield content


class _Lint:
    """One pass; holds what was found."""

    def __init__(self, chat: ChatEncoder, own_template: bool, bad_row: Severity) -> None:
        assert chat.template is not None
        self.chat = chat
        self.template = chat.template
        self.own_template = own_template
        self.bad_row: Severity = bad_row
        self.findings: list[Finding] = []
        self.refused: list[str] = []
        self.parts: frozenset[str] = frozenset()
        self.num_rows = 0
        self.num_of_rule: dict[str, int] = {}

    def _case(self, conversation: Conversation) -> Case:
        return Case(
            conversation=conversation,
            chat=self.chat,
            template=self.template,
            own_template=self.own_template,
        )

    # ---- rows

    def row(self, row: LintedRow) -> None:
        if isinstance(row.conversation, RowError):
            fault = Fault(rule="bad_row", what=row.conversation.what, hint=row.conversation.hint)
            self._row_finding(row, fault, self.bad_row)
            return
        self.num_rows += 1
        self.parts |= parts_of(row.conversation)
        for fault in self._row_faults(self._case(row.conversation)):
            self._row_finding(row, fault, self._severity(fault.rule))

    def _row_faults(self, case: Case) -> Iterator[Fault]:
        refused = case.refusal()
        if refused is not None:
            yield Fault(rule="refused", what=refused.what, hint=refused.hint)
            return
        found = list(rules.content_faults(case))
        unproven = list(rules.mask_faults(case, probe=False))
        if unproven:
            reasons = [*rules.conversation_faults(case), *rules.dropped_row_faults(case)]
            found += [one for one in reasons if self._severity(one.rule) == "problem"]
        explained = any(self._severity(one.rule) == "problem" for one in found)
        yield from found if explained else [*found, *unproven]

    def _row_finding(self, row: LintedRow, fault: Fault, severity: Severity) -> None:
        number = self.num_of_rule.get(fault.rule, 0)
        self.num_of_rule[fault.rule] = number + 1
        shown = number < MOST_ROWS
        place = row.place() if shown else ""
        self.findings.append(self._finding(fault if shown else _bare(fault), place, severity))

    # ---- probes

    def probe(self, probe: Probe, parts: frozenset[str] | None) -> None:
        """Lints one probe; `parts` are those that the rows have, None when there are none."""
        case = self._case(probe.conversation)
        used = parts is None or probe.parts <= parts
        refused = case.refusal()
        if refused is not None:
            if probe.refusable and refused.what.startswith("the chat template refuses"):
                self.refused.append(probe.name)
            else:
                fault = Fault(rule="refused", what=refused.what, hint=refused.hint)
                self._probe_finding(probe, fault, used)
            return
        found = [*template_faults(case), *rules.content_faults(case)]
        found += [*rules.conversation_faults(case), *rules.dropped_faults(case)]
        if probe.name == "two turns":
            found += default_system_faults(case)
        masked = [*rules.mask_faults(case, probe=True)]
        explained = any(one.rule not in rules.NOTES for one in found)
        found += [one for one in masked if one.rule != "unproven" or not explained]
        for fault in found:
            if fault.rule != "content_trimmed" or not case.header.trims:
                self._probe_finding(probe, fault, used)

    def _probe_finding(self, probe: Probe, fault: Fault, used: bool) -> None:
        severity = self._severity(fault.rule) if used else "note"
        self.findings.append(self._finding(fault, f"probe: {probe.name}", severity))

    # ---- the recipe

    def arguments(self) -> None:
        """Arguments that no template text reads do nothing."""
        read = template_variables(self.template)
        for name in self.template.arguments:
            if name not in read:
                fault = Fault(
                    rule="argument_unused",
                    what=f"the template does not read the argument {name!r}",
                    hint="take it out of `tokenizer.template_arguments`, or correct its name",
                )
                self.findings.append(self._finding(fault, "recipe", "problem"))

    def nothing_to_render(self) -> None:
        fault = Fault(
            rule="unused",
            what="no row that was looked at is a conversation; only those are rendered",
            hint="look at more with `--rows`, or take no notice of the rest",
        )
        self.findings.append(self._finding(fault, "recipe", "note"))

    def _severity(self, rule: str) -> Severity:
        harmless = rule in _ONLY_WHOLE and self.chat.turns != "all"
        return "note" if harmless or rule in rules.NOTES else "problem"

    def _finding(self, fault: Fault, where: str, severity: Severity) -> Finding:
        return Finding(
            rule=fault.rule,
            severity=severity,
            where=where,
            what=fault.what,
            hint=fault.hint,
            tokens=_around(fault.trained, self.chat.vocabulary),
            served_tokens=_around(fault.served, self.chat.vocabulary),
        )


def _bare(fault: Fault) -> Fault:
    """For rows that are only counted."""
    return Fault(rule=fault.rule, what=fault.what)


def _around(place: Place | None, vocabulary: Vocabulary) -> tuple[ShownToken, ...]:
    if place is None:
        return ()
    text, character = place
    rendered = Rendered.of(text, vocabulary)
    ends = (end for _, end in rendered.offsets)
    middle = next((at for at, end in enumerate(ends) if end > character), len(rendered.tokens))
    shown = range(max(middle - WINDOW, 0), min(middle + WINDOW + 1, len(rendered.tokens)))
    return tuple(
        ShownToken(id=rendered.tokens[at], text=text[slice(*rendered.offsets[at])]) for at in shown
    )


def _one_of_each(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The gravest finding of each rule, with the number of the others."""
    for rule in dict.fromkeys(one.rule for one in findings):
        alike = [one for one in findings if one.rule == rule]
        first = min(alike, key=lambda one: one.severity != "problem")
        yield replace(first, num_more=len(alike) - 1)


def _first_of_each(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The first findings of each rule, the last of them with the number of the others."""
    for rule in dict.fromkeys(one.rule for one in findings):
        alike = [one for one in findings if one.rule == rule]
        shown = alike[:MOST_ROWS]
        yield from shown[:-1]
        yield replace(shown[-1], num_more=len(alike) - len(shown))
