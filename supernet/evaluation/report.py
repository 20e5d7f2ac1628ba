"""What `supernet.evaluate` says on a terminal."""

from collections.abc import Iterable
from typing import Any

from results.console import terminal
from supernet.arch import Arch, format_resolution
from supernet.evaluation.rows import SHARED, EvaluationRow

UNITS = {"psnr_db": "dB", "ssim": "", "loss": "", "l1": ""}  # of the other figures: percent
TITLES = {
    "psnr_db": "PSNR (luma)",
    "ssim": "SSIM (luma, at most 1)",
    "miou": "mean IoU",
    "miou_small": "mean IoU, small",
    "miou_medium": "mean IoU, medium",
    "miou_large": "mean IoU, large",
}


def print_network(answer: dict[str, Any]) -> None:
    """Print the figures of one network, and where they come from."""
    out = terminal(soft_wrap=True)
    arch = Arch.from_dict(answer["arch"])
    size = f", {answer['resolution']} px" if answer["resolution"] else ""
    made = "shared weights" if answer["provenance"] == SHARED else "trained"
    out.print(f"{answer['task']}: {arch.describe()}{size}")
    out.print(f"  weights    {answer['weights']}, sha256 {answer['weights_sha256'][:12]}, {made}")
    out.print(
        f"  data       {answer['dataset']} ({answer['data'] or 'embedded'}), "
        f"pictures: {answer['n']}, {answer['precision']} on "
        f"{answer['accelerator']}, {answer['seconds']:.1f} s"
    )
    _print_training(answer)
    if answer["task"] == "promptable":
        out.print("  masks from boxes, by the objects' size in pixels of the picture:")
    metrics = answer["metrics"]
    for name, value in metrics.items():
        if not name.endswith("_stderr"):
            title = TITLES.get(name, name.replace("_", " "))
            out.print(f"  {title:<22} {_figure(name, value, metrics.get(f'{name}_stderr'))}")
    out.print("  ± is the standard error over pictures; figures without have none")
    print_notes(answer.get("notes", ()))


def print_notes(notes: Iterable[str]) -> None:
    """Print what was assumed of the labels, or is odd, a line each."""
    out = terminal(soft_wrap=True)
    for note in notes:
        out.print(f"  note: {note}")


def unit_of(name: str) -> str:
    """Return the unit of a figure; empty where it has none."""
    return "" if name.startswith("objects") else UNITS.get(name.removesuffix("_stderr"), "%")


def print_supernet(sources: dict[str, Any]) -> None:
    """Print where figures of subnets come from: an answer of which rows are not looked at."""
    out = terminal(soft_wrap=True)
    out.print(
        f"{sources['task']}: subnets of {sources['file']}, "
        f"sha256 {sources['weights_sha256'][:12]}, shared weights"
    )
    out.print(
        f"  data       {sources['dataset']}, pictures: {sources['n']}, {sources['precision']}; "
        f"statistics of {sources['recalibration_images']} training pictures, seed {sources['seed']}"
    )
    _print_training(sources)
    print_notes(sources.get("notes", ()))


def print_subnet(arch: Arch, rows: list[EvaluationRow]) -> None:
    """Print the first figure of a subnet."""
    first = rows[0]
    figure = _figure(first["metric"], first["value"], first.get("stderr"))
    size = format_resolution(arch.resolution)
    terminal(soft_wrap=True).print(
        f"  {first['metric']:<10} {figure:<18} {arch.describe()}, {size} px"
    )


def _print_training(answer: dict[str, Any]) -> None:
    """Print how long the weights were trained and what they reached then, where it is known."""
    training = answer.get("training", {})
    parts = [f"steps: {training['steps']}"] if "steps" in training else []
    if accuracy := training.get("accuracy"):
        name = accuracy["metric"]
        figure = _figure(name, accuracy["value"], accuracy["stderr"])
        whose = "the largest subnet's " if "rows" in answer else ""
        pictures = f"{accuracy['dataset']}, pictures: {accuracy['n']}"
        parts.append(f"{whose}{TITLES.get(name, name)} {figure} at its end ({pictures})")
    if parts:
        terminal(soft_wrap=True).print(f"  training   {'; '.join(parts)}")


def _figure(name: str, value: float, stderr: float | None) -> str:
    if name.startswith("objects"):
        return f"{value:.0f}"
    digits = 4 if name == "ssim" else 2
    error = "" if stderr is None else f" ± {stderr:.{digits}f}"
    return f"{value:.{digits}f}{error} {unit_of(name)}".rstrip()
