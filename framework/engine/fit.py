"""The training loop: plan, data and model -> a trained model and the record of how it was made."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn import Module
from torch.optim import Optimizer

from framework.core import atomic
from framework.core.metrics import EVALUATION
from framework.core.problems import Interrupted, RunFailed, UserError
from framework.core.protocols.models import Penalising, Stepping
from framework.core.protocols.strategies import InSlices, Noting, Setup
from framework.core.protocols.training import Online
from framework.core.spans import span
from framework.data.prepared import PreparedData
from framework.data.units import ids_of
from framework.distributed.collectives import broadcast_object, sum_over_processes, token_share
from framework.distributed.peers import ALONE, Peers
from framework.engine.adapter_memory import capture_memory, load_memory
from framework.engine.announce import announcement, described, planned
from framework.engine.average import Averaging
from framework.engine.checkpoint import (
    Progress,
    origin_of,
    read_progress,
    save_checkpoint,
    step_of,
)
from framework.engine.console import TrainingDisplay, metrics_text
from framework.engine.deadline import Deadline
from framework.engine.equal_groups import EqualGroups
from framework.engine.export import save_model
from framework.engine.feed import make_feed, units_per_epoch
from framework.engine.in_backward import StepsInBackward
from framework.engine.left_out import (
    LEFT_OUT,
    LeftOut,
    LeftOutStep,
    LossWatch,
    Unusable,
    num_not_finite,
)
from framework.engine.loss_scale import LossScale
from framework.engine.make_passes import make_passes
from framework.engine.measuring import Measuring
from framework.engine.order import step_seed
from framework.engine.parameter_groups import described_groups, parameter_groups
from framework.engine.passes import Passed
from framework.engine.peaks import peak_bytes
from framework.engine.reference import open_references
from framework.engine.saving import Saving, Write
from framework.engine.step_records import StepRecords
from framework.engine.stop import StopRequest, listen_for_stop
from framework.models.heads import trained_policy
from framework.models.load import Bundle, is_shared_out, prove_attention
from framework.planning.plan import Plan, Steps, make_steps
from framework.runs.rehearsal import NO_REHEARSAL, Rehearsal
from framework.runs.result import Origin, Result
from framework.runs.run_directory import RunDirectory
from framework.runs.seen_samples import written_losses


def fit(
    plan: Plan,
    data: PreparedData,
    bundle: Bundle,
    directory: RunDirectory,
    peers: Peers = ALONE,
    started: float | None = None,
    rehearsal: Rehearsal = NO_REHEARSAL,
) -> Result:
    """Trains, from the newest checkpoint if there is one.

    The model is in `final/` then, unless the rehearsal ended it.

    Args:
        started: when the command was, on the monotonic clock; None: now.
        rehearsal: of the run that this one repeats.

    Raises:
        Interrupted: a signal or a time limit asked for a stop; the state is saved.
        RunFailed: the loss is no longer a number.
        OSError: the disk is full; the checkpoints are still there.
    """
    started = time.monotonic() if started is None else started
    run = Run(plan, data, bundle, directory, peers, started, rehearsal)
    with listen_for_stop() as stop:
        return run.to_the_end(stop)


class Run:
    """What the loop's parts share; one instance, one run."""

    def __init__(
        self,
        plan: Plan,
        data: PreparedData,
        bundle: Bundle,
        directory: RunDirectory,
        peers: Peers,
        started: float,
        rehearsal: Rehearsal = NO_REHEARSAL,
    ) -> None:
        self.rehearsal = rehearsal
        self.plan, self.data, self.bundle, self.directory = plan, data, bundle, directory
        self.peers = peers
        self.recipe, self.trainer = plan.recipe, plan.recipe.trainer
        self.method, self.adapter = self.trainer.method, self.recipe.adapter
        self.steps: Steps = make_steps(self.recipe, units_per_epoch(data, self.trainer))
        self.feed = make_feed(data.stream or data.train, self.trainer)
        strategy = self.recipe.strategy
        self.accelerator: Accelerator = peers.join(partial(strategy.accelerator, self._setup()))
        if isinstance(self.method, Online):
            self.method.equip(bundle.model)
        self.spread = strategy.spread(self.accelerator, bundle.model, self._optimizer)
        self.model, self.plain_model = self.spread.model, self.spread.plain
        sequence = self.spread.sequence if isinstance(self.spread, InSlices) else None
        if is_shared_out(plan):
            prove_attention(self.plain_model, plan, bundle.quantizer, sequence)
        optimizer = self.spread.optimizer
        self.in_backward = (
            StepsInBackward(optimizer) if self.trainer.optimizer_in_backward else None
        )
        self.averaging = Averaging(self.trainer, self.spread, self.accelerator.process_index)
        # Accelerate would step a prepared scheduler once for each process; ours counts steps.
        self.scheduler = self.trainer.lr_scheduler_type.build(
            optimizer, self.steps.warmup_steps, self.steps.num_steps
        )
        self.policy = trained_policy(self.model, plan, sequence)
        self.progress = Progress()
        self.num_passes = 0
        """Of each process, since this start."""
        self.loss_scale = LossScale(self.accelerator)
        self.equal_groups = EqualGroups()
        self.loss_watch = LossWatch(self.trainer, scaled=self.loss_scale.is_on)
        self.left_out = LeftOut(directory, broadcast_object(directory.rows(LEFT_OUT)))
        self.deadline = Deadline(self.trainer, plan.world, started, bundle.num_trained_parameters)
        self.display = TrainingDisplay(
            self.steps.num_steps, plan.output_dir / "log.txt" if directory.is_main else None
        )
        self.records = StepRecords(
            directory, self.recipe.tracking, self.display, self.steps.num_steps
        )
        self.saving = Saving(
            self.accelerator,
            peers,
            plan.output_dir / "checkpoints",
            self.recipe.checkpoint,
            self.display.say,
        )
        # While the weights are still those that training begins with.
        self.references = open_references(
            plan, data, bundle, self.accelerator, self.display.say, sequence
        )
        self.passes = make_passes(
            plan,
            data,
            self.accelerator,
            self.spread,
            self.policy,
            self.references,
            self.feed,
            directory,
        )
        self.measuring = Measuring(
            plan, data, directory, self.accelerator, self.plain_model, self.passes, self.display
        )

    def _setup(self) -> Setup:
        adapter, plan = self.adapter, self.plan
        return Setup(
            autocast_dtype=plan.autocast_dtype,
            parameters_change=isinstance(adapter, Stepping) and adapter.changes_trained_parameters,
            micro_batch_size=plan.pass_size.num_units,
            num_accumulation_steps=plan.num_accumulation_steps,
        )

    def _optimizer(self, model: Module) -> Optimizer:
        groups = parameter_groups(model, self.trainer, self.adapter)
        optimizer = self.trainer.optimizer.build(groups, self.trainer.learning_rate)
        # While its groups hold parameters: a strategy may put parts of them in their place.
        self.groups = described_groups(optimizer.param_groups)
        return optimizer

    # ---- the line

    def to_the_end(self, stop: StopRequest) -> Result:
        """Resume, measure, train, measure, write."""
        for line in announcement(self.plan, self.data, self.bundle, self.steps, self.groups):
            self.display.say(line)
        for line in self.spread.notes if isinstance(self.spread, Noting) else ():
            self.display.say(line)
        self._resume()
        self.directory.write("preparation.json", described(self.data))
        self.directory.write("plan.json", planned(self.plan, self.bundle, self.steps, self.groups))
        self.records.start_trackers(self.plan.output_dir, self.progress.step)
        is_complete = False
        try:
            result = self._measured_and_trained(stop)
            is_complete = result.is_whole
        finally:
            self.records.finish_trackers(is_complete=is_complete)
        return result

    def _measured_and_trained(self, stop: StopRequest) -> Result:
        try:
            with self.averaging.in_place():
                before = self.measuring.ask_evaluators("before", self.progress.step)
            with self.display:
                is_whole = self._train(stop)
            if not is_whole:
                return self._result(is_whole=False)
            if len(self.left_out):
                self.display.say(f"left out: {len(self.left_out)} batches; {LEFT_OUT} lists them")
            if self.loss_scale.num_overflows:
                self.display.say(f"float16 overflowed in {self.loss_scale.num_overflows:,} steps")
            if unmoved := self.equal_groups.summary():
                self.display.say(unmoved)
            origin = self._finish_average()
            after = self.measuring.ask_evaluators("after", self.progress.step)
        finally:
            self.saving.wait()
            self.passes.close()
        self._write_model("final", origin)
        return self._result(before=before, after=after, origin=origin)

    def _result(self, **found: Any) -> Result:
        return Result(
            output_dir=self.plan.output_dir,
            num_steps=self.progress.step,
            training_seconds=self.progress.training_seconds,
            # A run that goes on without its rows has one of an earlier step.
            eval_loss=None if self.data.eval is None else self.progress.eval_loss,
            **found,
        )

    def _train(self, stop: StopRequest) -> bool:
        """False where a rehearsal ended it."""
        self.model.train()
        if self.progress.step == 0 and "roll_back" in self.trainer.remedies.values():
            self.save()
        while not self._has_ended():
            stopping = self.step(stop)
            if self._is_rehearsed():
                return False
            if (seconds := self.saving.take_seconds()) is not None:
                self.deadline.note_save(seconds)
            done = self.progress.step
            last = done == self.steps.num_steps
            taken = done not in self.left_out
            if last or (taken and self._is_evaluated(done)):
                started = time.monotonic()
                with self.averaging.in_place():
                    self._evaluate()
                self.deadline.note_evaluation(time.monotonic() - started)
            patience_ended = self._has_patience_ended()
            due = taken and self.passes.can_save(done, self.steps.checkpoint_every)
            stopping = stopping if self.passes.can_save(done, 1) else ""
            mistaken = self.measuring.unknown_metric()
            ends = bool(last or stopping or patience_ended or mistaken)
            if ends or due:
                self.save(ends=ends)
            if mistaken is not None:
                raise UserError(mistaken)
            if patience_ended:
                self.display.say(f"stopped early at step {done}: evaluation no longer improves")
            elif stopping and not last:
                raise Interrupted(
                    f"stopped {stopping} after step {done}; the state is saved",
                    hint="start the same command again to go on",
                )
        return True

    def _has_ended(self) -> bool:
        return self.progress.step >= self.steps.num_steps or self._has_patience_ended()

    def _has_patience_ended(self) -> bool:
        return self.measuring.has_patience_ended(self.progress)

    def _is_evaluated(self, step: int) -> bool:
        every = self.steps.evaluate_every
        return step == self.steps.num_steps or (every > 0 and step % every == 0)

    def _why_to_stop(self, stop: StopRequest) -> str:
        """The same on every process; empty: the run goes on.

        Raises:
            OSError: a checkpoint could not be written, on every process.
        """
        current = self.progress.step + 1
        evaluates = self._is_evaluated(current) or self._is_evaluated(current + 1)
        late = self.deadline.is_near(evaluates=evaluates)
        asked = [bool(stop), late, self.saving.has_failed]
        signals, limits, failures = sum_over_processes(self.accelerator, asked)
        if failures:
            self.saving.join()
        if signals:
            return "by a signal"
        if limits:
            return f"before the end of {self.deadline.name}"
        return ""

    def _is_rehearsed(self) -> bool:
        """Whether no more is to be seen of how this run repeats another; the same everywhere."""
        rehearsal = self.rehearsal
        if self.progress.step == rehearsal.last_step:
            return True
        if rehearsal.has_differed is None:
            return False
        return broadcast_object(self.directory.is_main and rehearsal.has_differed())

    def step(self, stop: StopRequest) -> str:
        """One optimizer step; why the run has to stop after it, empty where it hasn't."""
        started = time.monotonic()
        step = self.progress.step
        self.peers.at(step + 1)
        if step + 1 in self.left_out:
            self._pass_over(ids_of(self.feed.global_batch(step)))
            return self._why_to_stop(stop)
        # Dropout is a function of (seed, step, data), so a resumed run draws the same.
        torch.manual_seed(step_seed(self.trainer.seed, step, token_share(self.accelerator)))
        if isinstance(self.adapter, Stepping):
            self.adapter.before_step(
                self.plain_model, step, self.steps.num_steps, self.trainer.seed
            )
        adapter = self.adapter
        penalty = adapter.penalty(self.plain_model) if isinstance(adapter, Penalising) else None
        passed = self.passes.backward(step, penalty)
        self.num_passes += passed.num_passes
        stopping = self._why_to_stop(stop)
        learning_rate = float(self.scheduler.get_last_lr()[0])
        try:
            grad_norm = self._update(passed)
        except Unusable as fault:
            self.spread.zero_grad()
            self._leave_out(fault, passed)
            return stopping
        if overflow := self.loss_scale.after_step(step + 1, grad_norm):
            self.display.say(overflow)
        if unmoved := self.equal_groups.after_step(step + 1, passed.means):
            self.display.say(unmoved)
        self.loss_watch.note(passed.means["loss"])
        self.scheduler.step()
        if isinstance(self.adapter, Stepping):
            self.adapter.after_step(self.plain_model, step, self.steps.num_steps)
        self.averaging.after_step(step + 1)
        self.spread.zero_grad()
        seconds = time.monotonic() - started
        self.progress.step += 1
        self.progress.num_tokens += int(passed.num_tokens)
        self.progress.num_trained_tokens += int(passed.num_trained_tokens)
        self.progress.training_seconds += seconds
        self.deadline.note_step(seconds)
        self._note_samples(step, passed)
        self._log(
            **passed.means,
            **({} if penalty is None else {"penalty": float(penalty.detach())}),
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            **self.loss_scale.metrics(),
            tokens_per_second=passed.num_tokens / seconds,
        )
        return stopping

    # ---- parts of a step

    @span("optimizer")
    def _update(self, passed: Passed) -> float:
        """Steps the optimizer, where the backward pass hasn't; the norm of the whole gradient."""
        check = partial(self.loss_watch.check, passed.means["loss"])
        if self.in_backward is None:
            return self.spread.step(self.trainer.max_grad_norm, check)
        norm = self.in_backward.take_grad_norm()
        check(norm)
        return norm

    # ---- batches that are left out

    def _leave_out(self, fault: Unusable, passed: Passed) -> None:
        """The current step isn't taken: as the recipe says, the run fails or goes on without it.

        Raises:
            RunFailed: it fails.
        """
        step = self.progress.step + 1
        ids = ids_of(self.feed.global_batch(self.progress.step))
        if fault.remedy == "stop":
            self._note_samples(step - 1, passed)
            raise RunFailed(
                f"step {step}: {fault.reason}; its samples: {', '.join(ids)}",
                hint="nothing of the step is saved; look at these rows with `framework preview`, "
                "lower trainer.learning_rate, write model.dtype: float32, or leave such batches "
                "out with trainer.on_nan or trainer.loss_spike",
            )
        if fault.remedy == "skip":
            self.left_out.refuse_endless(step, step)
            losses = written_losses(passed.sample_losses)
            row = LeftOutStep(
                step=step, ids=ids, losses=losses, reason=fault.reason, fault_step=step
            )
            self.left_out.add([row])
        else:
            self._note_samples(step - 1, passed)
            self._roll_back(fault)
        self._pass_over(ids)

    def _pass_over(self, ids: Sequence[str]) -> None:
        """The current step counts as done, with nothing learned from it."""
        step = self.progress.step + 1
        self.left_out.refuse_other_data(step, ids)
        self.scheduler.step()
        self.progress.step = step
        self.records.add_left_out(self.left_out[step])
        self.display.say(f"step {step}: {self.left_out[step].reason}; left out: {', '.join(ids)}")

    def _roll_back(self, fault: Unusable) -> None:
        """To the last checkpoint; the steps since then, the current one included, are left out.

        As in PaLM (Chowdhery et al., 2022, section 5.1): the batches before a spike made it.
        """
        step = self.progress.step + 1
        path = self.saving.newest()
        if path is None:
            raise RunFailed(
                f"step {step}: {fault.reason}; there is no whole checkpoint to go back to",
                hint="start the same command again",
            )
        back_to = step_of(path)
        self.left_out.refuse_endless(step, back_to + 1)
        is_main = self.directory.is_main
        seen = broadcast_object(
            self.directory.rows_after("samples.jsonl", back_to) if is_main else []
        )
        self.left_out.take_back(seen, step, back_to, fault.reason)
        self.directory.forget_after(back_to)
        for undone in range(back_to + 1, step):
            self.records.add_left_out(self.left_out[undone])
        now = self.progress
        self._restore(path)
        self.progress.step = now.step
        self.progress.training_seconds = now.training_seconds
        # The optimizer's learning rates are again those of then.
        for group, rate in zip(
            self.spread.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True
        ):
            group["lr"] = rate
        self.display.say(f"step {step}: {fault.reason}; went back to the state after {back_to}")

    # ---- measuring

    def _note_samples(self, step: int, passed: Passed) -> None:
        """Writes down which samples step `step`, from 0, sees."""
        ids = ids_of(self.feed.global_batch(step))
        self.records.add_samples(step + 1, ids, passed.sample_losses)

    def _log(self, **metrics: float) -> None:
        done = self.progress.step
        row = {
            "step": done,
            "epoch": self.feed.epoch(done),
            **metrics,
            "num_tokens": self.progress.num_tokens,
            "num_trained_tokens": self.progress.num_trained_tokens,
            **peak_bytes(self.accelerator.device),
        }
        self.records.add_step(row)

    def _evaluate(self) -> None:
        row = self.measuring.evaluate(self.progress)
        if row:
            epoch = self.feed.epoch(self.progress.step)
            self.records.add({"step": self.progress.step, "epoch": epoch, **row})
            shown = metrics_text(row, EVALUATION)
            self.display.say(f"step {self.progress.step}: evaluation {shown}")
        self.measuring.watch(self.progress.step)

    # ---- saving

    def _refuse_poison(self) -> None:
        """
        Raises:
            RunFailed: weights or the optimizer's state are no numbers, and nothing is known that
                would mend it.
        """
        (found,) = sum_over_processes(self.accelerator, [num_not_finite(self.spread.optimizer)])
        if not found:
            return
        step = self.progress.step
        reason = f"{found:.0f} of the trained weights and the optimizer's tensors are no numbers"
        if self.trainer.on_nan != "roll_back" or step == 0:
            raise RunFailed(
                f"step {step}: {reason}",
                hint="nothing of it is saved; lower trainer.learning_rate, write model.dtype: "
                "float32, or go back to the last checkpoint with trainer.on_nan: roll_back",
            )
        self.progress.step = step - 1
        self._roll_back(Unusable(reason, "roll_back"))
        self.records.add_left_out(self.left_out[step])
        self.progress.step = step

    @span("save")
    def save(self, *, ends: bool = False) -> None:
        """A checkpoint of good weights.

        Args:
            ends: the run ends with it; else none is written of a step that is left out.
        """
        self._refuse_poison()
        if self.progress.step in self.left_out and not ends:
            return
        # What the one before it has captured goes first.
        self.saving.join()
        captured = [self.spread.capture(), self.averaging.capture()]
        if self.directory.is_main:
            captured.append(capture_memory(self.adapter, self.plain_model))
        self.saving.save(partial(_write_all, captured), self._checkpoint(), ends=ends)

    def _checkpoint(self) -> Callable[[Write], Path]:
        """What makes the checkpoint of this moment."""
        states = {
            "scheduler": self.scheduler.state_dict(),
            "feed": self.feed.state(),
            "losses": self.loss_watch.state(),
            "loss_scale": self.loss_scale.state(),
        }
        return partial(
            save_checkpoint,
            self.saving.folder,
            replace(self.progress),
            copy.deepcopy(states),
            self.feed.fingerprint,
            settings=self.recipe.checkpoint,
            evaluation=self.measuring.of_step(self.progress.step),
            num_processes=self.accelerator.num_processes,
        )

    def _finish_average(self) -> Origin:
        """From here on the model is what the run results in; where it is from."""
        origin, path = self.saving.final(self.progress.step, self.recipe.output)
        if path is not None:
            self._load(path)
        ema = self.trainer.ema
        keeps = ema is not None and ema.keep_trained
        write_trained = partial(self._write_model, "final_trained", origin)
        self.averaging.finish(write_trained if keeps else None)
        return origin

    def _write_model(self, name: str, origin: Origin) -> None:
        """The model as it stands, in a folder of the run."""
        with self.spread.whole() as model:
            if self.directory.is_main:
                atomic.replace_folder(
                    self.plan.output_dir / name,
                    lambda folder: save_model(model, self.data, folder, self.plan, origin),
                )

    def _resume(self) -> None:
        path = self.saving.newest()
        self.directory.forget_after(0 if path is None else step_of(path))
        if path is None:
            return
        self.progress, _ = read_progress(path, self.feed.fingerprint)
        final = self.plan.output_dir / "final"
        is_finished = self._has_ended() and final.is_dir()
        if not is_finished:
            self.display.say(origin_of(path, self.accelerator.num_processes))
        states = self._restore(path)
        self.scheduler.load_state_dict(states["scheduler"])
        self.feed.restore(states["feed"], self.progress.step)
        self.loss_scale.restore(states.get("loss_scale"))
        self.display.resume_at(self.progress.step, final if is_finished else None)

    def _restore(self, path: Path) -> Mapping[str, Any]:
        """What is learned, as a checkpoint has it; the states of what only goes forward."""
        self.progress, states = read_progress(path, self.feed.fingerprint)
        self._load(path)
        self.loss_watch.restore(states.get("losses", ()))
        return states

    def _load(self, path: Path) -> None:
        self.spread.load(path)
        self.averaging.load(path)
        load_memory(self.adapter, self.plain_model, path)


def _write_all(captured: Sequence[Write], folder: Path) -> None:
    for write in captured:
        write(folder)
