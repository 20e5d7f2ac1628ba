"""A training from its flags to its evaluated weights, in a run folder that it goes on from."""

import copy
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from results.console import note
from results.errors import PictureError, RunError, UserError
from results.files import write_json
from results.progress import progress, remark
from results.record import RunRecord, command_line
from results.runs import RECORD, create_run_folder, locked, read_record, torchrun_id
from supernet.arch import Arch, format_resolution
from supernet.evaluation.batchnorm import recalibrate
from supernet.evaluation.recalibrated import Recalibration
from supernet.memory import is_out_of_memory, within_memory
from supernet.sharing.checkpoint import RESOLUTIONS, save_checkpoint
from supernet.sharing.supernet import Supernet
from supernet.tasks.loop import core_for_readers
from supernet.training.batches import Order, read_parts
from supernet.training.curves import Curves, draw_curve
from supernet.training.distributed import Ranks
from supernet.training.plan import Ingredients, gather
from supernet.training.snapshots import (
    Facts,
    load_snapshot,
    save_snapshot,
    snapshots,
    step_of,
    without,
)
from supernet.training.sources import begun_with, check_sources, sources_of
from supernet.training.trainer import Alone, Recipe, Trainer, check_alike
from supernet.weights.files import sha256_of
from supernet.weights.header import classes_text

if TYPE_CHECKING:
    from supernet.train import Train

MODEL, ANSWER = "model.safetensors", "evaluation.json"
EPOCHS = 20  # by default
CHECKPOINT_S = 120.0
EVALUATED = 1000  # pictures, between steps


def train(
    command: "Train", settings: dict[str, Any], run: Path | None, ranks: Ranks
) -> dict[str, Any]:
    """Train, or go on with `run`; what the trained weights reach, on the first rank, else {}.

    Raises UserError; what was trained until then is in the run folder.
    """
    ingredients = gather(command, begun_with(run) if run else None)
    if run is not None:
        check_sources(command, ingredients, run, begun=bool(snapshots(run)))
    training = Training(command, ingredients, ranks, run)  # before a folder: it may be refused
    if not ranks.is_first:
        training.go_on()
        return {}
    training.look()
    folder = run or create_run_folder(command.out, f"train-{command.space or 'arch'}")
    training.folder = folder
    again = f"python -m supernet.train --resume {shlex.quote(str(folder))}"
    with locked(folder, f"go on: {again}"):
        _record(command, settings, ingredients, folder, is_new=run is None)
        training.go_on()
        return training.finish()


def _record(
    command: "Train",
    settings: dict[str, Any],
    ingredients: Ingredients,
    folder: Path,
    *,
    is_new: bool,
) -> None:
    """Write run.json, or what a resumed run changes in it: from here on it can be resumed."""
    if not is_new:
        write_json(folder / RECORD, read_record(folder) | {"settings": settings})
        return
    if (folder / RECORD).exists():
        raise RunError(f"{folder} was taken by another run; choose another --out")
    record = RunRecord("supernet.train", settings, sources_of(command, ingredients), command.seed)
    start = {"command_line": command_line("supernet.train"), "torchrun": torchrun_id()}
    write_json(folder / RECORD, record.to_dict() | start)


