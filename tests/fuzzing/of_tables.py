"""Readers of lut: points, tables, devices, journals, and what targets and their tools print."""

import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lut.calibration.points import read_points
from lut.calibration.tables import rows_for
from lut.device import Device, device_names, get_device, split_spec
from lut.measuring.assemble import complete, differences, entries_of
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import BLOCKS, distinct, references_of
from lut.measuring.importers import import_table
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.run import check_one_setting, check_same_machine
from lut.roofline import Roofline
from lut.runtimes import benchmark_model, trtexec
from lut.runtimes.session import Setting
from lut.sidecar import Sidecar
from lut.table import Table, load_table
from lut.targets import adb
from lut.targets.choose import get_host
from lut.targets.facts import parse_facts, parse_temperature_c, parse_thermal_status
from lut.targets.host import run_merged
from lut.terms import NetworkTerms
from predictors.latency import LatencyPredictor
from results.errors import UserError
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.conftest import ROOT
from tests.fuzzing import mutate
from tests.fuzzing.check import Reader
from tests.synthetic import Machine
from tests.test_importers import OFA
from tests.test_trtexec import exported

GOLDEN = ROOT / "tests" / "golden"
SETTING = Setting("pytorch", "fp32")  # whose models are quickly written
NAME = "mine-onnxruntime-fp32"

# --- Points, tables, devices -----------------------------------------------------------------

POINTS = """\
arch,task,dataset,resolution,batch,latency_ms,throughput_img_s,rounding_percent,includes,kind
b1,,,224,1,19,,2.6,,table
b0,classification,imagenet,256,8,12.5,,1,,measured
l1,,,224x256,1,,850,,,benchmark_csv
b0,segmentation,cityscapes,512x1024,1,140,,0,,table
sam_l0,,,512,1,21.5,,,mask_decoder,table
"""


def make_points(folder: Path) -> list[Path]:
    path = folder / "points.csv"
    arch = get_space("tiny").sample(random.Random(0)).to_json().replace('"', '""')
    path.write_text(f'{POINTS}"{arch}",,,96,1,7.25,,0.5,,measured\n')
    return [path]


def use_points(path: Path) -> Any:
    """As far as a calibration takes each: what it computes, and its time an image."""
    found = [
        (point.latency_ms, point.rounding, network_cost(blocks_of(point.arch)).macs)
        for point in read_points(path)
    ]
    return [ms * 1e-3 / macs for ms, _, macs in found]


@cache
def _tiny() -> tuple[Arch, ...]:
    space = get_space("tiny")
    return tuple(space.sample(random.Random(seed)) for seed in range(3))


def a_table() -> Table:
    roofline = Roofline(conv_gmacs_per_s=20.0, macs_per_byte=5.0)
    blocks = distinct(block for arch in _tiny() for block in blocks_of(arch))
    return Table(
        device="mine",
        title="My board",
        runtime="onnxruntime",
        precision="fp32",
        batch=1,
        entries=rows_for(blocks, roofline, 1, "fp32", 0.05),
        terms=NetworkTerms(fixed_ms=0.2, ms_per_mb=0.1),
        threads=1,
        roofline=roofline,
        sidecar=Sidecar.of(
            {
                "note": "a note",
                "error": {
                    **{"relative_std": 0.05, "mape_percent": 3.0, "min_ms": 0.1, "max_ms": 50.0},
                    **{"block_kinds": ["conv", "mbconv"], "judged_on": "24 random networks"},
                },
                "validation": {"num_networks": 24, "raw": {"mape_percent": 4.0}},
                "space_flags": {
                    **{"task": "classification", "dataset": "imagenet", "space": "tiny"},
                    **{"freeze": ["resolution=64"], "num_classes": 10},
                },
                "measurement": {"environment": {"runtime": "onnxruntime", "version": "1.20"}},
            }
        ),
    )


def make_table_csv(folder: Path) -> list[Path]:
    path = folder / "data" / "tables" / f"{NAME}.csv"
    a_table().save(path)
    return [path]


def make_sidecar(folder: Path) -> list[Path]:
    return [make_table_csv(folder)[0].with_suffix(".json")]


