"""What each cleaner finds, leaves and says."""

from __future__ import annotations

import pytest
from measures import nothing

from framework.cleaners.control_characters import ControlCharacters
from framework.cleaners.encoding import Encoding
from framework.cleaners.exact_duplicates import ExactDuplicates
from framework.cleaners.filter import Filter
from framework.cleaners.language import Language
from framework.cleaners.length import Length
from framework.cleaners.near_duplicates import NearDuplicates
from framework.cleaners.personal_data import PersonalData
from framework.cleaners.refusals import Refusals
from framework.cleaners.repetition import Repetition
from framework.cleaning.sample_texts import texts
from framework.core.samples import Completion, Document, Message, NumberedSample, PromptOnly

GERMAN = "Die Hauptstadt von Frankreich ist Paris, und sie liegt an der Seine im Norden des Landes."
ENGLISH = (
    "The capital of France is Paris, and it lies on the river Seine in the north of the country."
)


def look(cleaner, *samples):
    """What is found in each sample; text stands for an answer."""
    find = cleaner.start(nothing)
    made = [
        Completion(prompt="Say it:", completion=one) if isinstance(one, str) else one
        for one in samples
    ]
    return [
        find(NumberedSample(dataset="train0", row=row, sample=one))
        for row, one in enumerate(made, 1)
    ]


def answers(findings):
    """The last text of each changed sample."""
    return [list(texts(one.sample))[-1].text for one in findings]


# ---- duplicates


def test_equal_prompts_are_found_though_their_answers_differ():
    samples = [Completion(prompt=p, completion=c) for p, c in (("a b", "1"), ("A  B", "2"))]
    assert look(ExactDuplicates(), *samples) == [None, None]
    _, found = look(ExactDuplicates(compare="prompt"), *samples)
    assert found.reason == "the prompt equals that of row train0:1"
    assert (found.action, str(found.like)) == ("drop", "train0:1")


def test_a_question_and_its_answer_exchanged_are_no_duplicate():
    one, other = Completion(prompt="a", completion="b"), Completion(prompt="b", completion="a")
    assert look(ExactDuplicates(), one, other) == [None, None]


def test_the_threshold_of_similarity_is_counted_not_estimated():
    words = [f"w{number}" for number in range(101)]
    changed = " ".join([*words[:-1], "other"])  # 99 pairs of words in common, 101 in all
    rows = Document(text=" ".join(words)), Document(text=changed)
    _, found = look(NearDuplicates(threshold=99 / 101), *rows)
    assert found.reason == "similarity 0.98 to row train0:1"
    assert look(NearDuplicates(threshold=0.981), *rows) == [None, None]


def test_long_documents_are_compared_by_a_sample_of_them():
    words = [f"w{number}" for number in range(20_000)]
    rows = [Document(text=" ".join(one)) for one in (words, words[:18_000], words[:9_000])]
    _, near, half = look(NearDuplicates(threshold=0.8), *rows)
    assert float(near.reason.split()[1]) == pytest.approx(0.9, abs=0.05)  # 3 standard deviations
    assert half is None


# ---- personal data


def test_personal_data_is_replaced_everywhere_and_nothing_else_is_touched():
    text = "Mail ada@lovelace.org or bob@example.co.uk, card 4111-1111-1111-1111, order 12345678."
    (found,) = look(PersonalData(), text)
    assert answers([found]) == [
        "Mail <EMAIL_ADDRESS> or <EMAIL_ADDRESS>, card <CREDIT_CARD>, order 12345678."
    ]
    assert found.reason == "2 x EMAIL_ADDRESS, 1 x CREDIT_CARD"
    assert [one.where for one in found.excerpts] == ["completion"] * 3


def test_only_the_chosen_kinds_are_looked_for():
    text = "ada@lovelace.org at 10.20.30.40"
    (found,) = look(PersonalData(entities=("IP_ADDRESS",)), text)
    assert answers([found]) == ["ada@lovelace.org at <IP_ADDRESS>"]


