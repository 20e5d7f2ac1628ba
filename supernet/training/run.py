"""A training from its options to its evaluated weights, in a run folder that it goes on from."""

import os
import shlex
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from results.console import note
from results.errors import PictureError, RunError, UserError
from results.files import write_json
from results.progress import progress, remark
from results.resume import flags_of, resumed
from results.runs import RECORD, open_run, read_record, torchrun_id
from supernet.arch import Arch, format_resolution
from supernet.memory import is_out_of_memory, within_memory
from supernet.sharing.checkpoint import save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.tasks.loop import core_for_readers
from supernet.training.batches import PartDraws, PictureOrder, read_parts
from supernet.training.curves import Curves, draw_curve
from supernet.training.distributed import Ranks, joined
from supernet.training.evaluation import evaluate_subnet, held_out_figure, pictures_at_once, row_of
from supernet.training.networks import first_model, load_teacher, sampler_of, shapes_of
from supernet.training.options import MAY_CHANGE, UNRECORDED, Messages, TrainingOptions
from supernet.training.plan import TrainingPlan, plan_training
from supernet.training.snapshots import (
    Facts,
    load_snapshot,
    save_snapshot,
    snapshots,
    step_of,
    without,
)
from supernet.training.sources import begun_with, check_sources, sources_of
from supernet.training.trainer import Trainer, check_alike
from supernet.weights.header import WeightsHeader
from supernet.weights.preprocessing import preprocessing_of
from supernet.weights.tensors import sha256_of

COMMAND = "supernet.train"
MODEL, ANSWER = "model.safetensors", "evaluation.json"
OLD = {"class_order": "text"}  # options that older versions lacked, and what they did
CHECKPOINT_S = 120.0
EVALUATED = 1000  # pictures, between steps


def train(options: TrainingOptions, messages: Messages = Messages.NONE) -> dict[str, Any]:
    """Train as `options` say, or go on with the run that they name.

    With `options.resume` its other options come from that run, but for those of MAY_CHANGE that
    are given. Processes that torchrun starts train together, see `supernet.training.distributed`.

    Returns:
        What evaluation.json holds: the run's folder, the weights' file, and what the evaluated
        subnets reach, a row each. Of all processes but the first {}.

    Raises UserError; what was trained until then is in the run folder.
    """
    run = _run_to_resume(options)
    if run is not None:
        options = _resumed(options, run)
    options.check()
    with joined(options.accelerator) as ranks:
        plan = plan_training(options, begun_with(run) if run else None)
        if run is not None:
            check_sources(plan, run, begun=bool(snapshots(run)))
        training = TrainingRun(plan, ranks, run, messages)  # before a folder: it may be refused
        if not ranks.is_first:
            del plan
            training.go_on()
            return {}
        training.look()
        name = f"train-{options.space or 'arch'}"
        with open_run(COMMAND, options.out, name, resume=run) as held:
            begun = {"torchrun": torchrun_id()} if held.is_new else {}
            sources = sources_of(plan) if held.is_new else {}
            held.record(flags_of(plan.given, UNRECORDED), sources, options.seed, **begun)
            del plan  # with the weights that were read
            training.folder = held.folder
            training.go_on()
            return training.finish()


def _run_to_resume(options: TrainingOptions) -> Path | None:
    """Return the run to go on with: also that in --out where torchrun started us once more."""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if options.resume is not None or not restarted:
        return options.resume
    run = options.out
    if run is None:
        raise RunError("torchrun can only start a training again that has an --out DIR")
    if not (run / RECORD).exists():
        return None
    first = os.environ.get("RANK", "0") == "0"  # others may have another torchrun as parent
    if first and read_record(run).get("torchrun") != torchrun_id():
        raise RunError(f"{run} holds another run; choose another --out, or --resume {run}")
    return run


def _resumed(options: TrainingOptions, run: Path) -> TrainingOptions:
    """Return the options of `run`, with those in `options` that may change.

    Raises RunError where others are given, or `run` is none of a training.
    """
    steps, epochs = options.steps, options.epochs
    options = resumed(
        options,
        OLD | read_record(run, COMMAND)["settings"],
        run,
        unrecorded=UNRECORDED,
        may_change=MAY_CHANGE,
    )
    if steps is not None and epochs is not None:
        raise UserError("give --steps or --epochs, not both")
    if steps is not None or epochs is not None:
        options = replace(options, steps=steps, epochs=epochs)
    return options