def use_table(path: Path) -> Any:
    """A prediction, what is said of it, and the space that a search takes from the table."""
    from nas.objectives.accuracy import choose_accuracy
    from nas.options import SearchOptions

    table = load_table(path.with_suffix(".csv"))
    predictor = LatencyPredictor(table)
    found = [predictor.predict(blocks_of(arch)) for arch in _tiny()]
    other = predictor.predict(blocks_of(named_arch("b0")))
    options = SearchOptions(device=(table.device,), table=(str(path),))
    _, space = choose_accuracy(options, "classification", [table])
    json.dumps([predictor.describe(), predictor.provenance, space.to_dict()], allow_nan=False)
    return [(one.latency_ms, one.std_ms) for one in (*found, other)]


def make_import_csv(folder: Path) -> list[Path]:
    path = folder / "theirs.csv"
    a_table().save(path)
    path.with_suffix(".json").unlink()
    return [path]


def make_ofa(folder: Path) -> list[Path]:
    path = folder / "lookup_table.yaml"
    path.write_text(OFA)
    return [path]


def make_ofa_json(folder: Path) -> list[Path]:
    import yaml

    path = folder / "lookup_table.json"
    path.write_text(json.dumps(yaml.safe_load(OFA)))
    return [path]


def use_import(path: Path) -> Any:
    table, unknown = import_table(path, Device("note10", "Note 10", "litert", "fp32"), 1, 1)
    table.save(path.parent / "out" / f"{NAME}.csv")
    again = load_table(path.parent / "out" / f"{NAME}.csv")
    return [entry.latency_ms for entry in again.entries.values()], len(unknown)


DEVICE = """\
title = "My board"
runtime = "onnxruntime"
precision = "fp32"
throughput = false
processor = "cpu"
note = "measured at night"

[batch]
imagenet = 1
cityscapes = 1
"""


def make_device(folder: Path) -> list[Path]:
    make_table_csv(folder)
    path = folder / "data" / "devices" / "mine.toml"
    path.parent.mkdir()
    path.write_text(DEVICE)
    return [path]


def use_device(path: Path) -> Any:
    """The device, and the list of all devices, which one bad file must not end."""
    from nas.devices import Devices

    with patch("lut.device.SHIPPED", path.parent):  # the shipped ones take a second
        Devices().run()
        Devices(json=True).run()
    device = get_device("mine")
    assert "mine" in device_names()
    split_spec(f"mine:{device.runtime}:{device.precision}")
    check_one_setting(device, 1, device.batch_for("imagenet"))
    return device.batch_for("imagenet"), device.label


# --- Journals and sessions -------------------------------------------------------------------


@cache
def _work() -> tuple[Any, Any]:
    """References and blocks of a campaign that takes little time."""
    references = references_of(get_space("tiny"), 2)
    blocks = distinct(block for arch in _tiny() for block in blocks_of(arch))
    return references, blocks[:12]


def _campaign(host: Any, journal: Path) -> Campaign:
    return Campaign(host, SETTING, _work()[0], Journal(journal), passes=5)


def _finish(campaign: Campaign) -> Any:
    """Measure what is left, and assemble the rows of the table."""
    campaign.start()
    done = campaign.times_done()
    if left := [block for block in _work()[1] if not done[block]]:
        campaign.measure(BLOCKS, left)
    campaign.recheck()
    entries = complete(entries_of(differences(campaign)), _work()[1])
    campaign.times_done()
    return [entry.latency_ms for entry in entries.values()], campaign.seconds, campaign.notes


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    with patch("lut.measuring.campaign.time.sleep", lambda seconds: None):
        yield


def _write_journal(path: Path) -> None:
    """The same one each time."""
    clock = itertools.count(0, 0.5)
    with (
        _without_waiting(),
        patch("lut.measuring.campaign.run_session", Machine(noise=0.01)) as machine,
        patch("lut.measuring.campaign.time.monotonic", lambda: next(clock)),
    ):
        _finish(_campaign(machine, path))


def make_journal(folder: Path) -> list[Path]:
    _write_journal(folder / JOURNAL)
    with (folder / JOURNAL).open("a") as file:
        for line in (
            {"chunk": 1, "failed": 3, "error": "refused"},
            {"chunk": 1, "remark": 4, "text": "in part"},
            {"chunk": 1, "energy": 2, "mj": 4.5},
            {"chunk": 1, "trouble": "connection lost"},
        ):
            file.write(json.dumps(line) + "\n")
    return [folder / JOURNAL]