class Training:
    """A run of training, at its last checkpoint."""

    def __init__(
        self, command: "Train", ingredients: Ingredients, ranks: Ranks, folder: Path | None
    ) -> None:
        """`folder` may be None on ranks that write nothing and begin anew."""
        self.command = command
        self.task = ingredients.task
        self.subnets = ingredients.subnets
        self.resolutions = ingredients.resolutions
        self.notes = ingredients.notes
        self.ranks = ranks
        self.folder = folder
        self.silent = command.json or command.quiet or not ranks.is_first
        if command.compile and ranks.world > 1:
            raise UserError("--compile is for one process; leave it out under torchrun")
        self.recipe = _recipe(command, self.task.num_train)
        parts = ranks.world * self.recipe.accumulate
        if command.batch_size % parts:
            raise UserError(
                f"--batch-size {command.batch_size} does not split into {parts} equal parts, "
                f"{self.recipe.accumulate} on each of {ranks.world} processes; nearest is "
                f"--batch-size {max(round(command.batch_size / parts), 1) * parts}"
            )
        tell = note if ranks.is_first and not command.quiet else None
        self.sampler = ingredients.sampler(command, self.recipe.num_steps, tell=tell)
        self.found = snapshots(folder) if folder else []
        state = None
        if self.found:
            state = state_of(self.found[-1], ingredients.shapes(command))
        model = ingredients.model(command, initialise=not self.found)
        self.trainer = Trainer(
            model, self.task, self.sampler, self.recipe, ranks, ingredients.teacher(command)
        )
        if state is not None:
            take_up(self.trainer, self.found[-1], state)

    def look(self) -> None:
        """Look over the folder before the first step, and say what was assumed or is odd.

        Raises DataError for labels and held-out pictures that cannot be used.
        """
        if self.trainer.done < self.recipe.num_steps:
            self.notes += self.task.check_files()
        limit = self.command.limit
        self.notes += self.task.check_labels(limit, training=True, silent=self.silent)
        for text in () if self.silent else self.notes:
            note(text)

    def go_on(self) -> None:
        """All steps that are left. Raises UserError."""
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
            if self.command.compile and _is_of_compiler(error):
                said = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"--compile failed: {said}; leave --compile out{self._kept()}"
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
        """The flags that save memory."""
        share = self.command.batch_size // self.ranks.world
        more = range(self.recipe.accumulate + 1, share + 1)
        parts = next((n for n in more if share % n == 0), None)
        fewer = "a smaller --batch-size or --resolution in a new run"
        if parts is None:
            return fewer
        return f"--accumulate {parts}, whose parts mix and normalise on their own, or {fewer}"

    def _kept(self) -> str:
        """What is not lost, as the end of an error."""
        if self.folder is None:
            return ""
        found = snapshots(self.folder)
        if not found:
            return f"; no checkpoint was due in {self.folder}"
        return f"; {step_of(found[-1])} steps are kept, go on with --resume {self.folder}"

    def _go_on(self) -> None:
        command, trainer = self.command, self.trainer
        steps = range(trainer.done, self.recipe.num_steps)
        if not steps:
            return
        batches = read_parts(
            self.task,
            self.sampler,
            Order(self.task.num_train, command.batch_size, command.seed),
            steps,
            parts=trainer.parts,
            num_parts=trainer.num_parts,
            workers=command.workers,
            pin_memory=self.ranks.device.type == "cuda",
        )
        total = self.recipe.num_steps
        bar = progress(total, silent=self.silent, label="training", unit="steps")
        with core_for_readers(command.workers), self._logs() as logs, bar as show:
            saved = started = time.perf_counter()
            for _, batch in zip(steps, batches, strict=True):
                with within_memory():
                    report = trainer.step(batch)
                if logs is None:
                    continue
                logs.step(report, time.perf_counter() - started)
                show(report.step, f"loss {report.loss:.3f}")
                every, limit = command.eval_every, min(command.limit or EVALUATED, EVALUATED)
                if every and report.step % every == 0 and report.step < total:
                    for name, arch in self.subnets.items():
                        logs.figures(report.step, name, self.evaluate(arch, limit))
                # after the figures: a run that goes on from here has them all
                if self._is_due(report.step, time.perf_counter() - saved):
                    self._save()
                    saved = time.perf_counter()
                started = time.perf_counter()

    def finish(self) -> dict[str, Any]:
        """Write the model, evaluate it, draw the curve; everything about it, for JSON."""
        assert self.folder is not None
        model = self.folder / MODEL
        with self._averaged():
            trained = self.trainer.model
            save_checkpoint(
                model,
                trained if isinstance(trained, Supernet) else trained.network,
                metadata=self._metadata(),
            )
        sha256, rows, done = sha256_of(model), [], self.trainer.done
        with Curves(self.folder, done, figured=done - 1) as logs:  # these come now, once
            for name, arch in self.subnets.items():
                figures = self._finally(arch, model)
                logs.figures(done, name, figures)
                rows.append(self._row(name, arch, figures, sha256))
        answer: dict[str, Any] = {
            "run": str(self.folder),
            "model": str(model),
            "curve": None,
            "task": self.task.name,
            "dataset": self.task.dataset,
            "data": str(self.command.data) if self.command.data else None,
            "space": self.command.space,
            "steps": done,
            "primary": self.task.primary,
            "evaluations": rows,
        }
        if self.notes:
            answer["notes"] = list(self.notes)
        write_json(self.folder / ANSWER, answer)
        try:
            if curve := draw_curve(self.folder, self.task.primary):
                answer["curve"] = str(curve)
                write_json(self.folder / ANSWER, answer)
        except PictureError as error:  # figures and weights are there without it
            remark(str(error))
        return answer

    def _metadata(self) -> dict[str, str]:
        """What tells the pictures that the weights were trained on."""
        found: dict[str, object] = {"steps": self.trainer.done, "seed": self.command.seed}
        if self.command.num_train is not None:
            found["num_train"] = self.command.num_train
        found |= classes_text(self.task.classes)
        if self.resolutions:
            found[RESOLUTIONS] = ",".join(map(format_resolution, self.resolutions))
        return {name: str(value) for name, value in found.items()}

    def _finally(self, arch: Arch, model: Path) -> dict[str, float]:
        """`evaluate`; the weights in `model` are not lost where memory is short."""
        try:
            return self.evaluate(arch, self.command.limit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            folder = self.command.data
            data = f" --data {shlex.quote(str(folder))}" if folder else ""
            raise UserError(
                f"out of memory in the last evaluation; the weights are in {model}, evaluate them "
                f"by python -m supernet.evaluate --weights {shlex.quote(str(model))}{data} "
                f"--batch-size {max(1, self._evaluated_at_once // 2)}"
            ) from None

    @property
    def _evaluated_at_once(self) -> int:
        """Pictures."""
        return max(1, self.command.batch_size // self.trainer.num_parts)

    def evaluate(self, arch: Arch, limit: int | None) -> dict[str, float]:
        """What a subnet reaches on held-out pictures, statistics computed anew; see the task."""
        device = self.ranks.device
        with within_memory():
            with self._averaged():
                model = self._alone(arch)
            return self.task.evaluate(
                model.eval(),
                arch,
                limit=limit,
                batch_size=self._evaluated_at_once,
                workers=self.command.workers,
                device=device,
                dtype=torch.float32,
            )

    def _alone(self, arch: Arch) -> nn.Module:
        trained = self.trainer.model
        if isinstance(trained, Alone):
            network: nn.Module = copy.deepcopy(trained.network)
            return network
        model = trained.extract(arch)
        assert self.command.recalibration_images is not None
        # as supernet.evaluate does, so that it finds the same figures
        chosen = Recalibration(self.command.recalibration_images)
        pictures = self.task.recalibration_batches(
            arch, chosen.num_images, chosen.even_batch, chosen.seed, self.command.workers
        )
        recalibrate(model, pictures)
        return model

    def _row(self, name: str, arch: Arch, figures: dict[str, float], sha256: str) -> dict[str, Any]:
        primary = self.task.primary
        return {
            "subnet": name,
            "arch": arch.to_dict(),
            "metric": primary,
            "value": figures[primary],
            "stderr": figures.get(f"{primary}_stderr"),
            "n": int(figures["n"]),
            "seed": self.command.seed,
            "weights_sha256": sha256,
            "task": self.task.name,
            "dataset": self.task.dataset,
            "resolution": format_resolution(arch.resolution),
            "metrics": figures,
        }

    def _is_due(self, step: int, since_s: float) -> bool:
        if step == self.recipe.num_steps:
            return True
        every = self.command.checkpoint_every
        return step % every == 0 if every else since_s > CHECKPOINT_S

    def _save(self) -> None:
        assert self.folder is not None
        save_snapshot(self.folder, *self.trainer.state())

    def _logs(self) -> AbstractContextManager[Curves | None]:
        if self.folder is None or not self.ranks.is_first:
            return nullcontext()
        return Curves(self.folder, self.trainer.done)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average of the weights in their place, where there is one."""
        average, model = self.trainer.average, self.trainer.model
        if average is None:
            yield
            return
        average.swap(model)
        try:
            yield
        finally:
            average.swap(model)


def state_of(path: Path, shapes: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Facts]:
    """Read the state in a file. Raises RunError where its model's tensors are not of `shapes`."""
    tensors, facts = load_snapshot(path)
    try:
        check_alike(tensors, {f"model.{name}": tensor for name, tensor in shapes.items()})
    except ValueError as error:
        raise without(RunError(f"{path} is damaged: {error}")) from None
    return tensors, facts


def take_up(
    trainer: Trainer, path: Path, state: tuple[dict[str, Tensor], Facts] | None = None
) -> None:
    """Go on from the state in a file, which may have been read already.

    Raises RunError where it is not of this training.
    """
    try:
        trainer.load(*(state or load_snapshot(path)))
    except ValueError as error:
        raise without(RunError(f"{path} is damaged: {error}")) from None


def _recipe(command: "Train", num_train: int) -> Recipe:
    """Of flags that are filled."""
    epochs = command.epochs or EPOCHS
    num_steps = command.steps or -(-epochs * num_train // command.batch_size)
    warmup = command.warmup if command.warmup is not None else num_steps // 20
    assert command.lr is not None
    assert command.accumulate is not None
    assert command.precision is not None
    return Recipe(
        num_steps=num_steps,
        lr=command.lr,
        weight_decay=command.weight_decay,
        warmup=min(warmup, num_steps),
        clip=command.clip or None,
        accumulate=command.accumulate,
        alpha=command.alpha,
        ema=command.ema,
        precision=command.precision,
        compile=command.compile,
        seed=command.seed,
    )


def _is_of_compiler(error: RuntimeError | MemoryError) -> bool:
    parts = ("torch._dynamo", "torch._inductor")
    return any(kind.__module__.startswith(parts) for kind in type(error).__mro__)
