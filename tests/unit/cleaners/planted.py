"""A seed -> rows with planted duplicates, leaks and personal data, and which those are."""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.core.samples import Conversation, Message, NumberedSample

VOWELS, CONSONANTS = "aeiou", "bcdfghklmnprstvw"
COMMON = re.findall(
    r"\w+",
    "the of to and a in is it you that he was for on are with as his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said an "
    "each she which do their time if will way about many then them would write like so these her",
)
INSTRUCTION = "Read the following note carefully and then answer in a few plain words of your own :"


def vocabulary(rng: random.Random, size: int = 4000) -> list[str]:
    """Made-up words behind the most common English ones."""
    made = {
        "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 4)))
        for _ in range(size)
    }
    return COMMON + sorted(made)


def talk(question: str, answer: str) -> Conversation:
    """A conversation of one exchange under a system message that all rows share."""
    return Conversation(
        messages=(
            Message(role="system", content="You answer every question as well as you can . " * 3),
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        )
    )


def numbered(samples: Sequence[Conversation], dataset: str = "train0") -> list[NumberedSample]:
    """Samples as a dataset's rows, counted from 1."""
    return [
        NumberedSample(dataset=dataset, row=row, sample=sample)
        for row, sample in enumerate(samples, 1)
    ]


class Writer:
    """Writes questions and answers of random words, some of them under one long instruction."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = vocabulary(self.rng)
        self.weights = [1 / (rank + 10) for rank in range(len(self.words))]

    def text(self, least: int, most: int) -> str:
        chosen = self.rng.choices(self.words, self.weights, k=self.rng.randint(least, most))
        return " ".join(chosen).capitalize() + "."

    def row(self) -> Conversation:
        kind = self.rng.random()
        if kind < 0.25:  # a form: alike but for what is filled in
            one, other = self.text(6, 9), self.text(6, 9)
            return talk(f"What do you say of {one} in the sense of {other}?", self.text(8, 30))
        if kind < 0.5:  # a long instruction that many rows share
            return talk(f"{INSTRUCTION} {self.text(25, 60)}", self.text(10, 40))
        return talk(self.text(8, 50), self.text(10, 90))

    def exact_variant(self, sample: Conversation) -> Conversation:
        """The same row with other capitals and white space."""
        change = self.rng.choice(
            [
                str.upper,
                str.lower,
                str.title,
                lambda text: f"  {text}\n",
                _spaced,
                lambda text: text,
            ]
        )
        return _mapped(sample, change)

    def edited(self, sample: Conversation, share: float) -> Conversation:
        """The row with this share of its words replaced, left out or doubled, at least one."""
        return _mapped(sample, lambda text: self._edit(text, share))

    def _edit(self, text: str, share: float) -> str:
        words = text.split()
        for _ in range(max(1, int(len(words) * share))):
            at = self.rng.randrange(len(words))
            words[at] = self.rng.choice(["", f"{words[at]} {words[at]}", *[self._word()] * 3])
        return " ".join(" ".join(words).split())

    def _word(self) -> str:
        return self.rng.choice(self.words)


def _spaced(text: str) -> str:
    return text.replace(" ", "\n\t", 3).replace(" ", "  ")


def _mapped(sample: Conversation, change: Callable[[str], str]) -> Conversation:
    system, user, assistant = sample.messages
    return Conversation(
        messages=(
            system,
            Message(role="user", content=change(user.content)),
            Message(role="assistant", content=change(assistant.content)),
        )
    )


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Rows, and which of them should be found."""

    rows: list[NumberedSample]
    wanted: dict[int, int]
    """Row -> the row that it copies; of the held-out rows where there are some."""
    held_out: list[NumberedSample]


