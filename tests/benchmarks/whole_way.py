"""The README's way from pictures to a network of one's own: `python -m tests.benchmarks.whole_way`.

Runs its commands as written, in an empty folder, and records the seconds of each (wall clock and
CPU, children included) and what the trained networks reach: the supernet's largest and smallest
subnet, the winner inside the supernet, taken out, and fine-tuned, and the named network beside it.
The record goes to results/benchmarks/whole_way.json.
"""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results.reading import read_json
from tests.benchmarks.record import ROOT, write_record


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment["EFFICIENTVIT_NAS_DATA"] = str(folder / "data")
        commands: list[dict[str, Any]] = []
        for line in story():
            wall, before = time.monotonic(), cpu_s()
            arguments = [sys.executable, *shlex.split(line)[1:]]
            subprocess.run(arguments, cwd=folder, env=environment, check=True)
            seconds = {"wall": time.monotonic() - wall, "cpu": cpu_s() - before}
            commands.append({"command": line, "seconds": seconds})
        found = figures(folder, environment)
    fields = {
        "commands": commands,
        "seconds": {
            kind: sum(row["seconds"][kind] for row in commands) for kind in ("wall", "cpu")
        },
        **found,
    }
    record = write_record("whole_way", fields)
    print(json.dumps(record, indent=2))


def story() -> list[str]:
    """The commands of the README's block that builds a table for `here`."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "lut.build --device here" in block)
    return list(block.splitlines())


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def figures(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    runs = folder / "results" / "runs"

    def trained(name: str) -> list[dict[str, Any]]:
        rows = read_json(runs / name / "evaluation.json", dict[str, Any])["evaluations"]
        return [{k: row[k] for k in ("subnet", "metric", "value", "stderr", "n")} for row in rows]

    def evaluated(*flags: str) -> dict[str, Any]:
        arguments = [sys.executable, "-m", "supernet.evaluate", *flags, "--json"]
        done = subprocess.run(
            arguments, cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return {k: v for k, v in found.items() if k not in ("file", "weights")}  # of this machine

    (extract,) = (line for line in story() if "supernet.extract" in line)
    arch = re.search(r"--arch (\S+)", extract)
    assert arch is not None
    supernet = str(runs / "supernet" / "model.safetensors")
    inside = evaluated("--weights", supernet, "--arch", arch[1])
    alone = evaluated("--weights", str(runs / "winner.safetensors"))
    return {
        "supernet": trained("supernet"),
        "winner_in_the_supernet": inside,
        "winner_taken_out": alone,
        "winner_fine_tuned": trained("tuned"),
        "named_network": trained("b0"),
    }


if __name__ == "__main__":
    main()