def use_journal(path: Path) -> Any:
    with (
        _without_waiting(),
        patch("lut.measuring.campaign.run_session", Machine(noise=0.01)) as machine,
    ):
        return _finish(_campaign(machine, path))


class Board:
    """A board behind ssh that answers with what a file holds, in every session."""

    name = "ssh://board"
    python = "python3"

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def facts(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        yield "/tmp/there"

    def push(self, local: Path, remote: str) -> None:
        pass

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: str | None = None) -> str:
        return "\n".join(self.lines)

    def stream(self, argv: Sequence[str], *, idle_timeout_s: float) -> Iterator[str]:
        yield from self.lines

    def temperature_c(self) -> float | None:
        return None


def make_session(folder: Path) -> list[Path]:
    """Of the first session, with the references alone, and of the second, with blocks."""
    _write_journal(folder / "whole.jsonl")
    lines = [json.loads(line) for line in (folder / "whole.jsonl").read_text().splitlines()]
    (folder / "whole.jsonl").unlink()
    files = []
    for number in (0, 1):
        own = [line for line in lines if line.get("chunk") == number]
        told = [line for line in own if {"environment", "pass"} & set(line)]
        for line in told:
            line.pop("chunk")
            line.pop("seconds")
        if number:
            told.insert(1, {"failed": 9, "error": "refused"})
            told.append({"remark": 8, "text": "in part"})
            told.append({"energy": 7, "mj": 4.5})
        path = folder / f"session{number}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in told))
        files.append(path)
    return files


def use_session(path: Path) -> Any:
    """A campaign whose other session is sound."""
    texts = [
        (path.parent / f"session{number}.jsonl").read_text(errors="replace").splitlines()
        for number in (0, 1)
    ]
    campaign = _campaign(Board(texts[0]), path.parent / JOURNAL)
    with _without_waiting(), patch("lut.runtimes.session._push_packages"):
        campaign.start()
        campaign.host = Board(texts[1])
        campaign.measure(BLOCKS, _work()[1])
        entries = entries_of(differences(campaign))
        again = _campaign(Board([]), path.parent / JOURNAL)  # what was taken can be resumed
        assert len(again.measured) == len(campaign.measured)
    return [entry.latency_ms for entry in entries.values()]


# --- Tools and targets -----------------------------------------------------------------------


def make_trtexec_times(folder: Path) -> list[Path]:
    path = folder / "times.json"
    path.write_text(exported([0.5, 0.7, 0.6, 0.9]))
    return [path]


def use_trtexec_times(path: Path) -> Any:
    text = path.read_text(errors="replace")
    return _timing(trtexec.parse((GOLDEN / "trtexec" / "10.txt").read_text(), text))


def _logs(tool: str, parse: Callable[[str], Any], folder: Path) -> list[Path]:
    """Recorded ones that have times; others tell why there are none."""
    files = []
    for source in sorted((GOLDEN / tool).glob("*.txt")):
        with contextlib.suppress(UserError):
            parse(source.read_text())
            files.append(folder / source.name)
            files[-1].write_text(source.read_text())
    return files


def make_trtexec_log(folder: Path) -> list[Path]:
    return _logs("trtexec", trtexec.parse, folder)


def use_trtexec_log(path: Path) -> Any:
    return _timing(trtexec.parse(path.read_text(errors="replace")))


def make_benchmark_model(folder: Path) -> list[Path]:
    return _logs("benchmark_model", benchmark_model.parse, folder)


def use_benchmark_model(path: Path) -> Any:
    return _timing(benchmark_model.parse(path.read_text(errors="replace")))


def _timing(timing: Any) -> Any:
    assert timing.count > 0
    assert timing.mean_us > 0
    numbers = (timing.mean_us, timing.min_us, timing.median_us, timing.std_us, timing.samples_us)
    json.dumps(numbers, allow_nan=False)
    return numbers


