"""Readers of runs: fronts, records that are resumed, studies, rows, costs, archs, snapshots."""

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nas.engine.study import Problem, Search
from nas.front import read_front
from nas.objectives.accuracy import load_subnets
from nas.options import SearchOptions
from nas.pictures import write_plots
from nas.plot import Plot
from nas.result import Outcome, SearchResult
from nas.summary import print_front
from results.errors import UserError
from results.files import write_json
from results.resume import flags_of
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.evaluation.queue import SharedQueue
from supernet.evaluation.rows import SETTINGS, EvaluationLog
from supernet.resolve import read_archs, resolve_arch
from supernet.spaces import get_space
from supernet.training.attentive import read_costs
from tests.fuzzing import mutate
from tests.fuzzing.check import Reader
from tests.fuzzing.of_tables import make_table_csv
from tests.test_plot import a_front
from tests.test_study import evaluate
from tests.test_subnets import row, subnets

TINY = get_space("tiny", nearest_head=False)
TWELVE = get_space("tiny", num_classes=12)


def _facts(arch: Arch) -> Any:
    cost = network_cost(blocks_of(arch))
    assert len(arch.describe()) < 1000
    return cost.macs, cost.params


# --- Fronts ----------------------------------------------------------------------------------


def make_front(folder: Path) -> list[Path]:
    a_front().write(folder / "run")
    write_json(folder / "run" / "run.json", {"settings": {}})
    return [folder / "run" / "front.json"]


def make_drawn_front(folder: Path) -> list[Path]:
    """Drawn once: the first picture of a machine starts programs that list its fonts."""
    files = make_front(folder)
    write_plots([a_front()], folder)
    return files


def use_front(path: Path) -> Any:
    """`--arch RUN#ID` and `--arch RUN`."""
    arch = resolve_arch(f"{path.parent}#0")
    with contextlib.suppress(UserError):
        read_archs(str(path.parent), get_space("tiny"))
    return _facts(arch)


def use_plot(path: Path) -> Any:
    """Redrawn, and told as a search tells it."""
    Plot((path.parent,)).run()
    front = read_front(path.parent)
    options, outcome = SearchOptions(device=("mine",)), Outcome(60, 60, 3, False, 1.0)
    print_front(SearchResult(options, path.parent, front, outcome, ()))
    page = (path.parent / "front.html").read_text()
    assert "<script>alert(1)" not in page
    return [(c.latency_ms, c.accuracy) for c in front.candidates]


# --- Records that are resumed ----------------------------------------------------------------


class StoppedError(Exception):
    """Raised where a resumed command would begin to work."""


def _stop(*_: Any, **__: Any) -> Any:
    raise StoppedError


def make_search(folder: Path) -> list[Path]:
    from nas.search import SearchCommand

    table = make_table_csv(folder)[0]
    flags = {"device": ("mine",), "trials": 60, "space": "tiny", "out": Path("run"), "table": table}
    command = SearchCommand(**flags, quiet=True)  # type: ignore[arg-type]
    with contextlib.chdir(folder), patch("nas.pictures.write_plots"):
        command.run()
    record = folder / "run" / "run.json"
    text = record.read_text().replace(str(table), "data/tables/mine-onnxruntime-fp32.csv")
    record.write_text(text)
    return [record]


def use_search(path: Path) -> Any:
    from nas.search import SearchCommand

    with patch("nas.engine.run.Search", _stop), contextlib.suppress(StoppedError):
        SearchCommand(resume=path.parent, quiet=True).run()


def make_build(folder: Path) -> list[Path]:
    from lut.measuring.options import BuildOptions
    from lut.measuring.run import PROTOCOL, UNRECORDED

    options = BuildOptions(device=("mine:onnxruntime:fp32",), space="tiny", threads=1, networks=4)
    own = replace(options, runtime="onnxruntime", precision="fp32")
    write_json(
        folder / "run" / "run.json",
        {
            "command": "lut.build",
            "settings": flags_of(own, UNRECORDED),
            "sources": {
                "target": {"machine": "x86_64", "cpu": "A processor", "memory_mb": 16000},
                **{"space": get_space("tiny").to_dict(), "protocol": PROTOCOL},
            },
            "seed": 0,
        },
    )
    return [folder / "run" / "run.json"]


