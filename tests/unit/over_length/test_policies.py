"""What becomes of a document that is too long."""

from __future__ import annotations

import itertools

import pytest
from conftest import write_rows
from hypothesis import given
from hypothesis import strategies as st

from framework.core.batch import Encoded, Features
from framework.core.over_length import Shortened, fate_of
from framework.core.problems import UserError
from framework.core.samples import Completion, Conversation, Document, Message, TooLong
from framework.data.prepared import prepare_data
from framework.over_length.drop import Drop
from framework.over_length.error import Error
from framework.over_length.split import Split
from framework.over_length.truncate import Truncate
from framework.over_length.windows import Windows
from framework.recipe.resolve import resolve

TEXT = Document(text="text")
HEADER, END = 100, 101


def document(length: int, prompt: int = 1) -> Encoded:
    trained = tuple(place >= max(prompt, 1) for place in range(length))
    return Encoded(tokens=tuple(range(length)), trained=trained)


def shortened(policy, whole: Encoded, max_length: int, sample=TEXT) -> Shortened:
    return policy(sample, Features(documents=(whole,)), max_length, None)


def documents(found: Shortened) -> list[Encoded]:
    return [one for features in found.features for one in features.documents]


def trained_tokens(found: Shortened) -> list[int]:
    return [
        token
        for part in documents(found)
        for token, is_trained in zip(part.tokens, part.trained, strict=True)
        if is_trained
    ]


# ---- one document


def test_dropping_leaves_nothing():
    found = shortened(Drop(), document(9), 4)
    assert found == Shortened()
    fate = fate_of(Features(documents=(document(9),)), found)
    assert (fate.dropped, fate.cut, fate.split, fate.num_lost_tokens) == (True, False, False, 8)


def test_an_error_says_the_length_and_what_to_write():
    with pytest.raises(TooLong, match=r"becomes 9 tokens, data\.max_length is 4") as caught:
        shortened(Error(), document(9), 4)
    assert caught.value.hint.startswith("write data.max_length: 9")


def test_truncating_the_right_keeps_the_beginning():
    (cut,) = documents(shortened(Truncate(), document(9), 4))
    assert cut == Encoded(tokens=(0, 1, 2, 3), trained=(False, True, True, True))


def test_truncating_the_left_keeps_the_end_and_trains_no_token_without_one_before_it():
    (cut,) = documents(shortened(Truncate(side="left"), document(9), 4))
    assert cut == Encoded(tokens=(5, 6, 7, 8), trained=(False, True, True, True))


def test_truncating_the_middle_of_a_text_does_not_train_across_the_cut():
    (cut,) = documents(shortened(Truncate(side="middle"), document(9), 4))
    assert cut == Encoded(tokens=(0, 1, 7, 8), trained=(False, True, False, True))


@pytest.mark.parametrize(
    ("max_length", "cut_answers"),
    [(4, 0), (5, 1), (7, 1), (8, 0)],
    ids=["before it", "in it", "its stop token", "behind it"],
)
def test_an_answer_cut_short_of_its_stop_token_is_counted(max_length, cut_answers):
    """Tokens 4 to 7 are the answer, 8 is the line break behind it."""
    whole = Encoded(tokens=tuple(range(9)), trained=(*[False] * 4, *[True] * 4, False))
    sample = Completion(prompt="p", completion="c")
    assert shortened(Truncate(), whole, max_length, sample).num_cut_answers == cut_answers
    assert shortened(Truncate(), whole, max_length).num_cut_answers == 0, "a text has no answers"


def test_documents_that_belong_together_are_never_cut():
    pair = Features(documents=(document(5), document(5)))
    for policy in (Truncate(), Truncate(side="left"), Truncate(side="middle"), Windows()):
        with pytest.raises(TooLong, match="2 documents that belong together"):
            policy(TEXT, pair, 6, None)
    assert Drop()(TEXT, pair, 6, None) == Shortened()


@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 30), st.integers(1, 19))
def test_windows_train_every_trained_token_once(more, max_length, prompt, overlap):
    length = max_length + more
    whole = document(length, prompt)
    overlap = min(overlap, max_length - 1)
    found = shortened(Windows(overlap=overlap), whole, max_length)
    parts = documents(found)
    assert all(2 <= len(part.tokens) <= max_length for part in parts)
    assert not any(part.trained[0] for part in parts)
    assert all(len(part.tokens) > overlap for part in parts[1:])
    assert trained_tokens(found) == [token for token in range(length) if whole.trained[token]]


# ---- conversations, with a small template whose every message is `header, role, text, end`


