"""What a training goes on from: the last states of a run, each one whole file.

Tensors as safetensors, numbers as JSON in the file's metadata, so that they cannot belong to
different steps.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from results.errors import RunError
from results.files import write_bytes

FOLDER = "checkpoints"
KEPT = 2  # the last but one too, should a disk lose the last


def save_snapshot(run: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Keep a state of `run`, `facts["step"]` steps in, and drop those before the last two.

    Raises RunError where it cannot be written.
    """
    path = run / FOLDER / f"step-{facts['step']:08d}.safetensors"
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata={"format": "pt", "facts": json.dumps(facts)}))
    for old in snapshots(run)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def snapshots(run: Path) -> list[Path]:
    """Files of states, oldest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"))


def load_snapshot(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and facts. Raises RunError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{path} is damaged: {error}; delete it, --resume then goes on from the one before"
        ) from None
