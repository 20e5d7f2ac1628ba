"""Measure a latency table of a real device: this machine, one behind ssh, a phone behind adb.

python -m lut.build --device mydevice --space b
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from results.console import main as console_main
from results.console import note
from results.errors import DeviceError, RunError, TargetError, check_choice, printable

if TYPE_CHECKING:
    from lut.device import Device


@dataclass(frozen=True)
class Build:
    """Measure every block of a space on a device and write its latency table."""

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]] of the table; a new NAME starts a new device."""
    target: str = "local"
    """Where to measure: local, ssh://[user@]host[:port], adb:SERIAL or adb."""
    runtime: str | None = None
    """onnxruntime, litert, pytorch or tensorrt; by default onnxruntime, on a phone litert."""
    precision: str | None = None
    """fp32, fp16 or int8; fp32 by default."""
    threads: int = 1
    """Threads of the runtime. A device name has one setting of threads and batch."""
    batch: int = 1
    """Images at a time; the table has milliseconds per image."""
    cpus: str = ""
    """CPUs to keep to, as 4,5,6; by default the last ones, as many as threads."""
    provider: str = ""
    """What computes: an execution provider of ONNX Runtime (CPUExecutionProvider), LiteRT's
    xnnpack, gpu, nnapi or none, PyTorch's eager, compiled, cuda or cuda-graph; the first of
    each by default."""
    benchmark_model: str = ""
    """Path of TensorFlow Lite's benchmark_model on the target; on a phone by default
    /data/local/tmp/benchmark_model, elsewhere Python's LiteRT is used unless this is given."""

    task: str = "classification"
    """Task of the networks that the table is for."""
    dataset: str | None = None
    """Data set whose resolutions and heads count, as in nas.search."""
    space: str = "family"
    """Space whose blocks to measure: family (b and l), b, l, tiny or all."""
    freeze: tuple[str, ...] = ()
    """DIMENSION=VALUE[,VALUE...], such as resolution=128,160; repeatable."""
    num_classes: int | None = None
    """Classes of the networks' heads; by default the data set's."""
    budget: str | None = None
    """Time for all of it, such as 5min: the most telling blocks are measured, the others
    interpolated. Without it all are measured, where they are no more than 8000."""
    networks: int = 24
    """Whole networks to validate the table on, none of which it has seen."""
    passes: int | None = None
    """Passes over each chunk of models, after two that are dropped; by default 12, or 5 where
    each timing is an invocation of its own, as on a phone."""
    seed: int = 0
    """Of the order of passes and the networks to validate on."""
    energy: bool = False
    """Measure energy too, where the system tells it (RAPL, Jetson): all that its sensor sees,
    what the idle machine takes included."""

    import_: Annotated[Path | None, tyro.conf.arg(name="import")] = None
    """Read a table instead of measuring one: OFA's lookup table, YAML or JSON, or a CSV of our
    columns."""
    title: str | None = None
    """What to call the device; by default the board's model or its processor."""
    out: Path | None = None
    """Folder of the table; by default the user's own, where --device finds it."""
    run_folder: Path | None = None
    """Folder of the journal; by default results/runs/build-DEVICE-TIME."""
    resume: Path | None = None
    """Go on with the build in this folder; its other flags come from its run.json."""
    python: str = "python3"
    """Interpreter on an ssh target, which must have the runtime."""
    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        from lut.measuring.work import Work
        from results.resume import flags_of, resumed
        from results.runs import RECORD, create_run_folder, locked, read_record

        if self.resume is not None:
            record = read_record(self.resume, "lut.build")
            command = resumed(self, record["settings"], self.resume, unrecorded=UNRECORDED)
            folder, facts = self.resume, recorded_target(record, self.resume)
        else:
            command, folder, facts = self, None, None
        command.check()
        device = command.chosen_device()
        if command.import_ is not None:
            command.import_table(device)
            return
        work = Work.of(command, device, facts)
        if folder is None:
            folder = create_run_folder(self.run_folder, f"build-{device.name}", "--run-folder")
        again = f"go on: python -m lut.build --resume {shlex.quote(str(folder))}"
        with locked(folder, again):
            if self.resume is None:
                if (folder / RECORD).exists():
                    raise RunError(f"{folder} was taken by another run; choose another folder")
                own = replace(command, runtime=device.runtime, precision=device.precision)
                work.record(folder, flags_of(own, UNRECORDED))  # tables that come later may differ
            try:
                table, validation = work.measure(folder, silent=self.json or self.quiet)
            except TargetError as error:
                kept = f"what was measured is kept, go on with --resume {folder}"
                raise TargetError(f"{error}; {kept}") from None
        path = work.save(table, folder)
        if self.json:
            found = {"table": str(path), "run": str(folder), "num_rows": len(table.entries)}
            print(json.dumps({**found, "validation": validation and validation.to_dict()}))
        elif not self.quiet:
            from lut.measuring.report import print_build

            print_build(work, table, validation, path)

    def check(self) -> None:
        """Raises DeviceError for flags that cannot be."""
        for name, value, least in (
            ("threads", self.threads, 1),
            ("batch", self.batch, 1),
            ("passes", self.passes, 5),
            ("networks", self.networks, 0),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise DeviceError(f"--{name} must be {least} or more, not {value}")
        if self.networks == 1:
            raise DeviceError("--networks must be 0 or at least 2, as one has no order")

    def chosen_device(self) -> "Device":
        """What --device, --runtime and --precision name together. Raises DeviceError."""
        from lut.device import (
            PRECISIONS,
            RUNTIMES,
            Device,
            check_name,
            device_names,
            get_device,
            split_spec,
        )

        if len(self.device) != 1:
            raise DeviceError("give one --device NAME[:runtime[:precision]]")
        name, runtime, precision = split_spec(self.device[0])
        for flag, value, suffix, choices in (
            ("runtime", self.runtime, runtime, RUNTIMES),
            ("precision", self.precision, precision, PRECISIONS),
        ):
            if value is not None:
                check_choice(flag, value, choices, DeviceError)
            if value is not None and suffix is not None and value != suffix:
                raise DeviceError(
                    f"--device {self.device[0]} and --{flag} {value} contradict each other; "
                    "give one of them"
                )
        known = get_device(name) if name in device_names() else None
        if known is None:
            check_name(name)
        phone = self.target.startswith("adb")
        usual = known.runtime if known else ("litert" if phone else "onnxruntime")
        runtime = self.runtime or runtime or usual
        same = known is not None and runtime == known.runtime
        precision = self.precision or precision or (known.precision if known and same else "fp32")
        title = printable(self.title or (known.title if known else name))
        return Device(name, title, runtime, precision)

    def import_table(self, device: "Device") -> None:
        """Write the table that --import names. Raises TableError."""
        from lut.importers import import_table
        from lut.measuring.work import save_table

        assert self.import_ is not None
        table, unknown = import_table(self.import_, device, self.batch, self.threads)
        path = save_table(table, self.out)
        if table.remark and not self.quiet:
            note(table.remark)
        if self.json:
            found = {"table": str(path), "num_rows": len(table.entries), "not_imported": unknown}
            print(json.dumps(found))
        elif not self.quiet:
            print(f"wrote {path}: {len(table.entries)} rows, never validated on whole networks")
            if unknown:
                print(f"{len(unknown)} keys have no block of ours: {printable(', '.join(unknown))}")


def recorded_target(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Facts of the machine that a build was begun on. Raises RunError for another protocol."""
    from lut.measuring.work import PROTOCOL

    sources = record.get("sources")
    facts = sources.get("target") if isinstance(sources, dict) else None
    if not isinstance(sources, dict) or not isinstance(facts, dict):
        raise RunError(f"{folder / 'run.json'} is damaged: it does not tell the target")
    if sources.get("protocol") != PROTOCOL:
        raise RunError(f"{folder} was begun by another version of lut.build; start a new build")
    return facts


UNRECORDED = ("import_", "resume", "run_folder", "json", "quiet")  # no part of the build


def main() -> None:
    console_main(Build, "lut.build")


if __name__ == "__main__":
    main()
