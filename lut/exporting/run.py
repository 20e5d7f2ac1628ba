"""An export: networks, their files, each checked before it has its name, and the manifest."""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from lut.builders.pipeline import OutputHead
from lut.exporting.check import Difference, Example, difference, examples_of, rounding_of, told
from lut.exporting.decoder import DecoderJob
from lut.exporting.formats import FORMATS, TOLERANCE, FileForm, require_all
from lut.exporting.int8 import allowed, calibrated, costly_blocks, loss_of, told_int8
from lut.exporting.job import Job
from lut.exporting.networks import Network, Plan, plan_networks
from lut.exporting.options import ExportOptions, Prediction, Wanted, check_names
from results.errors import RunError, UserError, reason_of
from results.files import write_json
from results.record import command_line, commit, now, versions
from results.runs import LOCK, open_run
from supernet.arch import format_resolution

COMMAND = "nas.export"
MANIFEST = "manifest.json"
UNCHECKED = ".unchecked-"  # begins the name of a file until it has been held against PyTorch
REJECTED = ".rejected"  # ends that of one that is not what PyTorch is


@dataclass(frozen=True)
class Exported:
    """What an export left."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """Return the entries of files that are not what PyTorch is."""
        return [
            file
            for network in self.manifest["networks"]
            for file in network["files"]
            if file["status"] != "checked"
        ]


def export(
    options: ExportOptions,
    wanted: Sequence[Wanted],
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write the files of networks into a new folder, and last of all the manifest.

    Every file is run by its own runtime and held against PyTorch before it gets its name; one
    that differs ends in `.rejected`, and the manifest says so. `tell` is given what was assumed,
    in one line.

    Raises UserError for options, networks, weights and pictures that do not go together, before
    anything is written where it can be told then.
    """
    options.check()
    check_names(tuple(wanted))
    require_all(options.forms)
    plans = plan_networks(options, wanted, tell)
    again = "nothing is kept that was not checked; export again into a new folder"
    with open_run(COMMAND, options.out, "export", interrupted=again) as run:
        if run.path(MANIFEST).exists():
            raise RunError(f"{run.folder} was taken by another export; choose another --out")
        networks = [_export(plan, options, run.folder) for plan in plans]
        manifest = {
            "command_line": command_line(COMMAND),
            "date": now().isoformat(timespec="seconds"),
            "commit": commit(),
            "versions": versions(),
            "tolerance_fp32": TOLERANCE,
            "networks": networks,
        }
        manifest = json.loads(json.dumps(manifest, allow_nan=False))  # as whoever reads it has it
        write_json(run.path(MANIFEST), manifest)
        run.path(LOCK).unlink(missing_ok=True)
    return Exported(run.folder, manifest)


def _export(plan: Plan, options: ExportOptions, folder: Path) -> dict[str, Any]:
    """Write the files of one network, and return what the manifest says of it."""
    network = plan.make()
    jobs = [_job(network, form, options) for form in options.forms]
    if network.decoder:
        jobs += [_decoder_job(network, form, options) for form in options.forms]
    examples = examples_of(jobs[0], options)
    holds = plan.wanted.arch == network.arch  # no flag made another network of it
    predictions = plan.wanted.predictions if holds else ()
    files = [_write(job, examples, folder, predictions, options) for job in jobs]
    head = network.arch.head
    return {
        "name": network.name,
        "asked": plan.wanted.text,
        "task": network.arch.task,
        "resolution": format_resolution(network.arch.resolution),
        "num_classes": getattr(head, "num_classes", None),
        "classes": list(network.header.classes) or None,
        "weights": network.weights,
        "preprocessing": asdict(network.model.preprocessing),
        "input_type": options.input_type,
        "head": options.head,
        "batch": options.batch,
        "dynamic": options.dynamic,
        "checked_on": _pictures(network, options),
        "predicted_latency": [asdict(prediction) for prediction in predictions],
        "arch": network.arch.to_dict(),
        "files": files,
    }


def _job(network: Network, form: FileForm, options: ExportOptions) -> Job:
    return Job(
        network,
        form,
        options.batch,
        options.input_type,
        cast(OutputHead, options.head),
        dynamic=options.dynamic or "",
    )


def _pictures(network: Network, options: ExportOptions) -> str:
    """Tell which pictures files are held against PyTorch on."""
    if options.data:
        return str(options.data)
    if network.task:
        return f"{network.task.dataset} (embedded)"
    return f"seeded noise, seed {options.seed}"


def _decoder_job(network: Network, form: FileForm, options: ExportOptions) -> DecoderJob:
    return DecoderJob(network, form, 1, "float", "logits", num_points=options.points)


def _write(
    job: Job,
    examples: list[Example],
    folder: Path,
    predictions: Sequence[Prediction],
    options: ExportOptions,
) -> dict[str, Any]:
    """Write one network in one format, check it, and return its entry."""
    module = importlib.import_module(f"lut.exporting.{job.form.format}_file")
    is_int8 = job.form.precision == "int8"
    if is_int8:
        job = calibrated(job, module, options)
    unchecked = module.write(job, folder / f"{UNCHECKED}{job.stem}")
    runtime, reason, extra, found = None, None, {}, Difference(None, None, 0)
    try:
        loaded = module.load(unchecked[0], job)
        runtime, extra = loaded.runtime, loaded.told
        if isinstance(job, DecoderJob):
            found = job.difference(loaded.run, examples, options.seed)
        else:
            found = difference(loaded.run, job, examples)
    except UserError:
        raise
    except Exception as error:  # whatever a runtime raises where it does not take a file
        reason = reason_of(error)
    rounding = _rounding(job, found, examples)
    is_good = found.holds(job.form.precision, rounding or 0.0)
    if is_int8:
        loss = loss_of(loaded, job, options) if is_good else None
        is_good &= loss is None or loss.drop <= allowed(options, loss)
        tried = folder / f"{UNCHECKED}alone-{job.stem}"
        is_lost = not is_good and reason is None
        costly = costly_blocks(job, module, examples, tried) if is_lost else ()
        extra = {**extra, "int8": told_int8(job, options, loss, costly)}
    files = [_told_file(path, "" if is_good else REJECTED) for path in unchecked]
    entry = {
        **files[0],
        "companions": files[1:],
        "format": job.form.format,
        "precision": job.form.precision,
        "part": job.part or None,
        "status": "checked" if is_good else "rejected",
        **told(found),
        "pytorch_rounding": rounding,
        "checked_with": runtime,
        **extra,
        "reason": reason,
        "predicted_latency": _prediction(job, predictions),
    }
    for path, file in zip(reversed(unchecked), reversed(files), strict=True):
        os.replace(path, folder / file["name"])
    return entry


def _rounding(job: Job, found: Difference, examples: list[Example]) -> float | None:
    """Return PyTorch's own rounding where a file is off by more than the tolerance, else None."""
    is_near = (found.relative or 0.0) <= TOLERANCE
    if is_near or job.form.precision != "fp32" or isinstance(job, DecoderJob):
        return None
    return rounding_of(job, examples)


def _told_file(path: Path, ending: str) -> dict[str, Any]:
    """Return what the manifest says of a file; its name once it has been checked."""
    from supernet.weights.tensors import sha256_of

    name = path.name.removeprefix(UNCHECKED) + ending
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _prediction(job: Job, predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Return what a run predicts for such a file: of its runtime, its precision and its batch."""
    runtimes = FORMATS[job.form.format].runtimes
    for own in predictions:
        same = (own.precision, own.batch) == (job.form.precision, job.batch)
        if same and own.runtime in runtimes and job.is_plain and not job.part:
            return asdict(own)
    return None
