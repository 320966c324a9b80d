"""Pairs of answers and rated answers -> documents of which only the answers are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chat_families import CALL, CHATML, WEATHER, byte_level_tokenizer, encoder
from faults import masked, runs

from framework.core.batch import Encoded
from framework.core.samples import (
    Message,
    NumberedSample,
    Preference,
    RowError,
    UnpairedPreference,
)
from framework.data.encode import RowEncoder
from framework.over_length.drop import Drop
from framework.over_length.truncate import Truncate
from framework.proofs.findings import Disproven
from framework.proofs.proven_chat import ProvenChat
from framework.proofs.prover import Prover
from framework.trainers.dpo import DPO

TOKENIZER = byte_level_tokenizer(CHATML, "<|im_end|>")
CHAT = encoder(TOKENIZER, "chatml")
ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def turns(*written: str) -> tuple[Message, ...]:
    """`u:text` is a user's turn, `s:` a system's, `a:` an assistant's, `t:` a tool's."""
    return tuple(Message(role=ROLES[one[0]], content=one[2:]) for one in written)


PAIR = Preference(
    messages=turns("s:Be brief.", "u:One?", "a:Uno.", "u:Two?"),
    chosen=turns("a:Due."),
    rejected=turns("a:I would rather not say."),
)
LONG = replace(PAIR, chosen=turns("a:Due.", "u:Sure?", "a:Yes."))
RATED = UnpairedPreference(messages=PAIR.messages, completion=PAIR.chosen, label=True)


def trained(document: Encoded) -> list[str]:
    return [TOKENIZER.decode(document.tokens[start:stop]) for start, stop in runs(document)]


def test_only_the_answers_of_a_pair_are_trained_through_their_stop_token():
    chosen, rejected = CHAT.preference(PAIR)
    assert trained(chosen) == ["Due.<|im_end|>"]
    assert trained(rejected) == ["I would rather not say.<|im_end|>"]
    first = chosen.trained.index(True)
    assert chosen.tokens[:first] == rejected.tokens[:first], "one prompt"
    assert TOKENIZER.decode(chosen.tokens[:first]).endswith(
        "Two?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_rated_answer_is_the_document_of_its_side_of_a_pair():
    assert CHAT.unpaired_preference(RATED) == CHAT.preference(PAIR)[0]


@pytest.mark.parametrize(
    ("choice", "spans"),
    [("all", ["Due.<|im_end|>", "Yes.<|im_end|>"]), ("last", ["Yes.<|im_end|>"])],
)
def test_of_a_longer_continuation_all_answers_are_trained_or_the_last(choice, spans):
    chosen, _ = encoder(TOKENIZER, "chatml", turns=choice).preference(LONG)
    assert trained(chosen) == spans


def test_what_follows_the_last_answer_is_no_part_of_it_with_turns_last():
    followed = replace(PAIR, chosen=turns("a:Due.", "u:Thanks."))
    chosen, _ = encoder(TOKENIZER, "chatml", turns="last").preference(followed)
    assert chosen == CHAT.preference(PAIR)[0]


def test_an_answer_can_be_left_out_by_its_own_choice():
    first = replace(LONG.chosen[0], train=False)
    chosen, _ = CHAT.preference(replace(LONG, chosen=(first, *LONG.chosen[1:])))
    assert trained(chosen) == ["Yes.<|im_end|>"]


def test_turns_that_are_chosen_for_training_elsewhere_change_nothing_in_a_prompt():
    told = tuple(replace(message, train=True) for message in PAIR.messages)
    assert CHAT.preference(replace(PAIR, messages=told)) == CHAT.preference(PAIR)


def test_tools_are_read_and_calls_are_trained():
    chat = encoder(
        byte_level_tokenizer((*CHATML, "<tool_call>", "</tool_call>"), "<|im_end|>"), "qwen2.5"
    )
    call = Message(role="assistant", content="", tool_calls=(CALL,))
    pair = Preference(
        messages=turns("u:Weather in Rome?"),
        chosen=(call,),
        rejected=turns("a:Nice."),
        tools=(WEATHER,),
    )
    chosen, rejected = chat.preference(pair)
    decode = chat.vocabulary.decode
    first = rejected.trained.index(True)
    assert WEATHER["function"]["name"] in decode(list(rejected.tokens[:first]))
    ((start, stop),) = runs(chosen)
    assert CALL.name in decode(list(chosen.tokens[start:stop]))
    assert ProvenChat(chat).preference(pair) == (chosen, rejected)


REFUSED = {
    "the same tokens": (
        replace(
            PAIR,
            chosen=turns("a:Due."),
            rejected=(Message(role="assistant", content="Due.", name="x"),),
        ),
        {},
        "become the same tokens",
    ),
    "a special token": (
        replace(PAIR, rejected=turns("a:No<|im_end|>")),
        {},
        "rejected: the text of",
    ),
    "several answers": (LONG, {"turns": "each"}, "chosen: has 2 answers"),
    "nothing trained": (
        replace(PAIR, chosen=(replace(PAIR.chosen[0], train=False),)),
        {},
        "chosen: no answer is trained",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pair_that_can_not_be_learned_from_is_refused_with_its_side(name):
    pair, choices, what = REFUSED[name]
    with pytest.raises(RowError, match=what) as caught:
        encoder(TOKENIZER, "chatml", **choices).preference(pair)
    assert caught.value.hint


# ---- proofs


def test_both_sides_are_proven():
    prove = Prover.of(CHAT)
    chosen, rejected = CHAT.preference(PAIR)
    assert prove(PAIR, (chosen, rejected)) == ()
    (finding,) = prove(PAIR, (chosen,))
    assert finding.rule == "documents"
    broken = masked(rejected, False, [rejected.trained.index(True)])
    assert broken is not None
    (finding, *_) = prove(PAIR, (chosen, broken))
    assert finding.rule == "start" and finding.detail.startswith("rejected: ")
    assert prove(PAIR, (rejected, chosen)), "the sides are told apart"


def test_a_trained_prompt_is_found_out():
    document = CHAT.unpaired_preference(RATED)
    place = document.tokens.index(TOKENIZER.convert_tokens_to_ids("<|im_end|>"))
    leaking = masked(document, True, [place])
    assert leaking is not None
    findings = Prover.of(CHAT)(RATED, (leaking,))
    assert [one.rule for one in findings] == ["leak"]


@pytest.mark.parametrize("sample", [PAIR, LONG, RATED], ids=["pair", "longer", "rated"])
@pytest.mark.parametrize("choice", ["all", "last"])
def test_what_is_encoded_is_proven(sample, choice):
    proven = ProvenChat(encoder(TOKENIZER, "chatml", turns=choice))
    if isinstance(sample, Preference):
        assert len(proven.preference(sample)) == 2
    else:
        assert True in proven.unpaired_preference(sample).trained


# ---- length


def encode(pair: Preference, max_length: int, policy, *, packing: bool = False):
    row = NumberedSample(dataset="train0", row=7, sample=pair)
    make = RowEncoder(
        method=DPO(), chat=ProvenChat(CHAT), max_length=max_length, policy=policy, packing=packing
    )
    return make(row)


LENGTHS = [len(document.tokens) for document in CHAT.preference(PAIR)]


def test_the_longest_document_is_limited_and_not_the_sum():
    assert encode(PAIR, max(LENGTHS), Drop()).over_length is None
    assert encode(PAIR, max(LENGTHS) - 1, Drop()).over_length.dropped
    assert encode(PAIR, max(LENGTHS), Drop(), packing=True).over_length.dropped, "a pack holds all"


def test_a_pair_is_cut_at_the_beginning_of_its_prompt_equally_on_both_sides():
    encoded = encode(PAIR, max(LENGTHS) - 5, Truncate(side="left"))
    (features,) = encoded.features
    for cut, whole in zip(features.documents, CHAT.preference(PAIR), strict=True):
        assert (cut.tokens, cut.trained) == (whole.tokens[5:], whole.trained[5:])
    assert encoded.over_length.cut
    assert encoded.over_length.num_lost_tokens == 0
    assert encoded.num_unproven == 0


def test_a_pair_of_which_an_answer_would_be_cut_is_dropped():
    num_prompt = CHAT.preference(PAIR)[0].trained.index(True)
    kept = encode(PAIR, max(LENGTHS) - num_prompt + 1, Truncate(side="left"))
    assert [len(one.tokens) for one in kept.features[0].documents][1] == max(
        LENGTHS
    ) - num_prompt + 1
    assert not kept.features[0].documents[0].trained[0]
    dropped = encode(PAIR, max(LENGTHS) - num_prompt, Truncate(side="left"))
    assert dropped.over_length.dropped and dropped.error is None


def test_an_uneven_cut_is_disproven():
    class Uneven(Truncate):
        """Cuts one side only."""

        def __call__(self, sample, features, max_length, encode):
            shortened = super().__call__(sample, features, max_length, encode)
            (left,) = shortened.features
            sides = (left.documents[0], features.documents[0])
            return replace(shortened, features=(replace(left, documents=sides),))

    encoded = encode(PAIR, max(LENGTHS) - 5, Uneven(side="left"))
    assert isinstance(encoded.error, Disproven)
    assert encoded.error.finding.rule == "piece_tokens"