def test_no_item_stands_in_the_list_of_findings():
    secrets = ["ada@lovelace.org", "4111 1111 1111 1111", "sk-" + "proj-" + "Ab1" * 20]
    (found,) = look(PersonalData(action="report"), " and ".join(secrets))
    assert (found.action, len(found.excerpts)) == ("report", 3)
    listed = "".join(one.before + one.after for one in found.excerpts)
    assert [one for one in secrets if one[2:10] in listed] == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a.", "1", "1-", "::", "@a", "eyJ", "sk-", "(1", "AB12 ", "://a:"]
)
def test_a_long_text_of_signs_takes_no_long_time(piece):
    look(PersonalData(), piece * (100_000 // len(piece)))


def test_an_item_at_the_end_of_a_very_long_text_is_found():
    (found,) = look(PersonalData(), "word " * 100_000 + "ada@lovelace.org")
    assert answers([found])[0].endswith("word <EMAIL_ADDRESS>")


# ---- language, length, repetition, refusals


def test_a_language_that_is_not_wanted_is_found_and_a_short_text_is_not_judged():
    found = look(Language(keep=("en",)), ENGLISH, GERMAN, "Guten Tag")
    assert [one and one.reason.split(",")[0] for one in found] == [None, "language de", None]
    assert look(Language(keep=("de", "en")), GERMAN) == [None]


def test_lengths_are_counted_without_the_systems_words():
    found = look(Length(of="answer", min_words=2, max_words=3), "one", "one two", "1 2 3 4")
    assert [one and one.reason for one in found] == [
        "1 words, min_words is 2",
        None,
        "4 words, max_words is 3",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("line one\n" * 9, "89% of the lines repeat"),
        ("so it goes on and on " * 12, "of the runs of 5 words were said before"),
        ("=" * 900, "compresses to"),
    ],
)
def test_repetition_is_found(text, reason):
    (found,) = look(Repetition(), text)
    assert reason in found.reason


def test_plain_text_is_not_called_repetitive():
    listing = "\n".join(f"{number}. item {number * 7} of the list" for number in range(30))
    assert look(Repetition(), ENGLISH, listing, "") == [None] * 3


def test_refusals_are_found_in_answers_alone_with_any_apostrophe_and_phrases_can_be_added():
    asked = Completion(prompt="Why do you say 'as an AI language model'?", completion="I don't.")
    found = look(
        Refusals(phrases=("no can do",)),
        "As an AI  language model, I have none.",
        "I\u2019m just an AI.",
        "Sorry, No Can Do!",
        asked,
    )
    assert [bool(one) for one in found] == [True, True, True, False]
    assert found[0].reason == "the answer says 'As an AI language model'"


# ---- characters


def test_mojibake_is_repaired_and_good_text_is_left():
    found = look(
        Encoding(), "caf\u00c3\u00a9 \u00e2\u0080\u009cquoted\u00e2\u0080\u009d", "café ☕ naïve"
    )
    assert answers(found[:1]) == ["café “quoted”"]
    assert found[1] is None
    assert look(Encoding(action="drop"), "caf\u00c3\u00a9")[0].action == "drop"


def test_invisible_characters_are_removed_where_they_do_nothing():
    found = look(ControlCharacters(), "a\x00b\x1b[31mred\x1b[0m\u200b\ufeff\ufffd z\u200dz")
    assert answers(found) == ["abred zz"]
    assert found[0].reason.startswith("2 x U+001B, 1 x U+0000")


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u0645\u06cc\u200c\u062e\u0648",
        "tab\tand\r\nline\n",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ],
)
def test_characters_that_shape_what_is_read_stay(text):
    assert look(ControlCharacters(), text) == [None]


def test_hidden_tag_letters_are_removed():
    hidden = "".join(chr(0xE0000 + ord(one)) for one in "obey me")
    assert answers(look(ControlCharacters(), f"Hello{hidden}!")) == ["Hello!"]


# ---- filter


def test_rows_for_which_the_condition_is_false_are_dropped():
    found = look(
        Filter(keep="num_words > 3 and 'http' not in answer"), "one", "one two", "http a b"
    )
    assert [bool(one) for one in found] == [True, False, True]


def test_a_column_that_the_format_does_not_keep_is_told_as_that():
    (found,) = look(Filter(keep="columns.kind == 'good'"), "one")
    assert found.action == "refuse"
    assert "no column 'kind': the format of train0 makes" in found.reason
    assert "samples, which keep no further columns" in found.reason
    assert "prompt_only" in found.hint


def test_a_column_that_a_row_lacks_is_told_as_that_where_columns_are_kept():
    sample = PromptOnly(messages=(Message(role="user", content="a"),), columns={"kin": "good"})
    find = Filter(keep="columns.kind == 'good'").start(lambda: iter(()))
    found = find(NumberedSample(dataset="train", row=1, sample=sample))
    assert "no column 'kind'; did you mean 'kin'?" in found.reason
    assert "keep no further" not in found.reason


def test_a_condition_that_a_row_makes_impossible_ends_the_preparation():
    (found,) = look(Filter(keep="1 / (num_words - 3) > 0"), "one")
    assert (found.action, "division by zero" in found.reason) == ("refuse", True)
