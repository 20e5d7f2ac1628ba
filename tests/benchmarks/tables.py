"""How right measured tables are: `python -m tests.benchmarks.tables --runtime onnxruntime`.

A full build of space b at resolutions 128 to 288 and one within three minutes, each as a process
of its own, with its time and peak memory, and for both the errors on random whole networks,
measured afterwards by `lut.validate` in a process and session of its own; a second full build,
held against the first. Then, beside the first table and on the same networks, what others
do: every block alone in a hot loop, MACs, and (ONNX Runtime) the profiler's own times of every
block.

The record goes to results/benchmarks/tables-RUNTIME.json. Run it on a machine with nothing else
to do; it takes about half an hour for each runtime.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lut.agreement import agreement, scale_between
from lut.builders.network import build_network
from lut.measuring.context import fit_context
from lut.measuring.samples import low_mean
from lut.rows import Entry
from lut.runtimes import timer
from lut.runtimes.session import FORMATS
from lut.table import Table, load_table
from results.files import write_json
from results.reading import read_json
from results.record import commit
from supernet.arch import Arch
from supernet.blocks import Block, blocks_of
from supernet.cost import network_cost
from tests.benchmarks.record import ROOT, write_record

SPACE = "b"
FREEZE = "resolution=128,160,192,224,256,288"
NETWORKS = 64
HOT_S = 0.05  # of a block's hot loop


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", choices=("onnxruntime", "litert"), required=True)
    parser.add_argument("--work", type=Path, help="keep builds here, and take those that are done")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        fields = {
            **measure(options.runtime, work),
        }
    record = write_record(
        f"tables-{options.runtime}",
        fields,
        command=f"python -m tests.benchmarks.tables --runtime {options.runtime}",
    )
    print(json.dumps({k: v for k, v in record.items() if k != "networks"}, indent=2))


def measure(runtime: str, work: Path) -> dict[str, Any]:
    builds: dict[str, Any] = {}
    validations: dict[str, Any] = {}
    for name, flags in (
        ("full", ("--freeze", FREEZE)),
        ("budget_3min", ("--freeze", FREEZE, "--budget", "3min")),
        ("again", ("--freeze", FREEZE)),
    ):
        builds[name] = build(runtime, work / name, flags)
        if name != "again":
            validations[name] = validation(work / name, work / f"{name}-validation")
    table = table_in(work / "full")
    networks = validations["full"]["networks"]
    archs = [Arch.from_dict(row["arch"]) for row in networks]
    measured_ms = [row["measured_ms"] for row in networks]
    reference_ms = {
        Arch.from_dict(row["arch"]): row["measured_ms"]
        for row in validations["full"].pop("references")
    }
    validations["budget_3min"].pop("references")
    return {
        "runtime": runtime,
        "space": {"name": SPACE, "freeze": FREEZE},
        "builds": builds,
        "validations": {
            name: {k: v for k, v in found.items() if k != "networks"}
            for name, found in validations.items()
        },
        "two_builds": agreement_of_tables(
            table,
            table_in(work / "again"),
            archs,
        ),
        "schemes": schemes(runtime, table, archs, measured_ms, reference_ms, work / "schemes.json"),
        "networks": [
            {
                "measured_ms": row["measured_ms"],
                "predicted_ms": row["predicted_ms"],
                "scaled_ms": row["scaled_ms"],
            }
            for row in networks
        ],
    }


def build(runtime: str, folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Wall seconds and peak memory of a build as a whole process with its children."""
    summary = folder / "build.json"
    if summary.exists():
        found: dict[str, Any] = read_json(summary, dict[str, Any])
        return found
    argv = ["lut.build", "--device", "bench", "--runtime", runtime, "--space", SPACE]
    argv += ["--out", str(folder / "tables"), "--run-folder", str(folder / "run")]
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *argv, *flags, "--quiet"], cwd=ROOT)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    watcher.join()
    assert code == 0, "the build failed"
    table = table_in(folder)
    measurement = table.sidecar.written["measurement"]
    found = {
        "commit": commit(),
        "wall_seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(peak[0] / 1e9, 2),
        "num_measured": measurement["num_measured"],
        "num_interpolated": measurement["num_interpolated"],
        "rejected_chunks": measurement["protocol"]["rejected_chunks"],
        "largest_drift_percent": measurement["largest_drift_percent"],
        "chunk_scales": measurement["chunk_scales"],
        "load": measurement["load"],
        "validation_of_the_build": table.sidecar.written["validation"],
    }
    write_json(summary, found)
    return found