def use_build(path: Path) -> Any:
    from lut.build import Build
    from lut.targets.local import Local

    facts = {"machine": "x86_64", "cpu": "A processor", "memory_mb": 16000}
    with (
        patch("lut.measuring.run.check_host"),
        patch.object(Local, "facts", lambda self: facts),
        patch("lut.measuring.build.Schedule", _stop),
        contextlib.suppress(StoppedError),
    ):
        Build(resume=path.parent, quiet=True).run()


def _training(folder: Path) -> Any:
    """Of one small network, as the mutants of its states are many."""
    from tests.fuzzing.of_data import small_arch
    from tests.test_train import QUICK

    (folder / "arch.json").write_text(small_arch().to_json())
    alone = replace(QUICK, space=None, freeze=(), arch=str(folder / "arch.json"))
    alone = replace(alone, random_subnets=None, recalibration_images=None)
    return replace(alone, steps=2, checkpoint_every=1, num_train=8, limit=4, out=folder / "run")


@contextlib.contextmanager
def _without_end() -> Iterator[None]:
    """Neither evaluation nor model: their time says nothing of a reader."""
    with patch("supernet.training.run.TrainingRun.finish", lambda self: {}):
        yield


def make_training(folder: Path) -> list[Path]:
    with _without_end():
        _training(folder).run()
    for path in (folder / "run" / "tensorboard").glob("*"):
        path.unlink()
    return [folder / "run" / "run.json"]


def make_snapshot(folder: Path) -> list[Path]:
    make_training(folder)
    return sorted((folder / "run" / "checkpoints").glob("*.safetensors"))[-1:]


def make_curves(folder: Path) -> list[Path]:
    from supernet.training.curves import Curves
    from supernet.training.trainer import Report

    (folder / "run").mkdir()
    write_plots([a_front()], folder)  # see make_drawn_front
    with Curves(folder / "run", 0) as curves:
        for step in range(1, 6):
            distill = None if step % 2 else 0.5 / step
            curves.step(Report(step, (64, 128), 0.1, 1 / step, distill, 3.0), 0.5)
            curves.figures(step, "largest", {"top1": 10.0 * step, "top1_stderr": 1.5, "n": 8.0})
    return [folder / "run" / name for name in ("curve.csv", "evaluations.csv")]


def use_training(path: Path) -> Any:
    """One step more than there is; none of a record, as its batches may be of any size."""
    from supernet.train import Train

    is_record = path.suffix == ".json"
    run = path.parent if is_record else path.parent.parent
    steps = patch("supernet.training.run.TrainingRun.go_on", lambda self: None)
    with _without_end(), steps if is_record else contextlib.nullcontext():
        Train(resume=run, steps=3, quiet=True).run()


def use_curves(path: Path) -> Any:
    from supernet.training.curves import Curves, draw_curve

    with Curves(path.parent, 3):
        pass
    draw_curve(path.parent, "top1")


# --- Studies and rows ------------------------------------------------------------------------


def _search(path: Path) -> Search:
    problem = Problem(TINY, evaluate, ())
    return Search(problem, sampler="nsga2", seed=3, first=(), journal=path)


def make_study(folder: Path) -> list[Path]:
    _search(folder / "study.log").run(110, lambda search: None)
    return [folder / "study.log"]


def use_study(path: Path) -> Any:
    search = _search(path)
    search.run(112, lambda search: None)
    again = _search(path)  # what was appended fits what was there
    assert again.num_trials + len(again.candidates) > 0
    return [(c.latency_ms, c.accuracy) for c in search.candidates.values()]


def make_shared(folder: Path) -> list[Path]:
    path = folder / "shared.log"
    work = SharedQueue(str(path), "study", {"task": "classification"})
    archs = subnets(4, TWELVE)
    list(work.work(archs, lambda arch: [row(arch, 50.0)]))
    return [path]


def use_shared(path: Path) -> Any:
    with patch("supernet.evaluation.queue.time.sleep", lambda seconds: None):
        work = SharedQueue(str(path), "study", {"task": "classification"}, pulse_s=0, grace_s=0)
        found = dict(work.rows(subnets(4, TWELVE)))
        work.errors(subnets(4, TWELVE))
    return [rows[0]["value"] for rows in found.values()]


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    values = random.Random(0)
    more = {"precision": "fp32", "recalibration_images": 24, "recalibration_batch": 12}
    archs = subnets(40, TWELVE)
    return tuple(row(arch, values.uniform(40, 60), figures=1, **more) for arch in archs)


