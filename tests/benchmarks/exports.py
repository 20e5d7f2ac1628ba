"""Exported files: their sizes, how far they are from PyTorch, and how fast beside other exporters'.

python -m tests.benchmarks.exports --exporters VENV/bin/python

VENV is an environment of its own with `litert-torch`, `onnxscript` and what `supernet` needs. There
PyTorch's own exporter and litert-torch write the same networks, with the same weights; all four
files are then timed here in turns, on one thread. Without the flag that part is left out.

Needs a machine with nothing else to do.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from supernet.arch import MixerKind
from tests.benchmarks.record import ROOT, write_record

MIXERS = ("softmax", "hyena", "retention", "rwkv")
NAMED = ("b0", "b1", "l1", "b0@512 segmentation", "sr_x2", "sam_l0")
PRECISIONS = ("fp32", "fp16")
FORMATS = ("onnx", "tflite", "openvino", "tensorrt", "pt2", "safetensors")
# Two pictures of sam_l0 in float16 took PyTorch more than eight minutes on a CPU.
SLOW = {("pt2", "fp16")}
TIMED = ("b0", "b1")
PASSES, WARM, LEAST_S = 40, 3, 0.02
LIMIT_S = 10.0  # that an export of B1 may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exporters", type=Path, help="Python with litert-torch and onnxscript")
    parser.add_argument("--work", type=Path, help="folder, whose exports that ended are taken")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        write_theirs(options.theirs)
        return
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = {"b1_to_onnx_s": whole_process(Path(name))}
        folder = options.work or Path(name)
        if options.exporters:
            found["speed"] = speeds(folder, options.exporters)
        found["files"] = all_files(folder)
    command = "python -m tests.benchmarks.exports"
    command += " --exporters VENV/bin/python" if options.exporters else ""
    print(json.dumps(write_record("exports", found, command=command), indent=2))


def whole_process(folder: Path) -> list[float]:
    """Return seconds that exporting B1 to ONNX takes as a command, three times."""
    taken = []
    for number in range(3):
        started = time.monotonic()
        run_export("b1", "--format", "onnx", "--out", str(folder / f"whole{number}"))
        taken.append(round(time.monotonic() - started, 2))
    return taken


def all_files(folder: Path) -> dict[str, Any]:
    """Return what the manifests say of all networks, formats and precisions."""
    from supernet.resolve import resolve_arch

    base = resolve_arch("b0")
    files = {}
    for mixer in MIXERS:
        head_dim = 0 if mixer in ("hyena", "rwkv") else 16
        stages = [
            stage
            if stage.mixer == "none"
            else replace(stage, mixer=cast(MixerKind, mixer), scales=(), head_dim=head_dim)
            for stage in base.stages
        ]
        path = folder / f"{mixer}.json"
        path.write_text(replace(base, stages=tuple(stages)).to_json())
        files[mixer] = [str(path)]
    for text in NAMED:
        name, _, task = text.partition(" ")
        name, _, size = name.partition("@")
        words = [name, *(["--task", task] if task else [])]
        files[text] = words + (["--resolution", size] if size else [])
    run = folder / "run"
    search = ["nas.search", "--device", "snapdragon8gen1", "--quiet", "--out", str(run)]
    if not (run / "front.json").exists():
        subprocess.run([sys.executable, "-m", *search], cwd=ROOT, check=True)
    files["knee of a search for snapdragon8gen1"] = [str(run), "--pick", "knee"]
    return {
        name: files_of(words, folder / f"files{n}") for n, (name, words) in enumerate(files.items())
    }


def files_of(words: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Export a network in all formats and return a row for each file."""
    rows = []
    for precision in PRECISIONS:
        formats = [f for f in FORMATS if (f, precision) not in SLOW]
        if "sam_l0" in words:
            formats.remove("safetensors")
        flags = [word for name in formats for word in ("--format", name)]
        own = out.with_name(f"{out.name}-{precision}")
        run_export(*words, *flags, "--precision", precision, "--images", "2", "--out", str(own))
        (network,) = json.loads((own / "manifest.json").read_text())["networks"]
        rows += [
            {
                "format": file["format"],
                "precision": precision,
                "part": file["part"],
                "status": file["status"],
                "mb": round(sum(f["bytes"] for f in (file, *file["companions"])) / 1e6, 2),
                "relative_difference": file["relative_difference"],
                "checked_with": file["checked_with"],
            }
            for file in network["files"]
        ]
    return rows


