"""A row that is encoded wrongly becomes a bad row that names the rule, and is never trained."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import pytest
from chat_families import CHATML, SCENARIOS, byte_level_tokenizer, encoder
from faults import masked, runs

from framework.chat.encoder import ChatEncoder
from framework.core.batch import Encoded, Features, slice_document
from framework.core.over_length import Shortened
from framework.core.protocols.data import OverLength
from framework.core.protocols.training import Chat, Trainer
from framework.core.samples import Conversation, Message, NumberedSample, Sample
from framework.data.encode import EncodedRow, RowEncoder
from framework.data.proof_counts import ProofCounts
from framework.over_length.truncate import Truncate
from framework.proofs.findings import Disproven
from framework.proofs.proven_chat import ProvenChat
from framework.trainers.sft import SFT

CHAT = encoder(byte_level_tokenizer(CHATML, "<|im_end|>"), "chatml")
ROW = NumberedSample(dataset="train0", row=7, sample=SCENARIOS["multi"])


class Forgetful(ChatEncoder):
    """An encoder that masks the last stop token."""

    def conversation(self, sample: Conversation) -> Sequence[Encoded]:
        """Documents with a fault in them."""
        (document,) = super().conversation(sample)
        changed = masked(document, False, [runs(document)[-1][1] - 1])
        assert changed is not None
        return (changed,)


@dataclass(frozen=True, kw_only=True)
class CutShort:
    """A policy that cuts an answer and doesn't say so."""

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """The first tokens, through the first of the last answer."""
        (document,) = features.documents
        piece = slice_document(document, 0, runs(document)[-1][0] + 1)
        return Shortened(features=(Features(documents=(piece,)),), truncated=True)


class OwnWay(SFT):
    """A trainer that changes what the encoder made."""

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The documents without their last stop token."""
        (features,) = super().features(sample, chat)
        (document,) = features.documents
        stop = runs(document)[-1][1] - 1
        return [Features(documents=(slice_document(document, 0, stop),))]


def encode(
    chat: ChatEncoder = CHAT,
    method: Trainer | None = None,
    policy: OverLength | None = None,
    max_length: int = 1000,
    row: NumberedSample = ROW,
) -> EncodedRow:
    return RowEncoder(
        method=method or SFT(),
        chat=ProvenChat(chat),
        max_length=max_length,
        policy=policy or Truncate(),
    )(row)


def rule_of(encoded: EncodedRow) -> str:
    assert isinstance(encoded.error, Disproven)
    return encoded.error.finding.rule


def test_a_right_row_is_proven_and_counted():
    encoded = encode()
    assert encoded.error is None
    counts = ProofCounts()
    counts.add(encoded)
    assert (counts.num_rows, counts.num_documents, counts.broken_rules) == (1, 1, {})
    assert (counts.num_unproven_documents, counts.num_open_runs) == (0, 0)


def test_a_wrong_document_is_an_error_of_its_row_that_names_the_rule():
    wrong = Forgetful(**{one.name: getattr(CHAT, one.name) for one in fields(CHAT)})
    encoded = encode(wrong)
    assert encoded.features == ()
    assert rule_of(encoded) == "stop"
    assert "breaks the rule stop: the end of an answer is not trained" in str(encoded.error)
    assert "⟦Rome.⟧<|im_end|>" in str(encoded.error)
    counts = ProofCounts()
    counts.add(encoded)
    # As worker processes send it.
    counts.add(pickle.loads(pickle.dumps(encoded)))
    assert (counts.num_rows, counts.broken_rules) == (0, {"stop": 2})


def test_an_answer_that_is_cut_and_not_counted_is_an_error_of_its_row():
    (document,) = CHAT.conversation(ROW.sample)
    max_length = len(document.tokens) - 1
    assert rule_of(encode(policy=CutShort(), max_length=max_length)) == "cut_answer"


def test_an_answer_that_is_cut_and_counted_is_known_to_have_no_end():
    (document,) = CHAT.conversation(ROW.sample)
    start, _ = runs(document)[-1]
    encoded = encode(max_length=start + 2)
    assert encoded.error is None
    assert encoded.over_length is not None
    assert (encoded.over_length.num_cut_answers, encoded.num_open) == (1, 1)


def test_documents_of_the_trainers_own_are_counted_as_not_proven():
    encoded = encode(method=OwnWay())
    assert encoded.error is None
    assert (encoded.num_unproven, encoded.num_open) == (1, 1)


@pytest.mark.parametrize(("value", "num_open"), [(True, 1), (None, 0)])
def test_turns_of_other_roles_are_known_to_have_no_end(value: bool | None, num_open: int):
    first, *others = SCENARIOS["multi"].messages
    sample = Conversation(messages=(replace(first, train=value), *others))
    encoded = encode(row=replace(ROW, sample=sample))
    assert encoded.error is None
    # The line break that ends a user's turn is trained with it.
    assert encoded.num_open == num_open


def test_rows_that_are_equal_to_python_and_not_to_json_are_told_apart():
    chat = ProvenChat(encoder(byte_level_tokenizer(CHATML, "<|im_end|>"), "{{ tools }}" + TEXT))
    user, answer = SCENARIOS["single"].messages
    texts = []
    for value in (1, True):
        chat.start_row()
        sample = Conversation(messages=(user, answer), tools=({"name": "t", "strict": value},))
        (document,) = chat.conversation(sample)
        texts.append(CHAT.vocabulary.decode(list(document.tokens)))
    assert "'strict': 1" in texts[0]
    assert "'strict': True" in texts[1]


TEXT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_row_after_a_wrong_one_is_encoded_as_ever():
    chat = ProvenChat(CHAT)
    encoder_ = RowEncoder(method=SFT(), chat=chat, max_length=1000, policy=Truncate())
    forged = Conversation(
        messages=(Message(role="user", content="<|im_end|>"), ROW.sample.messages[1])
    )
    assert encoder_(replace(ROW, sample=forged)).error is not None
    assert encoder_(ROW).features == encode().features
