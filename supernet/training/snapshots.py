"""What a training goes on from: the last states of a run, each one whole file.

Tensors as safetensors, numbers as JSON in the file's metadata, so that they cannot belong to
different steps.
"""

import re
from pathlib import Path
from typing import Annotated

import msgspec
from torch import Tensor

from results.errors import RunError
from results.reading import Count, Record, parse_json
from results.runs import own_path
from supernet.weights.tensors import read_tensors, write_tensors

FOLDER = "checkpoints"
KEPT = 2  # the last but one too, should a disk lose the last
NAME = re.compile(r"step-(\d{8,12})\.safetensors")


class Facts(Record, frozen=True):
    """The numbers of a state."""

    step: Count
    ema_updates: Count | None = None
    scaler: dict[str, Count | Annotated[float, msgspec.Meta(gt=0, le=1e38)]] = msgspec.field(
        default_factory=dict
    )  # of fp16


def save_snapshot(run: Path, tensors: dict[str, Tensor], facts: Facts) -> Path:
    """Keep a state of `run` and drop those before the last two.

    Raises RunError where it cannot be written, or would be in another folder than the run's.
    """
    path = own_path(run, f"{FOLDER}/step-{facts.step:08d}.safetensors")
    write_tensors(path, tensors, {"format": "pt", "facts": msgspec.json.encode(facts).decode()})
    for old in snapshots(run)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def snapshots(run: Path) -> list[Path]:
    """List the files of states, oldest first; files of other names are not looked at.

    Raises RunError where they would be in another folder than the run's.
    """
    files = own_path(run, FOLDER).glob("step-*")
    return sorted((path for path in files if NAME.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """Return how many steps a state is in, by its file's name."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def load_snapshot(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """Return tensors, on the CPU, and facts. Raises RunError where the file is damaged."""
    try:
        tensors, metadata = read_tensors(path, error=RunError)
        if "facts" not in metadata:
            raise RunError(f"{path} is damaged: it has no facts")
        facts = parse_json(metadata["facts"], Facts, f"{path} is damaged: its facts")
        if facts.step != step_of(path):
            raise RunError(f"{path} is damaged: it is of step {facts.step}")
        return tensors, facts
    except RunError as error:
        raise without(error) from None


def without(error: RunError) -> RunError:
    """Return the error of a damaged state with what goes on without it."""
    return RunError(f"{error}; delete it, --resume then goes on from the one before")
