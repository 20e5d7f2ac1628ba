"""Whether two commits give the same numbers: `python -m tests.same_numbers BASE [HEAD]`.

Runs the same commands in both trees and compares what they write: fronts, predictions,
calibrations, a training curve of 50 steps, evaluations of its subnets, the table made from one
journal of measurements, and the goldens. Run folders, checkpoints and journals that later steps
read are those of BASE, so that it is seen too whether HEAD reads what BASE wrote.

By default every byte has to be equal, but for times, dates, paths and commits. With `--tolerance`
texts have to be equal and numbers to differ by no more than that share. `--ignore FIELD` leaves a
field of records out, as weights_sha256 where two commits tell other things of the same weights.
HEAD is the working tree unless it is named. Takes about three minutes on two cores; exits with 1
where anything differs.
"""

import argparse
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEVICES = ("snapdragon8gen1", "orin", "a100", "jetson-nano", "example-cpu")
CALIBRATED = ("snapdragon8gen1", "orin", "jetson-nano")  # from published latencies
NETWORKS = ("b0", "b3")
TRAINING = (
    *("--space", "tiny", "--resolution", "64", "--steps", "50", "--eval-every", "25"),
    *("--batch-size", "16", "--limit", "64", "--recalibration-images", "64", "--workers", "0"),
)
BUILD = (
    *("--device", "same", "--space", "tiny", "--freeze", "resolution=96", "--networks", "4"),
    *("--passes", "6"),
)
VOLATILE = {  # of records: circumstances, not numbers
    *("run", "model", "curve", "command_line", "command", "date", "created", "commit"),
    *("wall_s", "seconds", "time", "weights", "out", "measured_at", "duration_s"),
}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Tree:
    """One commit's files, and the folder that its commands write to."""

    def __init__(self, code: Path, work: Path) -> None:
        self.code, self.work = code, work
        work.mkdir()

    def run(self, module: str, *arguments: object) -> str:
        """Run a command of this tree; what it prints. Raises SystemExit where it fails."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "EFFICIENTVIT_NAS_DATA": str(self.work / "data"),
        }
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=self.work, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{module} {arguments} fails in {self.code}: {done.stderr}")
        return done.stdout


def fronts(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    for device in DEVICES:
        out = tree.work / f"front-{device}"
        tree.run("nas.search", "--device", device, "--seed", 0, "--out", out, "--quiet")
        yield f"front.csv of {device}", (out / "front.csv").read_text()


def predictions(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    for device in DEVICES:
        for arch in NETWORKS:
            said = tree.run("nas.predict", "--device", device, "--arch", arch, "--json")
            yield f"nas.predict of {arch} on {device}", without_circumstances(said)


def calibrations(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    for device in CALIBRATED:
        out = tree.work / f"calibrated-{device}"
        tree.run("lut.calibrate", "--device", device, "--out", out, "--quiet")
        for path in sorted(out.glob("*.csv")):
            yield f"lut.calibrate: {path.name}", path.read_text()
            sidecar = path.with_suffix(".json")
            yield f"lut.calibrate: {sidecar.name}", without_circumstances(sidecar.read_text())


def training(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    out = tree.work / "training"
    tree.run("supernet.train", *TRAINING, "--seed", 0, "--out", out, "--quiet")
    yield "curve.csv of 50 steps", without_times((out / "curve.csv").read_text())
    answer = (out / "evaluation.json").read_text()
    yield "evaluation.json of 50 steps", without_circumstances(answer)


def evaluations(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    """Of a checkpoint that BASE trained."""
    checkpoint = shared / "training" / "model.safetensors"
    sampled: dict[str, tuple[str, ...]] = {
        "largest and smallest": (),
        "two random": ("--sample", "2"),
    }
    for name, chosen in sampled.items():
        said = tree.run(
            *("supernet.evaluate", "--weights", str(checkpoint), *chosen, "--limit", "64"),
            *("--recalibration-images", "64", "--workers", "0", "--json"),
        )
        yield f"supernet.evaluate of {name}", without_circumstances(said)


def table(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    """Made again from the journal of a build that BASE measured."""
    run, out = shared / "build", shared / "tables"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(shared / "build-measured", run)
    tree.run("lut.build", "--resume", run, "--quiet")
    (path,) = out.glob("*.csv")
    yield "table of one journal", path.read_text()
    yield "its sidecar", without_circumstances(path.with_suffix(".json").read_text())


def goldens(tree: Tree, shared: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((tree.code / "tests" / "golden").rglob("*")):
        if path.is_file():
            yield str(path.relative_to(tree.code)), path.read_text()


CASES: dict[str, Callable[[Tree, Path], Iterator[tuple[str, str]]]] = {
    case.__name__: case
    for case in (fronts, predictions, calibrations, training, evaluations, table, goldens)
}


def without_circumstances(text: str) -> str:
    return json.dumps(_numbers_of(json.loads(text)), indent=1, sort_keys=True)


def _numbers_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers_of(v) for name, v in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [_numbers_of(item) for item in value]
    return value


def without_times(text: str) -> str:
    """A curve without how long its steps took."""
    rows = list(csv.DictReader(io.StringIO(text)))
    kept = [name for name in rows[0] if name != "seconds"]
    return "\n".join(",".join(row[name] or "" for name in kept) for row in rows)


def difference(one: str, other: str) -> float:
    """The largest share by which two numbers differ; inf where texts do."""
    if one == other:
        return 0.0
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return float("inf")
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    shares = (
        abs(float(a) - float(b)) / max(abs(float(a)), abs(float(b))) for a, b in pairs if a != b
    )
    return max(shares, default=0.0)


def prepare(base: Tree, cases: list[str]) -> None:
    """What both trees read: a checkpoint, and a journal of measurements."""
    if "evaluations" in cases and "training" not in cases:
        list(training(base, base.work))
    if "table" in cases:
        measured = base.work / "build"
        out = base.work / "tables"
        base.run("lut.build", *BUILD, "--run-folder", measured, "--out", out, "--quiet")
        shutil.copytree(measured, base.work / "build-measured")


def checked_out(revision: str, folder: Path) -> Path:
    """The files of a commit, in a folder of their own."""
    folder.mkdir()
    packed = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, input=packed.stdout, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", help="another; by default the working tree")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tolerance", type=float, default=0.0, help="a share, such as 1e-6")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="FIELD", help="of records")
    chosen = parser.parse_args()
    VOLATILE.update(chosen.ignore)
    for name in chosen.ignore:
        print(f"not compared: {name}")
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as name:
        folder = Path(name)
        base = Tree(checked_out(chosen.base, folder / "base"), folder / "work-base")
        code = checked_out(chosen.head, folder / "head") if chosen.head else ROOT
        head = Tree(code, folder / "work-head")
        prepare(base, chosen.only)
        worst = 0.0
        for case in chosen.only:
            ours = dict(CASES[case](base, base.work))
            theirs = dict(CASES[case](head, base.work))
            for what in sorted(ours.keys() | theirs.keys()):
                there = what in ours and what in theirs
                share = difference(ours[what], theirs[what]) if there else float("inf")
                worst = max(worst, share)
                verdict = "equal" if share == 0 else f"differs by up to {share:.2g}"
                print(f"{what}: {verdict if there else 'in one commit only'}", flush=True)
    print(f"largest difference: {worst:.2g}")
    sys.exit(worst > chosen.tolerance)


if __name__ == "__main__":
    main()