def duplicates(seed: int, num_rows: int, kind: str) -> Planted:
    """Rows of which one in ten is a copy (`exact`: rewritten, `near`: 5 % of words edited)."""
    writer = Writer(seed)
    samples: list[Conversation] = []
    wanted: dict[int, int] = {}
    while len(samples) < num_rows:
        if samples and writer.rng.random() < 0.1:
            original = writer.rng.randrange(len(samples))
            while original + 1 in wanted:
                original -= 1
            copy = samples[original]
            changed = writer.exact_variant(copy) if kind == "exact" else writer.edited(copy, 0.05)
            samples.append(changed)
            wanted[len(samples)] = original + 1
        else:
            samples.append(writer.row())
    return Planted(rows=numbered(samples), wanted=wanted, held_out=[])


def contaminated(seed: int, num_rows: int, num_held_out: int) -> Planted:
    """Rows of which one in twenty is a held-out row: rewritten, edited, asked again, or inside a
    longer text."""
    writer = Writer(seed)
    held_out = [writer.row() for _ in range(num_held_out)]
    samples: list[Conversation] = []
    wanted: dict[int, int] = {}
    for _ in range(num_rows):
        if writer.rng.random() >= 0.05:
            samples.append(writer.row())
            continue
        original = writer.rng.randrange(num_held_out)
        samples.append(_leak(writer, held_out[original]))
        wanted[len(samples)] = original + 1
    return Planted(rows=numbered(samples), wanted=wanted, held_out=numbered(held_out, "eval0"))


def _leak(writer: Writer, sample: Conversation) -> Conversation:
    question = sample.messages[1].content
    return writer.rng.choice(
        [
            lambda: writer.exact_variant(sample),
            lambda: writer.edited(sample, 0.03),
            lambda: talk(question.lower(), writer.text(10, 60)),
            lambda: talk(
                f"{writer.text(5, 20)} {question} {writer.text(5, 20)}", writer.text(5, 9)
            ),
        ]
    )()


