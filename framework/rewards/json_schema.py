"""An answer and a JSON schema -> whether it is JSON of that shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.extras import missing_extra
from framework.core.problems import Problem, UserError
from framework.core.rollouts import Answer, Scorer
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class JsonSchema:
    """1 for an answer that is JSON of the schema, alone or in a code fence; 0 for any other."""

    schema: dict[str, Any] = field(default_factory=dict)
    """The JSON Schema (draft 2020-12 unless its `$schema` says otherwise), written here."""
    path: str | None = setting(None, path=True)
    """A file that holds it, instead."""
    any_json: float = setting(0.0, at_least=0, at_most=1)
    """What an answer gets that is JSON, but not of the schema."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """There must be one schema, and it must be one."""
        yield from missing_extra("jsonschema", "rewards", key=".type")
        if bool(self.schema) == (self.path is not None):
            yield Problem(
                key=".schema",
                what="is written here and in a file" if self.schema else "is missing",
                hint="write schema: {type: object, required: [name]}, or path: schema.json",
            )
            return
        try:
            schema = self._schema()
        except UserError as error:
            yield from error.problems
            return
        if not list(missing_extra("jsonschema", "rewards", key=".type")):
            yield from _schema_problems(schema)

    def needs_columns(self) -> Sequence[str]:
        """None."""
        return ()

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        from jsonschema.validators import validator_for
        from referencing import Registry

        schema = self._schema()
        # Without a registry of its own, the validator would fetch what `$ref` names.
        validator = validator_for(schema)(schema, registry=Registry())
        return lambda answers: [self._score(answer, validator) for answer in answers]

    def _score(self, answer: Answer, validator: Any) -> float:
        fenced = _FENCE.match(answer.text)
        try:
            value = json.loads(fenced[1] if fenced else answer.text, parse_constant=_refuse)
            return 1.0 if validator.is_valid(value) else self.any_json
        except (ValueError, RecursionError):
            return 0.0

    def _schema(self) -> Mapping[str, Any]:
        if self.path is None:
            return self.schema
        try:
            return json.loads(Path(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            what = f"{self.path!r} can't be read as JSON: {error}"
            raise UserError(Problem(key=".path", what=what)) from error


def _schema_problems(schema: Any) -> Iterable[Problem]:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        chosen = validator_for(schema)
        chosen.check_schema(schema)
        chosen(schema, registry=Registry()).is_valid(None)
    except SchemaError as error:
        yield Problem(key=".schema", what=f"is no JSON Schema: {error.message}")
    except Unresolvable as error:
        yield Problem(
            key=".schema",
            what=f"refers to {error.ref!r}, which is not in it",
            hint="write what it refers to under `$defs`; nothing is fetched",
        )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
