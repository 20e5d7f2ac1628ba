"""What networks reach with weights: subnets of a supernet, or the one network of a file."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.verifying.options import VerifyOptions
from results.errors import SpaceError, WeightsError
from results.extras import require
from results.files import write_text
from supernet.arch import Arch
from supernet.evaluation.options import EvaluationOptions
from supernet.resolve import trained_arch
from supernet.space import Space
from supernet.weights.header import read_header

ARCHS, EVALUATED = "networks.csv", "evaluated.jsonl"


@dataclass(frozen=True)
class Figure:
    """What a network reaches on pictures."""

    metric: str
    value: float
    images: int


def networks_with(weights: Path, archs: Sequence[Arch]) -> tuple[Arch, ...]:
    """Return those of `archs` that a file has weights of, without PyTorch.

    Raises WeightsError for a file that has none, UserError for one that is no file of weights.
    """
    header = read_header(weights)
    if header.space is not None:
        space = header.space
        own = tuple(arch for arch in archs if _is_inside(space, arch))
        what = f"a supernet of space {space.name}"
    else:
        own = tuple(arch for arch in archs if arch == header.arch_as_trained)
        what = f"of {header.arch.describe()}" if header.arch else "of a network it does not tell"
    if not own:
        raise WeightsError(f"{weights} is {what}, none of the networks to verify; leave it out")
    return own


def _is_inside(space: Space, arch: Arch) -> bool:
    try:
        return trained_arch(space, arch) == arch
    except SpaceError:
        return False


def figures_of(
    options: VerifyOptions, archs: Sequence[Arch], folder: Path, *, silent: bool
) -> dict[Arch, Figure]:
    """Return the first figure of each network that the options' weights are of.

    Those of subnets are kept in `folder` as they come, and not computed again.

    Raises UserError for weights and pictures that do not go together.
    """
    if options.weights is None:
        return {}
    require("torch", "torch", "safetensors", "PIL")
    from supernet.evaluation.run import evaluate  # with PyTorch, which all else does without

    own = networks_with(options.weights, archs)
    alone = EvaluationOptions(
        weights=options.weights,
        data=options.data,
        limit=options.limit,
        recalibration_images=options.recalibration_images,
        workers=options.workers,
    )
    if read_header(options.weights).space is None:
        answer = evaluate(alone, silent=silent)
        metric, value = next(iter(answer["metrics"].items()))
        return {own[0]: Figure(metric, float(value), int(answer["n"]))}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["arch"], *([a.to_json()] for a in own)])
    write_text(folder / ARCHS, text.getvalue())
    found: dict[Arch, Figure] = {}
    subnets = replace(alone, archs=folder / ARCHS, out=folder / EVALUATED)
    for row in evaluate(subnets, silent=silent)["rows"]:
        arch = Arch.from_dict(row["arch"])  # the task's first figure comes first
        found.setdefault(arch, Figure(row["metric"], float(row["value"]), int(row["n"])))
    return found
