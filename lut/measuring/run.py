"""A build with everything looked up that its options name, and what is refused before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lut.device import (
    PRECISIONS,
    RUNTIMES,
    Device,
    check_name,
    device_names,
    get_device,
    split_spec,
    tables_of,
    user_data_dir,
)
from lut.measuring.chunks import distinct, references_of
from lut.measuring.coverage import distinct_blocks
from lut.measuring.options import BuildOptions
from lut.runtimes.session import Driver, Setting, check_host
from lut.table import load_table
from lut.targets.choose import get_host
from lut.targets.host import Host
from results.errors import DeviceError, RunError, TableError, check_choice, printable
from results.resume import resumed
from results.runs import read_record
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of
from supernet.official import check_task, dataset_of
from supernet.space import Space
from supernet.spaces import get_space

COMMAND = "lut.build"
UNRECORDED = ("resume", "run_folder")  # options that are no part of what is built
MACHINE = ("machine", "model", "soc", "cpu")  # facts that never change: phones switch CPUs off
PROTOCOL = 2  # what a chunk is made of; a journal of another one is not gone on with


@dataclass(frozen=True)
class BuildRun:
    """One build, ready to measure."""

    options: BuildOptions  # with the runtime and the precision of `device`
    device: Device
    host: Host
    setting: Setting
    driver: Driver
    space: Space
    blocks: list[Block]  # of the space's networks and of the references, each once
    references: tuple[Arch, ...]
    facts: dict[str, Any]  # of the machine that the build was begun on
    passes: int  # over each chunk
    budget_s: float | None  # None: no limit

    def sources(self) -> dict[str, Any]:
        """Return what run.json tells of where the numbers come from."""
        return {"target": self.facts, "space": self.space.to_dict(), "protocol": PROTOCOL}


def look_up(options: BuildOptions) -> BuildRun:
    """Return the build that `options` describe, or the one that they resume.

    Raises UserError for whatever they name wrongly; nothing is written.
    """
    options, begun_on = recorded(options)
    options.check()
    device = device_of(options)
    budget_s = None if options.budget is None else parse_budget_s(options.budget)
    space = _space(options)
    setting = Setting(
        device.runtime,
        device.precision,
        options.threads,
        options.batch,
        options.cpus,
        options.provider,
        options.benchmark_model,
        options.energy,
    )
    if options.out is None:
        check_one_setting(device, options.threads, options.batch)
    host = get_host(options.target, python=None if options.target == "local" else options.python)
    driver = check_host(host, setting)
    facts = host.facts()
    if begun_on is not None:
        check_same_machine(begun_on, facts)
        facts = begun_on
    if options.title is None and device.title == device.name:
        device = replace(device, title=_computer(facts, setting) or device.name)
    references = references_of(space)
    of_references = [block for arch in references for block in blocks_of(arch)]
    return BuildRun(
        # tables that come later may make others the usual ones of this device
        options=replace(options, runtime=device.runtime, precision=device.precision),
        device=device,
        host=host,
        setting=setting,
        driver=driver,
        space=space,
        blocks=distinct([*distinct_blocks(space), *of_references]),
        references=references,
        facts=facts,
        passes=options.passes or driver.passes,
        budget_s=budget_s,
    )


def recorded(options: BuildOptions) -> tuple[BuildOptions, dict[str, Any] | None]:
    """Return the options that a build to resume was begun with, and the facts of its machine.

    `options` themselves and None where they resume nothing. Raises RunError where there is no such
    build, where it was begun in another way, or where `options` contradict it.
    """
    folder = options.resume
    if folder is None:
        return options, None
    record = read_record(folder, COMMAND)
    options = resumed(options, record["settings"], folder, unrecorded=UNRECORDED)
    sources = record.get("sources")
    facts = sources.get("target") if isinstance(sources, dict) else None
    if not isinstance(sources, dict) or not isinstance(facts, dict):
        raise RunError(f"{folder / 'run.json'} is damaged: it does not tell the target")
    if sources.get("protocol") != PROTOCOL:
        raise RunError(f"{folder} was begun by another version of {COMMAND}; start a new build")
    return options, facts


def device_of(options: BuildOptions) -> Device:
    """Return what `device`, `runtime` and `precision` name together. Raises DeviceError."""
    if len(options.device) != 1:
        raise DeviceError("give one --device NAME[:runtime[:precision]]")
    (spec,) = options.device
    name, runtime, precision = split_spec(spec)
    for flag, value, suffix, choices in (
        ("runtime", options.runtime, runtime, RUNTIMES),
        ("precision", options.precision, precision, PRECISIONS),
    ):
        if value is not None:
            check_choice(flag, value, choices, DeviceError)
        if value is not None and suffix is not None and value != suffix:
            raise DeviceError(
                f"--device {spec} and --{flag} {value} contradict each other; give one of them"
            )
    described = get_device(name) if name in device_names() else None
    if described is None:
        check_name(name)
    phone = options.target.startswith("adb")
    usual = described.runtime if described else ("litert" if phone else "onnxruntime")
    runtime = options.runtime or runtime or usual
    same = described is not None and runtime == described.runtime
    precision = (
        options.precision or precision or (described.precision if described and same else "fp32")
    )
    title = printable(options.title or (described.title if described else name))
    return Device(name, title, runtime, precision)


def _space(options: BuildOptions) -> Space:
    task = check_task(options.task)
    return get_space(
        options.space,
        task=task,
        dataset=dataset_of(task, options.dataset),
        freeze=options.freeze,
        num_classes=options.num_classes,
    )


def _computer(facts: Mapping[str, Any], setting: Setting) -> str | None:
    """Return what computes, as its system names it; None where it does not."""
    on_gpu = setting.runtime == "tensorrt" or "cuda" in setting.provider.lower()
    if on_gpu and "model" not in facts and facts.get("gpu"):
        return str(facts["gpu"][0]).partition(",")[0]
    name = facts.get("model") or facts.get("cpu")
    return str(name) if name else None


def check_same_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunError where a build would go on elsewhere than it was begun."""
    for name in MACHINE:
        if before.get(name) != now.get(name):
            raise RunError(
                f"the build was begun on another machine ({name} {before.get(name)}, here "
                f"{now.get(name)}); go on there, or start a new build"
            )


def check_one_setting(device: Device, threads: int, batch: int) -> None:
    """Raise DeviceError where the user has a table of the device with another setting."""
    for path in tables_of(device.name):
        if not path.is_relative_to(user_data_dir()):
            continue
        try:
            other = load_table(path)
        except TableError:
            continue
        if (other.threads or threads, other.batch) != (threads, batch):
            raise DeviceError(
                f"{device.name} has a table of {other.threads} threads and batch {other.batch} "
                f"({path}); one device name has one setting, so give this one another name, such "
                f"as {device.name}-t{threads}b{batch}"
            )


def parse_budget_s(text: str) -> float:
    """Return the seconds of `90s`, `5min`, `1.5h` or `300`. Raises TableError."""
    units = {"s": 1, "min": 60, "m": 60, "h": 3600, "": 1}
    number = text.strip().rstrip("smhin")
    unit = text.strip().removeprefix(number)
    try:
        value = float(number) * units[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 30 <= value <= 7 * 86400:
        raise TableError(f"--budget {text!r} is no time from 30s to 7 days, such as 5min")
    return value