def make_host(folder: Path) -> list[Path]:
    """What the scripts of `facts` print on a board and on a phone."""
    board = folder / "board.txt"
    board.write_text(
        "kernel=Linux 5.15.148-tegra\nmachine=aarch64\nnum_cpus=12\nmemory_mb=62841\n"
        "os=Ubuntu 22.04\ncpu=ARMv8 Processor rev 1\nmodel=NVIDIA Jetson AGX Orin\n"
        "frequency=cpu0 schedutil 115200-2201600 kHz\nfrequency=cpu1 schedutil 115200-1 kHz\n"
        "nvpmodel=NV Power Mode: MAXN\ngpu=Orin, 540.4.0, 1300 MHz\n"
        "zone 48500 cpu-thermal\nzone 47250 gpu-thermal\nzone -256000 cv0\nzone 50 tj-thermal\n"
    )
    phone = folder / "phone.txt"
    phone.write_text(
        "kernel=Linux 5.10\nmachine=aarch64\nnum_cpus=8\nos=Android 14\nmodel=Xiaomi 12\n"
        "soc=QTI SM8450\nbattery_percent=80\nthermal_status=0\nzone 41000 cpu-0-0\n"
        "Thermal Status: 1\nCached temperatures:\n"
        "\tTemperature{mValue=99.5, mType=0, mName=CPU0, mStatus=0}\n"
        "Current temperatures from HAL:\n"
        "\tTemperature{mValue=39.2, mType=0, mName=CPU0, mStatus=0}\n"
        "\tTemperature{mValue=31.0, mType=3, mName=skin, mStatus=0}\n"
    )
    return [board, phone]


def use_host(path: Path) -> Any:
    """Facts as a sidecar and a resumed build take them, and how warm it is."""
    text = path.read_text(errors="replace")
    facts = parse_facts(text)
    json.dumps(facts, allow_nan=False)
    check_same_machine(facts, parse_facts(text))
    memory = min(7e9, 0.5e6 * facts.get("memory_mb", 1e9))
    return parse_temperature_c(text), parse_thermal_status(text), memory


def make_merged(folder: Path) -> list[Path]:
    path = folder / "merged.txt"
    path.write_text("&&&& RUNNING TensorRT.trtexec\n[I] done\n\n0\n")
    return [path]


def use_merged(path: Path) -> Any:
    """A command's output with its exit status in the last line, as a target gives it."""
    board: Any = Board(path.read_text(errors="replace").splitlines())
    status, _ = run_merged(board, ["trtexec"], timeout_s=1)
    return status


ADB = "List of devices attached\nR5CT1\tdevice\nemulator-5554\toffline\n10.0.0.2:5555\tdevice\n\n"


def make_adb(folder: Path) -> list[Path]:
    one, several = folder / "one.txt", folder / "several.txt"
    one.write_text("List of devices attached\nR5CT1\tdevice\n\n")
    several.write_text(ADB)
    return [one, several]


def use_adb(path: Path) -> Any:
    class Done:
        returncode, stderr = 0, ""
        stdout = path.read_text(errors="replace")

    with (
        patch("lut.targets.adb.run_client", lambda argv, timeout_s: Done),
        patch("lut.targets.adb.find_adb", lambda: "adb"),
    ):
        ready = [serial for serial, state in adb.serials().items() if state == "device"]
        for serial in ready:  # what --target adb offers must be taken
            get_host(f"adb:{serial}")
        return len(ready) if len(ready) > 1 else get_host("adb").name


READERS = (
    Reader("points CSV", make_points, mutate.csv_file, use_points),
    Reader("table CSV", make_table_csv, mutate.csv_file, use_table),
    Reader("table sidecar", make_sidecar, mutate.json_file, use_table),
    Reader("imported CSV", make_import_csv, mutate.csv_file, use_import),
    Reader("Once-for-All YAML", make_ofa, mutate.log, use_import),
    Reader("Once-for-All JSON", make_ofa_json, mutate.json_file, use_import),
    Reader("device TOML", make_device, mutate.toml_file, use_device),
    Reader("build journal", make_journal, mutate.json_lines, use_journal),
    Reader("timer lines", make_session, mutate.json_lines, use_session, is_file=False),
    Reader("trtexec times", make_trtexec_times, mutate.json_file, use_trtexec_times, is_file=False),
    Reader("trtexec log", make_trtexec_log, mutate.log, use_trtexec_log, is_file=False),
    Reader(
        "benchmark_model output",
        make_benchmark_model,
        mutate.log,
        use_benchmark_model,
        is_file=False,
    ),
    Reader("host facts", make_host, mutate.log, use_host, is_file=False),
    Reader("merged output", make_merged, mutate.log, use_merged, is_file=False),
    Reader("adb devices", make_adb, mutate.log, use_adb, is_file=False),
)
