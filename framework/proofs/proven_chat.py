"""An encoder -> the same encoder, every document of which is proven before anything trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.core.batch import Encoded, Features, read_at_end
from framework.core.over_length import Shortened
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Preference,
    PromptOnly,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)
from framework.proofs.conversation import trained_runs
from framework.proofs.even_cut import EvenCut
from framework.proofs.findings import Disproven
from framework.proofs.pieces import PiecesProof
from framework.proofs.prover import Prover

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder


class ProvenChat:
    """Encodes as its encoder does, and remembers what it has proven of one row."""

    def __init__(self, chat: ChatEncoder) -> None:
        if chat.template is not None:
            chat = replace(chat, template=replace(chat.template, remembers=True))
        self._chat = chat
        self._prover = Prover.of(chat)
        self._forget = (lambda: None) if chat.template is None else chat.template.forget
        self._proven: list[Encoded] = []
        self._open_ended = False

    def start_row(self) -> None:
        """Forgets the row before."""
        self._proven = []
        self._open_ended = False
        self._forget()

    def conversation(self, sample: Conversation) -> Sequence[Encoded]:
        """See `ChatEncoder.conversation`.

        Raises:
            Disproven: the result breaks a rule.
        """
        if any(message.train and message.role != "assistant" for message in sample.messages):
            self._open_ended = True
        return self._checked(sample, self._chat.conversation(sample))

    def completion(self, sample: Completion) -> Encoded:
        """See `ChatEncoder.completion`.

        Raises:
            Disproven: the result breaks a rule.
        """
        return self._checked(sample, (self._chat.completion(sample),))[0]

    def document(self, sample: Document) -> Encoded:
        """See `ChatEncoder.document`.

        Raises:
            Disproven: the result breaks a rule.
        """
        return self._checked(sample, (self._chat.document(sample),))[0]

    def prompt_only(self, sample: PromptOnly) -> Encoded:
        """See `ChatEncoder.prompt_only`.

        Raises:
            Disproven: the result breaks a rule.
        """
        return self._checked(sample, (self._chat.prompt_only(sample),))[0]

    def tokenized(self, sample: Tokenized) -> Encoded:
        """See `ChatEncoder.tokenized`.

        Raises:
            Disproven: the result breaks a rule.
        """
        self._open_ended = True
        return self._checked(sample, (self._chat.tokenized(sample),))[0]

    def preference(self, sample: Preference) -> tuple[Encoded, Encoded]:
        """See `ChatEncoder.preference`.

        Raises:
            Disproven: the result breaks a rule.
        """
        chosen, rejected = self._checked(sample, self._chat.preference(sample))
        return chosen, rejected

    def unpaired_preference(self, sample: UnpairedPreference) -> Encoded:
        """See `ChatEncoder.unpaired_preference`.

        Raises:
            Disproven: the result breaks a rule.
        """
        return self._checked(sample, (self._chat.unpaired_preference(sample),))[0]

    def read_at_end(self, sample: Classified | Scored | Preference) -> tuple[Encoded, ...]:
        """See `ChatEncoder.read_at_end`.

        Raises:
            Disproven: the result breaks a rule.
        """
        self._open_ended = True
        if isinstance(sample, Preference):
            # The answers' masks are proven before all but their last tokens are left out.
            padding = self._chat.vocabulary.padding
            ends = tuple([read_at_end(one, padding) for one in self.preference(sample)])
            self._proven += ends
            return ends
        return tuple(self._checked(sample, self._chat.read_at_end(sample)))

    def steps(self, sample: StepwiseSupervision, separator: str) -> Encoded:
        """See `ChatEncoder.steps`.

        Raises:
            Disproven: the result breaks a rule.
        """
        self._open_ended = True
        return self._checked(sample, (self._chat.steps(sample, separator),))[0]

    def _checked(self, sample: Sample, documents: Sequence[Encoded]) -> Sequence[Encoded]:
        findings = self._prover(sample, documents)
        if findings:
            raise Disproven(findings[0])
        self._proven += documents
        return documents

    def prove_pieces(
        self, sample: Sample, features: Features, shortened: Shortened, max_length: int
    ) -> None:
        """Proves what an over-length policy made of the documents of `features`.

        Raises:
            Disproven: the pieces break a rule.
        """
        if len(features.documents) != 1:
            for left in shortened.features:
                proof = EvenCut(whole=features.documents, left=left.documents, longest=max_length)
                for finding in proof.findings():
                    raise Disproven(finding)
            return
        (whole,) = features.documents
        proof = PiecesProof(
            whole=whole,
            pieces=[document for one in shortened.features for document in one.documents],
            others=[one for one in self._proven if one is not whole],
            max_length=max_length,
            truncated=shortened.truncated,
            num_cut_answers=None if isinstance(sample, Document) else shortened.num_cut_answers,
            vocabulary=self._chat.vocabulary,
        )
        for finding in proof.findings():
            raise Disproven(finding)

    def num_unproven(self, rows: Sequence[Features]) -> int:
        """Documents that a trainer made otherwise than by this encoder."""
        proven = set(map(id, self._proven))
        return sum(
            [id(document) not in proven for features in rows for document in features.documents]
        )

    def num_open(self, rows: Sequence[Features], *, changed: bool) -> int:
        """Stretches of trained tokens that end in no token that ends an answer.

        Args:
            changed: the documents are not all as they were proven. An unchanged answer ends in one.
        """
        if not (changed or self._open_ended or self._prover.train_on != {"assistant"}):
            return 0
        ends = self._prover.ends
        return sum(
            document.tokens[stop - 1] not in ends
            for features in rows
            for document in features.documents
            for _, stop in trained_runs(document.trained)
        )