def talk(*lengths: int, system: int = 0) -> Conversation:
    """Requests and answers in turns, of so many words each; every word is another one."""
    words = iter(range(1000, 9000))
    roles = ["user", "assistant"] * len(lengths)
    messages = [Message(role="system", content=" ".join(str(next(words)) for _ in range(system)))]
    messages = messages if system else []
    for role, length in zip(roles, lengths, strict=False):
        content = " ".join(str(next(words)) for _ in range(length))
        messages.append(Message(role=role, content=content))
    return Conversation(messages=tuple(messages))


def encoded(sample: Conversation) -> list[Features]:
    tokens: list[int] = []
    trained: list[bool] = []
    for message in sample.messages:
        words = [int(word) if word.isdigit() else 7 for word in message.content.split()]
        role = {"system": 1, "user": 2, "assistant": 3}[message.role]
        answer = message.role == "assistant" and message.train is not False
        tokens += [HEADER, role, *words, END]
        trained += [False, False, *[answer] * (len(words) + 1)]
    return [Features(documents=(Encoded(tokens=tuple(tokens), trained=tuple(trained)),))]


def runs(one: Encoded) -> list[tuple[int, ...]]:
    """The stretches of trained tokens."""
    found: list[list[int]] = [[]]
    for token, is_trained in zip(one.tokens, one.trained, strict=True):
        if is_trained:
            found[-1].append(token)
        elif found[-1]:
            found.append([])
    return [tuple(run) for run in found if run]


conversations = st.lists(st.integers(1, 12), min_size=2, max_size=12).filter(
    lambda lengths: len(lengths) % 2 == 0
)


def applied(policy, sample: Conversation, max_length: int) -> tuple[Encoded, Shortened]:
    (whole,) = encoded(sample)
    found = policy(sample, whole, max_length, encoded)
    return whole.documents[0], found


@given(conversations, st.integers(0, 4), st.integers(4, 60))
def test_the_middle_keeps_the_last_answer_whole_with_its_header_and_trains_no_cut_answer(
    lengths, system, max_length
):
    sample = talk(*lengths, system=system)
    max_length = min(max_length, encoded(sample)[0].num_tokens - 1)
    whole, found = applied(Truncate(side="middle"), sample, max_length)
    last = runs(whole)[-1]
    if not found.features:
        # The end of the question, the header and the answer are what there must be room for.
        assert len(last) + 3 > max_length
        return
    (cut,) = documents(found)
    assert len(cut.tokens) <= max_length
    assert cut.tokens[-len(last) :] == last
    assert all(cut.trained[-len(last) :])
    assert cut.tokens[-len(last) - 3 : -len(last)] == (END, HEADER, 3)
    assert set(runs(cut)) <= set(runs(whole)), "answers are whole or not trained"
    assert len(cut.tokens) == max_length, "nothing is cut needlessly"


@given(conversations, st.integers(4, 60))
def test_the_left_keeps_the_end_with_its_stop_token(lengths, max_length):
    sample = talk(*lengths)
    max_length = min(max_length, encoded(sample)[0].num_tokens - 1)
    whole, found = applied(Truncate(side="left"), sample, max_length)
    (cut,) = documents(found)
    assert cut.tokens == whole.tokens[-max_length:]
    assert cut.trained[1:] == whole.trained[-max_length + 1 :]
    assert all(run[-1] == END for run in runs(cut))


@given(conversations, st.integers(0, 4), st.integers(8, 60))
def test_splitting_trains_every_answer_once_or_lists_its_exchange(lengths, system, max_length):
    sample = talk(*lengths, system=system)
    whole, found = applied(Split(), sample, max_length)
    parts = documents(found)
    assert all(len(part.tokens) <= max_length for part in parts)
    kept = [run for part in parts for run in runs(part)]
    offset = 1 if system else 0
    dropped = [
        whole_run
        for number, whole_run in enumerate(runs(whole))
        if f"messages {2 * number + 1 + offset} to {2 * number + 2 + offset} "
        in " ".join(found.dropped)
    ]
    assert sorted([*kept, *dropped]) == runs(whole)
    assert len(dropped) == len(found.dropped)
    head = encoded(Conversation(messages=sample.messages[:offset]))[0].documents[0].tokens
    for part in parts:
        assert part.tokens[: len(head)] == head, "every part begins with the system message"
        assert part.tokens[len(head) : len(head) + 2] == (HEADER, 2), "and then with a request"
        assert part.tokens[-1] == END
    if not found.dropped:
        for one, following in itertools.pairwise(parts):
            exchange = [place for place, token in enumerate(following.tokens) if token == END]
            added = exchange[1 + offset] + 1 - len(head)
            assert len(one.tokens) + added > max_length, "a part takes all that fits"