def run_export(*words: str) -> None:
    """Run the command, on one thread, unless that is done. A rejected file is a result, too."""
    if (Path(words[-1]) / "manifest.json").exists():
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nas.export", *words, "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, 3), words


def speeds(folder: Path, python: Path) -> dict[str, Any]:
    """Time our files beside those of PyTorch's exporter and litert-torch."""
    import torch

    from supernet.model import create_model
    from supernet.weights.files import save_weights

    for name in TIMED:
        torch.manual_seed(0)
        save_weights(create_model(name).eval(), folder / f"{name}.safetensors")
        words = (str(folder / f"{name}.safetensors"), "--format", "onnx", "--format", "tflite")
        run_export(*words, "--out", str(folder / f"ours-{name}"))
    command = [str(python), "-m", "tests.benchmarks.exports", "--theirs", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / "theirs.json").read_text())
    for name in TIMED:
        for format, runner in (("onnx", onnx_runner), ("tflite", tflite_runner)):
            (own,) = (folder / f"ours-{name}").glob(f"*.{format}")
            theirs = folder / f"theirs-{name}.{format}"
            found[f"{name} {format}"] = in_turns(runner(own), runner(theirs))
    return found


def write_theirs(folder: Path) -> None:
    """Write the networks by the other exporters, in their environment."""
    from importlib.metadata import version

    import litert_torch  # type: ignore[import-not-found]
    import torch

    from supernet.weights.header import read_header
    from supernet.weights.networks import load_network

    for name in TIMED:
        path = folder / f"{name}.safetensors"
        arch = read_header(path).arch
        assert arch is not None
        model = load_network(arch, path).eval()
        example = (torch.randn(1, 3, *arch.resolution),)
        torch.onnx.export(model, example, folder / f"theirs-{name}.onnx", dynamo=True)
        litert_torch.convert(model, example).export(str(folder / f"theirs-{name}.tflite"))
    told = {package: version(package) for package in ("torch", "onnxscript", "litert-torch")}
    (folder / "theirs.json").write_text(json.dumps({"exporters": told}))


def onnx_runner(path: Path) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    inputs = {entry.name: np.random.default_rng(0).random(entry.shape, np.float32)}
    return lambda: session.run(None, inputs)


def tflite_runner(path: Path) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(
        entry["index"], np.random.default_rng(0).random(entry["shape"], np.float32)
    )
    invoke: Callable[[], Any] = interpreter.invoke
    return invoke


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, Any]:
    """Time both in turns; the ratio is the median over passes, with the middle 90 % of medians."""
    runs = (ours, theirs)
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM + PASSES):
        for which in random.Random(number).sample((0, 1), 2):
            started, count = time.perf_counter(), 0
            while count < 2 or time.perf_counter() - started < LEAST_S:
                runs[which]()
                count += 1
            if number >= WARM:
                taken[which].append(1000 * (time.perf_counter() - started) / count)
    ratios = np.array(taken[0]) / np.array(taken[1])
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(ratios, (1000, len(ratios))), axis=1)
    return {
        "ours_ms": round(statistics.median(taken[0]), 3),
        "theirs_ms": round(statistics.median(taken[1]), 3),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_90": [round(float(q), 3) for q in np.quantile(drawn, (0.05, 0.95))],
    }


if __name__ == "__main__":
    main()