# ---- personal data


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text with one item in it, or with none."""

    text: str
    entity: str
    """Empty for a decoy."""
    value: str


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _letters(
    rng: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits
) -> str:
    return "".join(rng.choices(alphabet, k=count))


def _luhn(digits: str) -> str:
    """The digit that makes the number's checksum right."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def _card(rng: random.Random) -> str:
    start, length = rng.choice(
        [("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("6011", 16)]
    )
    body = start + _digits(rng, length - len(start) - 1)
    number = body + _luhn(body)
    if length == 15:
        return rng.choice([number, f"{number[:4]} {number[4:10]} {number[10:]}"])
    separator = rng.choice(["", " ", "-"])
    return separator.join(number[at : at + 4] for at in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    country, body = rng.choice(
        [
            ("DE", _digits(rng, 18)),
            ("FR", _digits(rng, 23)),
            ("GB", "NWBK" + _digits(rng, 14)),
            ("NL", "ABNA" + _digits(rng, 10)),
            ("ES", _digits(rng, 20)),
        ]
    )
    as_number = "".join(str(int(one, 36)) for one in f"{body}{country}00")
    whole = f"{country}{98 - int(as_number) % 97:02d}{body}"
    spaced = " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    return rng.choice([whole, spaced])


def _email(rng: random.Random) -> str:
    name = _letters(rng, rng.randint(3, 9), string.ascii_lowercase)
    middle = rng.choice(["", f".{_letters(rng, 5, string.ascii_lowercase)}", "+list", "_7"])
    domain = _letters(rng, rng.randint(3, 10), string.ascii_lowercase)
    suffix = rng.choice(["com", "org", "de", "co.uk", "io"])
    return f"{name}{middle}@{rng.choice(['', 'mail.'])}{domain}.{suffix}"


def _phone(rng: random.Random) -> str:
    area, middle, last = (
        rng.choice(["212", "415", "646", "303"]),
        f"5{_digits(rng, 2)}",
        _digits(rng, 4),
    )
    middle = middle.replace("555", "556")
    return rng.choice(
        [
            f"({area}) {middle}-{last}",
            f"{area}-{middle}-{last}",
            f"+1 {area} {middle} {last}",
            f"+1{area}{middle}{last}",
            f"+44 20 7946 0{_digits(rng, 3)}",
            f"020 7946 0{_digits(rng, 3)}",
            f"+49 30 2{_digits(rng, 6)}",
            f"+33 1 42 68 {_digits(rng, 2)} {_digits(rng, 2)}",
            f"+91 98{_digits(rng, 8)}",
        ]
    )


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        groups = [f"{rng.randrange(1, 65536):x}" for _ in range(6)]
        return rng.choice([f"2001:db8:{':'.join(groups)}", f"fe80::{groups[0]}:{groups[1]}:1"])
    return ".".join(str(rng.randint(11, 223)) for _ in range(4))


def _jwt(rng: random.Random) -> str:
    head = json.dumps({"alg": "HS256", "typ": "JWT"})
    body = json.dumps({"sub": _digits(rng, 10), "name": _letters(rng, 8)})
    parts = [base64.urlsafe_b64encode(one.encode()).decode().rstrip("=") for one in (head, body)]
    return ".".join([*parts, _letters(rng, 43)])


def _private_key(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    lines = "\n".join(_letters(rng, 64) for _ in range(rng.randint(3, 12)))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{lines}\n-----END {kind}PRIVATE KEY-----"


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "EMAIL_ADDRESS": _email,
    "PHONE_NUMBER": _phone,
    "IP_ADDRESS": _ip,
    "CREDIT_CARD": _card,
    "IBAN_CODE": _iban,
    "PRIVATE_KEY": _private_key,
    "URL_CREDENTIALS": lambda rng: f"{_letters(rng, 6)}:{_letters(rng, 10)}",
    "JWT": _jwt,
    "MODEL_API_KEY": lambda rng: rng.choice(
        ["sk-" + _letters(rng, 48), "sk-proj-" + _letters(rng, 74), "sk-abc-" + _letters(rng, 93)]
    ),
    "AWS_KEY": lambda rng: "AKIA" + _letters(rng, 16, string.ascii_uppercase + "234567"),
    "AWS_SECRET": lambda rng: _letters(rng, 40),
    "GITHUB_TOKEN": lambda rng: rng.choice(["ghp_", "gho_", "ghs_"]) + _letters(rng, 36),
    "GITLAB_TOKEN": lambda rng: "glpat-" + _letters(rng, 20),
    "SLACK_TOKEN": lambda rng: f"xoxb-{_digits(rng, 12)}-{_digits(rng, 12)}-{_letters(rng, 24)}",
    "GOOGLE_KEY": lambda rng: "AIza" + _letters(rng, 35),
    "HUGGING_FACE_TOKEN": lambda rng: "hf_" + _letters(rng, 34),
    "STRIPE_KEY": lambda rng: "sk_live_" + _letters(rng, 24),
    "NPM_TOKEN": lambda rng: "npm_" + _letters(rng, 36),
    "PYPI_TOKEN": lambda rng: "pypi-AgEI" + _letters(rng, 120),
    "SENDGRID_KEY": lambda rng: f"SG.{_letters(rng, 22)}.{_letters(rng, 43)}",
}
"""Entity -> what makes one."""

FRAMES = (
    "Please use {} from now on.",
    "It was {}, as far as I remember.",
    "My old one ({}) no longer works; can you help?",
    "{} is what the form says.",
    "Send it to {} before noon",
)
OWN_FRAMES = {
    "URL_CREDENTIALS": (
        "Connect with postgres://{}@db.example.org:5432/app please.",
        "open https://{}@example.com/x",
    ),
    "AWS_SECRET": ("aws_secret_access_key = {}", "AWS_SECRET_ACCESS_KEY={}\n"),
}


def _dotted(rng: random.Random) -> str:
    return ".".join(str(rng.randint(0, 30)) for _ in range(4))


def _day(rng: random.Random, separator: str) -> str:
    year, month, day = rng.randint(1990, 2030), rng.randint(10, 12), rng.randint(10, 28)
    parts = (year, month, day) if separator == "-" else (day, month, year)
    return separator.join(map(str, parts))


def _hex(rng: random.Random, count: int) -> str:
    return _letters(rng, count, "0123456789abcdef")


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(10, 23)}:{rng.randint(10, 59)}:{rng.randint(10, 59)}"


DECOYS: dict[str, Callable[[random.Random], str]] = {
    "order": lambda rng: f"Your order {_digits(rng, rng.choice([8, 10, 12, 16]))} has been sent.",
    "number": lambda rng: f"The total was {_digits(rng, rng.choice([7, 9, 10, 12]))} in all.",
    "amount": lambda rng: (
        f"It costs {_digits(rng, 3)},{_digits(rng, 3)}.{_digits(rng, 2)} dollars."
    ),
    "yen": lambda rng: f"or {_digits(rng, 9)} yen",
    "version": lambda rng: f"Upgrade to version {_dotted(rng)} first.",
    "pinned": lambda rng: f"pip install thing=={_dotted(rng)}",
    "time": lambda rng: f"It was due on {_day(rng, '-')} at {_clock(rng)}.",
    "dates": lambda rng: f"Between {_day(rng, '.')} and {_day(rng, '/')}.",
    "hash": lambda rng: f"The digest is {_hex(rng, rng.choice([32, 40, 64]))}.",
    "uuid": lambda rng: "id " + "-".join(_hex(rng, size) for size in (8, 4, 4, 4, 12)),
    "isbn": lambda rng: f"ISBN 978-{_digits(rng, 1)}-{_digits(rng, 3)}-{_digits(rng, 5)}-7",
    "wrong card": lambda rng: "Number " + _wrong_card(rng),
    "wrong iban": lambda rng: "Code DE00 " + " ".join(_digits(rng, 4) for _ in range(4)) + " 12",
    "handle": lambda rng: (
        f"Ask @{_hex(rng, 8)} or user@localhost about pkg@{rng.randint(1, 9)}.2.3"
    ),
    "code": lambda rng: f"a = dec::add(b::c, {rng.randint(1, 99)}); at 127.0.0.1:{_digits(rng, 4)}",
    "url": lambda rng: f"https://example.org:8080/{_letters(rng, 12)}/{_digits(rng, 9)}?q=1",
    "constant": lambda rng: f"pi is 3.14159{_digits(rng, 8)} and e is 2.71828{_digits(rng, 6)}",
    "coordinates": lambda rng: f"at {rng.randint(10, 89)}.{_digits(rng, 6)}, -42.{_digits(rng, 6)}",
    "range": lambda rng: f"the years {rng.randint(1800, 1899)}-{rng.randint(1900, 1999)}, p. 3-9",
    "words": lambda rng: "sk-learn is not a key, nor is hf_transfer, ghp_short or AKIA alone.",
    "template": lambda rng: "<EMAIL_ADDRESS>, https://user:@host, -----BEGIN CERTIFICATE-----",
}
"""What looks like personal data and is none."""


def _wrong_card(rng: random.Random) -> str:
    body = "4" + _digits(rng, 14)
    return body + str((int(_luhn(body)) + rng.randint(1, 9)) % 10)


def items(seed: int, num_each: int) -> list[Item]:
    """So many of each kind of personal data, and of each kind of decoy."""
    rng = random.Random(seed)
    made: list[Item] = []
    for entity, make in MAKERS.items():
        for _ in range(num_each):
            value = make(rng)
            frame = rng.choice(OWN_FRAMES.get(entity, FRAMES))
            made.append(Item(text=frame.format(value), entity=entity, value=value))
    for make in DECOYS.values():
        made += [Item(text=make(rng), entity="", value="") for _ in range(num_each)]
    return made