def test_splitting_keeps_tools_and_an_unanswered_request_with_the_exchange_before_it():
    first = talk(2, 2, 2, 2)
    sample = Conversation(
        messages=(*first.messages, Message(role="user", content="1")), tools=({"name": "t"},)
    )
    seen: list[Conversation] = []

    def encode(part):
        seen.append(part)
        return encoded(part)

    found = Split()(sample, encoded(sample)[0], 15, encode)
    assert len(found.features) == 2
    assert [len(part.messages) for part in seen] == [2, 5, 3]
    assert all(part.tools == sample.tools for part in seen)


# ---- through the whole preparation, with the real encoder


def rows_of(*talks: Conversation) -> list[dict]:
    return [
        {"messages": [{"role": m.role, "content": m.content} for m in one.messages]}
        for one in talks
    ]


def prepared(recipe, *overrides):
    data = prepare_data(resolve(recipe, overrides))
    (counts,) = data.train.details["datasets"]
    return data, counts


def answers(data) -> list[str]:
    found = []
    for index in range(data.train.num_samples):
        for one in data.train.features(index).documents:
            found += [data.tokenizer.decode(run) for run in runs(one)]
    return found


def test_split_rows_are_counted_and_exchanges_that_do_not_fit_are_listed(write_recipe, tmp_path):
    recipe = write_recipe()
    write_rows(tmp_path / "train.jsonl", rows_of(talk(2, 2), talk(5, 5, 60, 2, 5, 5, system=3)))
    data, counts = prepared(recipe, "data.over_length=split")
    assert counts["num_samples"] == 3
    assert (counts["num_over_length_rows"], counts["num_split_rows"]) == (1, 1)
    (left_out,) = counts["dropped_parts"]
    assert left_out.startswith("2: messages 4 to 5 (")
    assert len(answers(data)) == 3
    assert all(answer.endswith("<|im_end|>") for answer in answers(data))
    assert [data.train.sample_id(index) for index in range(3)] == [
        "train0:1",
        "train0:2",
        "train0:2/1",
    ]
    assert data.train.document_lengths().max() <= 128


def test_a_trained_system_message_is_trained_in_the_first_part_alone(write_recipe, tmp_path):
    recipe = write_recipe()
    write_rows(tmp_path / "train.jsonl", rows_of(talk(9, 9, 9, 9, 9, 9, system=2)))
    data, counts = prepared(recipe, "data.over_length=split", "data.train_on=[system, assistant]")
    assert counts["num_samples"] > 1
    assert ["1000 1001" in answer for answer in answers(data)] == [True, False, False, False]


def test_the_real_middle_is_a_whole_answer_behind_a_whole_header(write_recipe, tmp_path):
    recipe = write_recipe()
    write_rows(tmp_path / "train.jsonl", rows_of(talk(2, 2), talk(100, 5), talk(1, 100)))
    data, counts = prepared(recipe, "data.over_length={type: truncate, side: middle}")
    assert (counts["num_cut_rows"], counts["num_dropped_rows"]) == (1, 1)
    assert counts["dropped_rows"] == [3]
    (cut,) = data.train.features(1).documents
    text = data.tokenizer.decode(cut.tokens)
    assert text.startswith("<|im_start|>user\n1000 1001")
    assert text.endswith(
        "1099<|im_end|>\n<|im_start|>assistant\n1100 1101 1102 1103 1104<|im_end|>"
    )
    assert answers(data)[1] == "1100 1101 1102 1103 1104<|im_end|>"


def test_a_cut_answer_is_counted_and_listed(write_recipe, tmp_path):
    recipe = write_recipe()
    write_rows(tmp_path / "train.jsonl", rows_of(talk(2, 2), talk(2, 100)))
    _, counts = prepared(recipe, "data.over_length=truncate")
    assert (counts["num_cut_rows"], counts["num_cut_answers"]) == (1, 1)
    assert counts["cut_answer_rows"] == [2]
    assert counts["num_lost_trained_tokens"] > 100


@pytest.mark.parametrize(
    ("overrides", "key", "hint"),
    [
        (["data.over_length=split", "data.turns=each"], "data.over_length", "turns: all"),
        (
            ["data.over_length=split", "data.train.0.format=completion", "trainer.type=pretrain"],
            "data.over_length",
            "windows",
        ),
        (
            ["data.over_length={type: truncate, side: middle}", "data.train_on=[user]"],
            "data.over_length.side",
            "side: left",
        ),
    ],
)
def test_a_policy_that_cannot_do_what_is_asked_is_refused_before_any_row_is_read(
    write_recipe, overrides, key, hint
):
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(), overrides)
    assert any(one.key == key and hint in one.hint for one in caught.value.problems)
