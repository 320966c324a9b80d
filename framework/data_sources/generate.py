"""Rows that serve as seeds -> rows that a model makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.cache import cached_folder
from framework.core.problems import Problem, UserError
from framework.core.protocols import data as data_kinds
from framework.core.samples import Row, RowError
from framework.core.settings import setting, slot
from framework.data.cache_key import code_fingerprint
from framework.endpoints.chat_client import ChatClient, Unanswered
from framework.endpoints.endpoint import Endpoint
from framework.endpoints.questions import render, row_template_problems
from framework.reading.strict_json import BrokenJson, kind_of, parse_json

if TYPE_CHECKING:
    from framework.endpoints.answers import Answer
    from framework.recipe.schema import Recipe

_ROWS, _INVALID, _TALLY = "rows.jsonl", "invalid.jsonl", "tally.json"


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Lets a model make rows of seeds, and keeps them; what is no row is counted and listed."""

    endpoint: Endpoint
    """The server that is asked."""
    seeds: data_kinds.DataSource = slot("data_sources", locator=True)
    """Where the seeds come from: a file, a Hub dataset, or a component."""
    prompt: str = setting(not_empty=True)
    """What is asked about each seed, in Jinja with the seed's columns as variables."""
    num_per_seed: int = setting(1, at_least=1)
    """Rows of each seed, each asked for with another `seed` of the endpoint."""
    into: str | None = setting(None, not_empty=True)
    """Column that takes the answer as text. None: the answer is a JSON object, the row itself."""
    required: tuple[str, ...] = ()
    """Columns that such an object must have."""
    guided: bool = False
    """Have the server hold the model to JSON (`response_format`): to texts under the names in
    `required` or, without these, to any object."""
    keep: tuple[str, ...] = ()
    """Columns of the seed that the row gets too."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, Any] | None:
        """Takes none: it needs a prompt and an endpoint."""
        return None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The prompt must be a template, and one seed's rows must be able to differ."""
        yield from row_template_problems(self.prompt, ".prompt")
        if self.into is not None and (self.required or self.guided):
            yield Problem(
                key=".into",
                what="makes the answer one text, and `required` or `guided` want an object",
                hint="leave out the one or the other",
            )
        asked = self.endpoint
        if self.num_per_seed > 1 and (asked.temperature == 0 or asked.seed is None):
            yield Problem(
                key=".num_per_seed",
                what="the rows of a seed would be the same: they differ by the endpoint's `seed`, "
                "at a `temperature` above 0",
                hint="write endpoint.temperature: 1.0 and endpoint.seed: 0",
            )

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(number from 1, row), in the order of the seeds; asks for them unless they were made.

        Raises:
            UserError: seeds can't be read, the endpoint can't be asked, or no answer is a row.
        """
        with (self._made() / _ROWS).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if number >= start:
                    yield number, json.loads(line)

    def place(self, number: int) -> tuple[str, int]:
        """(file of generated rows, line) of a row number."""
        return str(self._made() / _ROWS), number

    def fingerprint(self) -> str:
        """Hash of the seeds' content and of everything that is asked; asks nothing."""
        return self._key()

    def tally(self) -> Mapping[str, int]:
        """What was asked when the rows were made, and how many answers were none."""
        return json.loads((self._made() / _TALLY).read_text(encoding="utf-8"))

    def _key(self) -> str:
        others = {name: value for name, value in vars(self).items() if name != "seeds"}
        parts = [self.seeds.fingerprint(), repr(others), code_fingerprint()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _made(self) -> Path:
        return cached_folder("generated", self._key(), self._make)

    # ---- making

    def _make(self, folder: Path) -> None:
        client = ChatClient(self.endpoint)
        num_rows, invalid = 0, list[dict[str, Any]]()
        with (folder / _ROWS).open("w", encoding="utf-8") as stream:
            for (number, copy, _), made in client.each(
                self._questions(), lambda question: self._row(client, *question)
            ):
                if isinstance(made, RowError):
                    invalid.append({"seed": number, "copy": copy, "reason": made.what})
                else:
                    num_rows += 1
                    stream.write(json.dumps(made, ensure_ascii=True) + "\n")
        if num_rows == 0:
            self._raise_for_no_rows(invalid)
        lines = [json.dumps(one, ensure_ascii=True) + "\n" for one in invalid]
        (folder / _INVALID).write_text("".join(lines), encoding="utf-8")
        tally = {**client.tally(), "num_rows": num_rows, "num_invalid_answers": len(invalid)}
        (folder / _TALLY).write_text(json.dumps(tally), encoding="utf-8")

    def _questions(self) -> Iterator[tuple[int, int, Row]]:
        """(seed's row number, copy from 0, seed)."""
        for number, seed in self.seeds.rows():
            if isinstance(seed, Problem):
                raise UserError(seed)
            for copy in range(self.num_per_seed):
                yield number, copy, seed

    def _row(self, client: ChatClient, number: int, copy: int, seed: Row) -> Row | RowError:
        try:
            kept = {name: self._column(seed, name) for name in self.keep}
            request = render(self.prompt, seed)
        except RowError as error:
            # A fault of the recipe or of the seeds, not of the model: nothing is asked around it.
            file, line = self.seeds.place(number)
            raise UserError(
                Problem(what=error.what, hint=error.hint, file=file, line=line)
            ) from error
        message = {"role": "user", "content": request}
        try:
            answer = client.ask([message], **self._asked(copy))
            return {**kept, **self._read(answer)}
        except Unanswered as error:
            return RowError(str(error))
        except RowError as error:
            return error

    def _column(self, seed: Row, name: str) -> Any:
        if name not in seed:
            raise RowError(f"has no column {name!r}, which `keep` names")
        return seed[name]

    def _asked(self, copy: int) -> Mapping[str, Any]:
        further: dict[str, Any] = {}
        if self.endpoint.seed is not None:
            further["seed"] = self.endpoint.seed + copy
        if self.guided:
            further["response_format"] = self._response_format()
        return further

    def _response_format(self) -> Mapping[str, Any]:
        if not self.required:
            return {"type": "json_object"}
        schema = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in self.required},
            "required": list(self.required),
            "additionalProperties": False,
        }
        return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema}}

    def _read(self, answer: Answer) -> Row:
        """
        Raises:
            RowError: the answer is no row.
        """
        text = answer.words.strip()
        if answer.finish_reason == "length":
            raise RowError(f"is cut at max_tokens: {text[-80:]!r}")
        if self.into is not None:
            if not text:
                raise RowError("is empty")
            return {self.into: text}
        try:
            value = parse_json(_unfenced(text))
        except BrokenJson as error:
            raise RowError(f"is not JSON: {error.what}") from error
        if not isinstance(value, dict):
            raise RowError(f"is {kind_of(value)}, not an object")
        missing = [name for name in self.required if name not in value]
        if missing:
            raise RowError(f"has no {missing[0]!r}")
        return value

    def _raise_for_no_rows(self, invalid: list[dict[str, Any]]) -> None:
        first = f"; the first: {invalid[0]['reason']}" if invalid else ""
        raise UserError(
            f"{self.endpoint.model} made no row of {len(invalid):,} answers{first}",
            hint="ask for what a row needs in `prompt`, or write guided: true",
        )


def _unfenced(text: str) -> str:
    """The text inside a Markdown fence, as many models put around JSON."""
    first, _, rest = text.partition("\n")
    if first.startswith("```") and rest.rstrip().endswith("```"):
        return rest.rstrip().removesuffix("```")
    return text
