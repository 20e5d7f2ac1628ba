"""A fit from its options to its files: `fit_model(FitOptions(rows=..., column="top1", ...))`."""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from predictors.models.choose import AUTO, Evidence, encoded, fit_table
from predictors.models.file import SUFFIX, Origin, write_model
from predictors.models.judge import noise_ceiling
from predictors.models.model import KINDS, Model
from predictors.models.options import FitOptions
from predictors.models.table import Table
from predictors.rows import read_rows
from results.console import note
from results.errors import PredictorError, check_choice, printable, shortened
from results.files import write_json
from results.reading import read_bytes
from results.record import command_line
from results.resume import flags_of
from results.runs import open_run

COMMAND = "predictors.fit"
RECORD, PICTURE = "fit.json", "fit.png"


@dataclass(frozen=True)
class Read:
    """What is fitted, and what is said of it."""

    table: Table
    path: Path
    sha256: str
    target: str
    unit: str  # of differences
    notes: tuple[str, ...]
    origin: Origin | None  # of evaluated subnets
    stderr: float | None = None  # of a value, where lines tell it


@dataclass(frozen=True)
class FitResult:
    """A model, where it is, and what it was judged by."""

    read: Read
    model: Model
    evidence: Evidence
    path: Path  # of the model
    folder: Path  # of the record and the picture

    @property
    def more(self) -> str:
        """Return how to get twice as many rows, and fit again."""
        count = self.model.judgement.rows
        again = command_line(COMMAND) or f"python -m {COMMAND} ..."
        if self.read.origin is None:
            return f"add rows to {self.read.path}, then {again}"
        sample = f"--sample {2 * count} --out {shlex.quote(str(self.read.path))}"
        return f"python -m supernet.evaluate --weights CHECKPOINT {sample} && {again}"

    @property
    def noise_ceiling(self) -> float | None:
        """Return the tau of two evaluations of the same rows; None where no error is told."""
        if not self.read.stderr:
            return None
        return noise_ceiling(self.evidence.table.values, self.read.stderr)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints and the record keeps."""
        model = self.model
        return {
            "model": str(self.path),
            "run": str(self.folder),
            "target": self.read.target,
            "kind": model.kind,
            "weights": model.weights,
            "interval": msgspec.to_builtins(model.interval),
            "bend": model.warp.bend,
            "stderr": self.read.stderr,
            "noise_ceiling_tau": self.noise_ceiling,
            **msgspec.to_builtins(model.judgement),
        }


def fit_model(options: FitOptions, *, notes: bool = False) -> FitResult:
    """Fit, and write the model, run.json and fit.json; the picture is drawn by `report.draw`.

    Args:
        notes: say on stderr what was assumed of the file.

    Raises UserError, before anything is written, for whatever the options name wrongly, and where
    the rows cannot be fitted.
    """
    check_choice("model", options.model, (AUTO, *KINDS), PredictorError)
    if options.out is not None and options.out.suffix != SUFFIX:
        raise PredictorError(f"--out {options.out} must end in {SUFFIX}")
    read = _read(options)
    for text in read.notes if notes else ():
        note(text)
    encoded(read.table)  # refused before a folder is made
    name = f"fit-{shortened(printable(read.path.stem), 60)}"
    with open_run(COMMAND, options.report, name, flag="--report", interrupted="fit again") as run:
        sources = {"file": read.path.name, "sha256": read.sha256, "target": read.target}
        run.record(flags_of(options, ("out", "report")), sources, 0)
        model, evidence = fit_table(read.table, model=options.model, curve=True)
        path = options.out or run.path(f"model{SUFFIX}")
        write_model(path, model, read.target, read.origin)
        result = FitResult(read, model, evidence, path, run.folder)
        write_json(run.path(RECORD), result.to_dict())
    return result


def _read(options: FitOptions) -> Read:
    """Return what is fitted. Raises UserError where the flags do not go together."""
    if (options.rows is None) == (options.subnets is None):
        raise PredictorError("give either --rows FILE.csv, or --subnets FILE.jsonl")
    if options.subnets is not None:
        given = {"--column": options.column, "--genes": options.genes}
        given["--features"] = options.features
        for flag, value in given.items():
            if value:
                raise PredictorError(f"{flag} goes with --rows; leave it out")
        return _read_subnets(options.subnets, options.space)
    assert options.rows is not None
    if options.column is None:
        raise PredictorError("name the column to predict: --column NAME")
    if options.space is not None:
        raise PredictorError("--space goes with --subnets; leave it out")
    rows = read_rows(options.rows, options.column, options.genes, options.features)
    notes = [rows.remark] if rows.remark else []
    if rows.ignored:
        notes.append(f"columns not used: {', '.join(rows.ignored)}")
    if count := rows.table.num_repeated:
        notes.append(
            f"{count} row{' has' if count == 1 else 's have'} the same genes and features as "
            f"others: their {rows.column} was averaged, {rows.table.repeats_apart:.3g} apart at "
            "most"
        )
    digest = hashlib.sha256(read_bytes(options.rows, error=PredictorError)).hexdigest()
    return Read(rows.table, options.rows, digest, rows.column, "", tuple(notes), None)


def _read_subnets(path: Path, space: str | None) -> Read:
    from predictors.evaluated_space import space_of_subnets
    from predictors.evaluations import read_evaluations, unit_of_task
    from predictors.learned import origin_of, table_of

    evaluations = read_evaluations(path)
    searched = space_of_subnets(evaluations, space)
    table = table_of(evaluations, searched)
    notes = []
    if count := evaluations.num_repeated:
        notes.append(
            f"{count} line{' repeats' if count == 1 else 's repeat'} a subnet: their values were "
            f"averaged, {evaluations.repeats_apart:.3g} apart at most"
        )
    if evaluations.others:
        notes.append(f"lines of other figures passed over: {', '.join(evaluations.others)}")
    origin = origin_of(evaluations, searched)
    unit = unit_of_task(evaluations.task)
    return Read(
        table,
        path,
        evaluations.sha256,
        evaluations.metric,
        unit,
        tuple(notes),
        origin,
        evaluations.stderr,
    )