def make_rows(folder: Path) -> list[Path]:
    path = folder / "evaluations.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in _rows()))
    return [path]


def use_rows(path: Path) -> Any:
    """Read, and one more appended."""
    settings = {name: _rows()[0].get(name) for name in SETTINGS}
    rows = EvaluationLog(path, settings)
    new = row(subnets(41, TWELVE)[-1], 50.0) | settings
    rows.append([new])
    assert path.read_bytes().count(json.dumps(new).encode()) == 1
    EvaluationLog(path, settings)
    return [one["value"] for found in rows.by_arch.values() for one in found]


def use_evaluations(path: Path) -> Any:
    predictor = load_subnets(path)
    found = predictor.predict(subnets(42, TWELVE)[-1])
    json.dumps([predictor.describe(), predictor.metric])
    return found.mean, found.std


# --- Archs -----------------------------------------------------------------------------------


def make_costs(folder: Path) -> list[Path]:
    path = folder / "costs.csv"
    values = random.Random(0)
    lines = ["arch,latency_ms,accuracy"]
    for arch in subnets(8, TWELVE):
        text = arch.to_json().replace('"', '""')
        lines.append(f'"{text}",{values.uniform(1, 9):.3f},{values.uniform(50, 80):.2f}')
    path.write_text("\n".join(lines) + "\n")
    return [path]


def use_costs(path: Path) -> Any:
    costs = read_costs(path, TWELVE)
    size = TWELVE.resolutions[0]
    drawn = [costs.draw(part, size, random.Random(0)) for part in TWELVE.parts]
    return [_facts(arch) for arch in drawn if arch], [one.latency_ms for one in costs.rows]


def make_archs(folder: Path) -> list[Path]:
    archs = subnets(4, TWELVE)
    lines = folder / "archs.jsonl"
    lines.write_text("".join(arch.to_json() + "\n" for arch in archs))
    return [lines]


def make_archs_csv(folder: Path) -> list[Path]:
    sheet = folder / "archs.csv"
    a_front().write(folder)
    (folder / "front.csv").rename(sheet)
    return [sheet]


def use_archs(path: Path) -> Any:
    return [_facts(arch) for arch in read_archs(str(path), TWELVE)]


def make_arch(folder: Path) -> list[Path]:
    found = []
    for number, (name, task) in enumerate(
        (("b", "classification"), ("l", "promptable"), ("tiny", "classification"))
    ):
        arch = get_space(name, task=task).sample(random.Random(number))  # type: ignore[arg-type]
        found.append(folder / f"{name}.json")
        found[-1].write_text(arch.to_json())
    return found


def use_arch(path: Path) -> Any:
    return _facts(resolve_arch(str(path)))


READERS = (
    Reader("front.json as RUN#ID", make_front, mutate.json_file, use_front),
    Reader("front.json in nas.plot", make_drawn_front, mutate.json_file, use_plot, quick=8),
    Reader("run.json of nas.search", make_search, mutate.json_file, use_search),
    Reader("run.json of lut.build", make_build, mutate.json_file, use_build),
    Reader("run.json of supernet.train", make_training, mutate.json_file, use_training, quick=10),
    Reader("training snapshot", make_snapshot, mutate.safetensors, use_training, quick=10),
    Reader("curve.csv", make_curves, mutate.csv_file, use_curves, quick=10),
    Reader("study.log", make_study, mutate.json_lines, use_study, quick=12),
    Reader("shared storage", make_shared, mutate.json_lines, use_shared, quick=12),
    Reader("evaluated rows", make_rows, mutate.json_lines, use_rows),
    Reader("rows in a predictor", make_rows, mutate.json_lines, use_evaluations, quick=5),
    Reader("costs CSV", make_costs, mutate.csv_file, use_costs),
    Reader("archs JSON lines", make_archs, mutate.json_lines, use_archs),
    Reader("archs CSV", make_archs_csv, mutate.csv_file, use_archs),
    Reader("Arch JSON", make_arch, mutate.json_file, use_arch),
)