class TrainingRun:
    """A training at its last checkpoint, and how it goes on."""

    def __init__(
        self,
        plan: TrainingPlan,
        ranks: Ranks,
        folder: Path | None,
        messages: Messages = Messages.NONE,
    ) -> None:
        """`folder` holds the checkpoints to go on from; None: begin with the first step.

        Raises UserError where the plan cannot be carried out by these processes or files.
        """
        self.plan = replace(plan, init=None, teacher=None)  # once networks have them
        self.ranks = ranks
        self.folder = folder
        self.messages = messages if ranks.is_first else Messages.NONE
        self.notes = plan.notes
        options, recipe = plan.options, plan.recipe
        if recipe.compile and ranks.world > 1:
            raise UserError("--compile is for one process; leave it out under torchrun")
        parts = ranks.world * recipe.accumulate
        if options.batch_size % parts:
            raise UserError(
                f"--batch-size {options.batch_size} does not split into {parts} equal parts, "
                f"{recipe.accumulate} on each of {ranks.world} processes; nearest is "
                f"--batch-size {max(round(options.batch_size / parts), 1) * parts}"
            )
        tell = note if self.messages >= Messages.NOTES else None
        self.sampler = sampler_of(plan, tell)
        taken = snapshots(folder) if folder else []
        state = read_state(taken[-1], shapes_of(plan)) if taken else None
        model = first_model(plan, with_init=not taken, tell=tell)
        self.trainer = Trainer(model, plan.task, self.sampler, recipe, ranks, load_teacher(plan))
        if state is not None:
            load_state(self.trainer, taken[-1], state)

    @property
    def silent(self) -> bool:
        """Tell whether neither progress nor the notes of the answer are shown."""
        return self.messages < Messages.PROGRESS

    def look(self) -> None:
        """Look over the folder before the first step, and say what was assumed or is odd.

        Raises DataError for labels and held-out pictures that cannot be used.
        """
        task, limit = self.plan.task, self.plan.options.limit
        if self.trainer.done < self.plan.recipe.num_steps:
            self.notes += task.source.check_files()
        self.notes += task.source.check_labels(limit, training=True, silent=self.silent)
        for text in () if self.silent else self.notes:
            note(text)

    def go_on(self) -> None:
        """Make all steps that are left. Raises UserError."""
        self.ranks.check_together(self.trainer.done)
        try:
            self._go_on()
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                size = format_resolution(self.sampler.draw(self.trainer.done).resolution)
                raise UserError(
                    f"out of memory at step {self.trainer.done + 1}, {size} px; try "
                    f"{self._smaller()}{self._kept()}"
                ) from None
            if self.plan.recipe.compile and _is_of_compiler(error):
                reason = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"--compile failed: {reason}; leave --compile out{self._kept()}"
                ) from None
            raise
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "one picture of so few positions has no variance; take a larger --batch-size or "
                f"--resolution, or a smaller --accumulate{self._kept()}"
            ) from None
        except UserError as error:
            raise type(error)(f"{error}{self._kept()}") from None

    def _smaller(self) -> str:
        """Return the flags that save memory."""
        share = self.plan.options.batch_size // self.ranks.world
        more = range(self.plan.recipe.accumulate + 1, share + 1)
        parts = next((n for n in more if share % n == 0), None)
        fewer = "a smaller --batch-size or --resolution in a new run"
        if parts is None:
            return fewer
        return f"--accumulate {parts}, whose parts mix and normalise on their own, or {fewer}"

    def _kept(self) -> str:
        """Return what is not lost, as the end of an error."""
        if self.folder is None:
            return ""
        taken = snapshots(self.folder)
        if not taken:
            return f"; no checkpoint was due in {self.folder}"
        return f"; {step_of(taken[-1])} steps are kept, go on with --resume {self.folder}"

    def _go_on(self) -> None:
        plan, options, trainer = self.plan, self.plan.options, self.trainer
        total = plan.recipe.num_steps
        steps = range(trainer.done, total)
        if not steps:
            return
        order = PictureOrder(plan.task.num_train, options.batch_size, options.seed)
        draws = PartDraws(self.sampler, order, steps, trainer.parts, trainer.num_parts)
        on_gpu = self.ranks.device.type == "cuda"
        batches = read_parts(plan.task, draws, workers=options.workers, pin_memory=on_gpu)
        bar = progress(total, silent=self.silent, label="training", unit="steps")
        with core_for_readers(options.workers), self._logs() as logs, bar as show:
            saved = started = time.perf_counter()
            for _, batch in zip(steps, batches, strict=True):
                with within_memory():
                    report = trainer.step(batch)
                if logs is None:
                    continue
                logs.step(report, time.perf_counter() - started)
                show(report.step, f"loss {report.loss:.3f}")
                every = options.eval_every
                if every and report.step % every == 0 and report.step < total:
                    self._log_figures(logs, report.step)
                # after the figures: a run that goes on from here has them all
                if self._is_due(report.step, time.perf_counter() - saved):
                    self._save()
                    saved = time.perf_counter()
                started = time.perf_counter()

    def _log_figures(self, logs: Curves, step: int) -> None:
        limit = min(self.plan.options.limit or EVALUATED, EVALUATED)
        for name, arch in self.plan.evaluated_subnets.items():
            logs.figures(step, name, evaluate_subnet(self.trainer, self.plan, arch, limit))

    def finish(self) -> dict[str, Any]:
        """Write the model, evaluate it, draw the curve; return everything about it, for JSON."""
        assert self.folder is not None
        plan, task, model = self.plan, self.plan.task, self.folder / MODEL
        subnets, done = plan.evaluated_subnets, self.trainer.done
        figures: dict[str, dict[str, float]] = {}
        try:
            # drops figures of this step from an earlier end of the run, as they are logged again
            with Curves(self.folder, done, figured=done - 1) as logs:
                for name, arch in subnets.items():
                    figures[name] = self._finally(arch, model)
                    logs.figures(done, name, figures[name])
        finally:  # weights are not lost where an evaluation fails
            self._write(model, figures)
        circumstances = {"seed": plan.options.seed, "weights_sha256": sha256_of(model)}
        rows = [row_of(n, arch, figures[n], task, circumstances) for n, arch in subnets.items()]
        answer: dict[str, Any] = {
            "run": str(self.folder),
            "model": str(model),
            "curve": None,
            "task": task.name,
            "dataset": task.dataset,
            "data": str(plan.options.data) if plan.options.data else None,
            "space": plan.options.space,
            "steps": done,
            "primary": task.primary,
            "evaluations": rows,
        }
        if self.notes:
            answer["notes"] = list(self.notes)
        write_json(self.folder / ANSWER, answer)
        try:
            if curve := draw_curve(self.folder, task.primary):
                answer["curve"] = str(curve)
                write_json(self.folder / ANSWER, answer)
        except PictureError as error:  # figures and weights are there without it
            if self.messages >= Messages.TROUBLE:
                remark(str(error))
        return answer

    def _write(self, model: Path, figures: dict[str, dict[str, float]]) -> None:
        """Write the weights, with what they reach where `figures` tell it."""
        plan = self.plan
        name, arch = next(iter(plan.evaluated_subnets.items()))
        header = WeightsHeader(
            resolutions=plan.resolutions,
            classes=plan.task.classes,
            preprocessing=preprocessing_of(arch),
            steps=self.trainer.done,
            seed=plan.options.seed,
            num_train=plan.options.num_train,
            accuracy=held_out_figure(plan.task, figures[name]) if name in figures else None,
        )
        with self.trainer.averaged():
            trained = self.trainer.model
            save_checkpoint(
                model,
                trained if isinstance(trained, Supernet) else trained.network,
                metadata=header.to_metadata(),
            )

    def _finally(self, arch: Arch, model: Path) -> dict[str, float]:
        """Return the last figures; the weights in `model` are not lost where memory is short."""
        try:
            return evaluate_subnet(self.trainer, self.plan, arch, self.plan.options.limit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            folder = self.plan.options.data
            data = f" --data {shlex.quote(str(folder))}" if folder else ""
            raise UserError(
                f"out of memory in the last evaluation; the weights are in {model}, evaluate them "
                f"by python -m supernet.evaluate --weights {shlex.quote(str(model))}{data} "
                f"--batch-size {max(1, pictures_at_once(self.trainer, self.plan) // 2)}"
            ) from None

    def _is_due(self, step: int, since_s: float) -> bool:
        if step == self.plan.recipe.num_steps:
            return True
        every = self.plan.options.checkpoint_every
        return step % every == 0 if every else since_s > CHECKPOINT_S

    def _save(self) -> None:
        assert self.folder is not None
        save_snapshot(self.folder, *self.trainer.state())

    def _logs(self) -> AbstractContextManager[Curves | None]:
        if self.folder is None or not self.ranks.is_first:
            return nullcontext()
        return Curves(self.folder, self.trainer.done)


def read_state(path: Path, shapes: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Facts]:
    """Read the state in a file. Raises RunError where its model's tensors are not of `shapes`."""
    tensors, facts = load_snapshot(path)
    try:
        check_alike(tensors, {f"model.{name}": tensor for name, tensor in shapes.items()})
    except ValueError as error:
        raise without(RunError(f"{path} is damaged: {error}")) from None
    return tensors, facts


def load_state(
    trainer: Trainer, path: Path, state: tuple[dict[str, Tensor], Facts] | None = None
) -> None:
    """Give a trainer the state in a file, which may have been read already.

    Raises RunError where it is not of this training.
    """
    try:
        trainer.load(*(state or load_snapshot(path)))
    except ValueError as error:
        raise without(RunError(f"{path} is damaged: {error}")) from None


def _is_of_compiler(error: RuntimeError | MemoryError) -> bool:
    parts = ("torch._dynamo", "torch._inductor")
    return any(kind.__module__.startswith(parts) for kind in type(error).__mro__)