def _watch(process: "subprocess.Popen[bytes]", peak: list[float]) -> None:
    """The largest resident memory of a process and all below it, bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(stat.parent.name)] = int(fields[1]), int(fields[21]) * page
        family, grown = {process.pid}, True
        while grown:
            more = {pid for pid, (parent, _) in parents.items() if parent in family} - family
            family, grown = family | more, bool(more)
        peak[0] = max(peak[0], sum(parents[pid][1] for pid in family if pid in parents))
        time.sleep(0.5)


def validation(folder: Path, out: Path) -> dict[str, Any]:
    """Errors on networks that the build has not seen, in another process and session."""
    if not (out / "validation.json").exists():
        (path,) = (folder / "tables").glob("*.csv")
        argv = ["lut.validate", "--table", str(path), "--networks", str(NETWORKS)]
        argv += ["--out", str(out), "--quiet"]
        subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, check=True)
    found: dict[str, Any] = read_json(out / "validation.json", dict[str, Any])
    return found


def table_in(folder: Path) -> Table:
    (path,) = (folder / "tables").glob("*.csv")
    return load_table(path)


def agreement_of_tables(a: Table, b: Table, archs: Sequence[Arch]) -> dict[str, float]:
    """How two builds differ on sums over whole networks, after one scale."""
    sums = np.array([[t.network_ms(blocks_of(arch)) for arch in archs] for t in (a, b)])
    scale = scale_between(sums[0].tolist(), sums[1].tolist())
    off = np.abs(sums[0] * scale / sums[1] - 1)
    return {
        "scale": scale,
        "mean_percent": 100 * float(off.mean()),
        "worst_percent": 100 * float(off.max()),
    }


def schemes(
    runtime: str,
    table: Table,
    archs: Sequence[Arch],
    measured_ms: Sequence[float],
    reference_ms: Mapping[Arch, float],
    kept: Path,
) -> dict[str, Any]:
    """Errors of ours and of what others do, on the same networks and scaled by the same rule.

    MACs get a line fitted on these very networks, which flatters them; all others one factor,
    from the reference networks in their session. Others' sums are also shown with the regression
    of `lut.measuring.context` on the networks that our table was fitted to: what is left then is
    how the blocks are timed.
    """
    fitted = {
        Arch.from_dict(row["arch"]): row["measured_ms"]
        for row in table.sidecar.written["measurement"]["networks"]
    }
    timed = [*archs, *fitted, *reference_ms]
    blocks = list(dict.fromkeys(block for arch in timed for block in blocks_of(arch)))
    found: dict[str, Any] = {}
    if kept.exists():
        times = read_json(kept, dict[str, Any])
    else:
        times = {"isolated block, hot loop": [hot_ms(runtime, block) for block in blocks]}
        if runtime == "onnxruntime":
            times["profiler, summed operators"] = [profiled_ms(block) for block in blocks]
        write_json(kept, times)

    def judge(name: str, total: Callable[[Arch], float]) -> None:
        raw = [total(arch) for arch in archs]
        references = [total(arch) for arch in reference_ms]
        scale = scale_between(references, list(reference_ms.values()))
        found[name] = {
            "raw": agreement(raw, measured_ms).to_dict(),
            "scaled": agreement([ms * scale for ms in raw], measured_ms).to_dict(),
        }

    judge("in context, by difference", lambda arch: table.network_ms(blocks_of(arch)))
    for name, column in times.items():
        by_block = dict(zip(blocks, column, strict=True))
        judge(name, lambda arch, ms=by_block: sum(ms[b] for b in blocks_of(arch)))  # type: ignore[misc]
        theirs = regressed(table, by_block, fitted)
        judge(f"{name}, with our regression", lambda arch, t=theirs: t.network_ms(blocks_of(arch)))  # type: ignore[misc]
    macs = np.array([network_cost(blocks_of(arch)).macs for arch in archs], float)
    line = np.column_stack([np.ones_like(macs), macs]) / np.array(measured_ms)[:, None]
    offset, slope = np.linalg.lstsq(line, np.ones_like(macs), rcond=None)[0]
    on_line = agreement((offset + slope * macs).tolist(), measured_ms)
    found["MACs, line fitted on these networks"] = {"scaled": on_line.to_dict()}
    return found


def regressed(table: Table, ms_of: Mapping[Block, float], fitted: Mapping[Arch, float]) -> Table:
    """A table of other times of blocks, fitted to the networks that `table` was fitted to."""
    entries = {block: Entry(ms, 0.0, 1, "measured") for block, ms in ms_of.items()}
    networks = [blocks_of(arch) for arch in fitted]
    context = fit_context(entries, networks, list(fitted.values()), table.batch)
    return replace(table, entries=context.apply(entries), terms=context.terms)


def loaded(runtime: str, blocks: Sequence[Block]) -> timer.Run:
    """A model of `blocks` in this process, as the timer loads it."""
    options = argparse.Namespace(threads=1, provider="")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        path.write_bytes(build_network(FORMATS[runtime], blocks))
        run: timer.Run = timer.RUNTIMES[runtime](options).load(path)
    return run


def alone(block: Block) -> list[Block]:
    """A network of the block and what it needs to run: a pool gives a linear layer a row."""
    if block.kind != "linear":
        return [block]
    return [Block("pool", block.in_channels, block.in_channels, 1, 1, norm="none"), block]


def hot_ms(runtime: str, block: Block) -> float:
    """The mean of a hot loop around the block alone, after a warm-up: the usual recipe."""
    run = loaded(runtime, alone(block))
    for _ in range(5):
        run()
    started = time.perf_counter()
    count = 0
    while count < 10 or time.perf_counter() - started < HOT_S:
        run()
        count += 1
    return (time.perf_counter() - started) / count * 1e3


def profiled_ms(block: Block) -> float:
    """The sum of the operators' times that ONNX Runtime's profiler tells, low mean of 20 runs."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        data = build_network("onnx", alone(block))
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        x = timer.normal(np, given.shape)
        for _ in range(22):
            session.run(None, {given.name: x})
        events = json.loads(Path(session.end_profiling()).read_text())
    runs: list[float] = []
    for event in events:
        if event["name"] == "model_run":
            runs.append(0.0)
    # events of operators precede that of their run, so they are dealt out in order
    operators = [e["dur"] for e in events if e["name"].endswith("_kernel_time")]
    per_run = len(operators) // max(len(runs), 1)
    sums = [sum(operators[i * per_run : (i + 1) * per_run]) for i in range(len(runs))]
    return low_mean(np.array(sums[2:], float)) / 1e3


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    random.seed(0)
    main()
