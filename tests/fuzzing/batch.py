"""Many mutants in processes of their own, and a table of what came of them."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.fuzzing.check import MOST_WALL_S, Outcome

SILENCE_S = 2 * MOST_WALL_S  # of a worker; making a setting takes seconds too
SEED = 20261130


def outcomes(counts: Mapping[str, int], seed: int = SEED) -> Iterator[Outcome]:
    """Of the first mutants of each reader."""
    left = {name: (0, count) for name, count in counts.items()}
    while left:
        for found in _worker([(name, *part) for name, part in left.items()], seed):
            yield found
            _, count = left.pop(found.reader)
            if found.number + 1 < count and found.kind != "unsound":
                left = {found.reader: (found.number + 1, count), **left}


def _worker(parts: Sequence[tuple[str, int, int]], seed: int) -> Iterator[Outcome]:
    """Until all are done, or one has ended the process."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(root / "cache"),
        "MPLCONFIGDIR": str(root / "cache"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "TMPDIR": str(root / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "cache"),
        "EFFICIENTVIT_NAS_DATA": str(root / "work" / "data"),
    }
    named = [":".join(map(str, part)) for part in parts]
    with (root / "said.txt").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzzing.worker", str(root), str(seed), *named],
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=ROOT,
            env=environment,
        )
        begun: tuple[str, int] | None = None
        try:
            for line in _lines(process):
                found = json.loads(line)
                if "begun" in found:
                    begun = (found["begun"][0], found["begun"][1])
                    continue
                begun = None
                yield Outcome(**found)
            hung = process.poll() is None and not _ended(process)
            process.kill()
            status = process.wait()
            if begun or status:
                said.seek(0)
                last = [text for text in said.read().splitlines() if text.strip()][-3:]
                what = "silent" if hung else f"ended with {status}"
                if begun is None:
                    raise RuntimeError(f"the worker {what} outside of a mutant: {last}")
                yield Outcome(*begun, "died", f"{what}: {' '.join(last)[:400]}")
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
            shutil.rmtree(root, ignore_errors=True)


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Lines of its output until it ends or is silent for too long."""
    assert process.stdout is not None
    rest = b""
    while select.select([process.stdout], [], [], SILENCE_S)[0]:
        data = os.read(process.stdout.fileno(), 2**16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def summary(found: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """By reader: how many mutants, what they gave, the most that one took."""
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(one.reader for one in found):
        own = [one for one in found if one.reader == name]
        rows[name] = {
            "mutants": len(own),
            "values": sum(one.kind == "value" for one in own),
            "errors": sum(one.kind == "error" for one in own),
            "findings": sum(one.is_finding for one in own),
            "worst_seconds": round(max(one.seconds for one in own), 2),
            "worst_megabytes": round(max(one.megabytes for one in own)),
        }
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """For a terminal and for Markdown."""
    columns = ("mutants", "values", "errors", "findings", "worst_seconds", "worst_megabytes")
    lines = ["| reader | mutants | values | errors | findings | worst s | worst MB |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |")
    return "\n".join(lines)


def kinds(found: Sequence[Outcome]) -> list[str]:
    """The findings, those of one place and kind together, each with how to see it again."""
    groups = Counter((one.reader, one.kind, one.place) for one in found if one.is_finding)
    lines = []
    for (reader, kind, place), count in groups.most_common():
        first = next(o for o in found if (o.reader, o.kind, o.place) == (reader, kind, place))
        lines.append(
            f"{count} x {reader}: {kind} at {place or '?'}; "
            f"--reader '{reader}' --only {first.number}: {first.text}"
        )
    return lines
