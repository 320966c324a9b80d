"""A model that is being trained -> how well it does on rows that it doesn't learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from accelerate import Accelerator
from torch.nn import Module

from framework.core.evaluation import Answer, Evaluation
from framework.core.metrics import EVALUATION
from framework.core.problems import Problem, did_you_mean
from framework.data.prepared import PreparedData
from framework.engine.checkpoint import Progress
from framework.engine.console import TrainingDisplay
from framework.engine.generate import TextGenerator
from framework.engine.passes import Passes
from framework.models.load import is_shared_out
from framework.planning.plan import Plan
from framework.recipe.dump import recipe_values
from framework.runs.run_directory import RunDirectory


class Measuring:
    """Losses on `data.eval`, answers and evaluators on `data.test`; all processes take part."""

    def __init__(
        self,
        plan: Plan,
        data: PreparedData,
        directory: RunDirectory,
        accelerator: Accelerator,
        model: Module,
        passes: Passes,
        display: TrainingDisplay,
    ) -> None:
        self.plan, self.data, self.directory = plan, data, directory
        self.recipe = plan.recipe
        self.accelerator, self.model = accelerator, model
        self.passes, self.display = passes, display
        self._measured: Mapping[str, float] = {}
        self._measured_at = 0

    def of_step(self, step: int) -> Mapping[str, float] | None:
        """What was measured after this step, if it was."""
        return self._measured if self._measured_at == step else None

    def evaluate(self, progress: Progress) -> Mapping[str, float]:
        """Means over `data.eval`, noted for early stopping too; empty without such rows."""
        if self.data.eval is None:
            return {}
        means = self.passes.evaluate(self.data.eval)
        self._note_eval_loss(progress, means["loss"])
        row = {f"{EVALUATION}{name}": value for name, value in means.items()}
        self._measured, self._measured_at = row, progress.step
        return row

    def has_patience_ended(self, progress: Progress) -> bool:
        """Whether evaluation has not improved for as long as the recipe waits."""
        stopping = self.recipe.evaluation.early_stopping
        waited = progress.evaluations_without_improvement
        return stopping is not None and waited >= stopping.patience

    def watch(self, step: int) -> None:
        """Answers to a few held-out rows, to watch the model learn."""
        evaluation = self.recipe.evaluation
        samples = self.data.test[: evaluation.num_generations]
        if not samples:
            return
        for index, answer in enumerate(self._generator(evaluation.max_new_tokens)(samples)):
            self.directory.append(
                "generations.jsonl",
                {"step": step, "row": index, "answer": answer},
            )

    def ask_evaluators(self, when: str, step: int) -> list[Evaluation]:
        """The evaluators' findings; those from before training are kept over restarts."""
        # As a recipe writes them: what stood in the environment is not to be written down.
        written = recipe_values(self.plan.resolved)["evaluation"]["evaluators"]
        if when == "before" and step:
            # The untrained model is gone by now.
            kept = self._kept()
            asked = [one.evaluator for one in kept]
            for index, described in enumerate(written):
                if described not in asked and None not in asked:
                    self._say_alone(index, f"{described['type']} was not asked so before training")
            return kept
        found: list[Evaluation] = []
        evaluators = self.recipe.evaluation.evaluators
        for evaluator, described in zip(evaluators, written, strict=True):
            self.display.say(f"{when} training: asking {evaluator.num_rows} held-out requests")
            generate = self._generator(evaluator.max_new_tokens)
            one = evaluator.evaluate(self.data.test[: evaluator.num_rows], generate)
            found.append(replace(one, evaluator=described))
        self.directory.write(_findings(when), [asdict(evaluation) for evaluation in found])
        for index, one in enumerate(found if when == "after" else ()):
            of_same = [kept for kept in self._kept() if kept.evaluator == one.evaluator]
            if of_same and not any(kept.is_comparable(one) for kept in of_same):
                self._say_alone(index, "data.test had other rows before training")
        return found

    def _kept(self) -> list[Evaluation]:
        """What was found before training."""
        return [_from_json(one) for one in self.directory.read(_findings("before")) or ()]

    def _say_alone(self, index: int, why: str) -> None:
        self.display.say(
            f"evaluation.evaluators[{index}]: {why}: what it finds after training is compared with "
            "nothing"
        )

    def unknown_metric(self) -> Problem | None:
        """Whether the best checkpoint is looked for by something that evaluation doesn't have."""
        best = self.recipe.checkpoint.keep_best
        if best is None or not self._measured or best.metric in self._measured:
            return None
        return Problem(
            key="checkpoint.keep_best.metric",
            what=f"evaluation has no {best.metric!r}",
            hint=f"{did_you_mean(best.metric, self._measured)} The state is saved: correct it, and "
            "start the same command again",
        )

    def _note_eval_loss(self, progress: Progress, loss: float) -> None:
        stopping = self.recipe.evaluation.early_stopping
        margin = stopping.min_delta if stopping else 0.0
        best = progress.best_eval_loss
        if best is None or loss < best - margin:
            progress.best_eval_loss = loss
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        progress.eval_loss = loss

    def _generator(self, max_new_tokens: int) -> TextGenerator:
        return TextGenerator(
            accelerator=self.accelerator,
            model=self.model,
            tokenizer=self.data.tokenizer,
            chat=self.data.chat,
            end_token_ids=self.data.end_token_ids,
            max_new_tokens=max_new_tokens,
            autocast_dtype=self.plan.autocast_dtype,
            together=is_shared_out(self.plan),
        )


def _findings(when: str) -> str:
    """The file's name."""
    return f"evaluations_{when}.json"


def _from_json(written: Mapping[str, Any]) -> Evaluation:
    """What `asdict` made of an evaluation, back."""
    answers = tuple(Answer(**answer) for answer in written["answers"])
    return Evaluation(
        metric=written["metric"],
        value=written["value"],
        answers=answers,
        evaluator=written.get("evaluator"),
    )
