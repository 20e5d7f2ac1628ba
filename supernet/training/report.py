"""What a training prints when it is done."""

import shlex
from typing import Any

from results.console import terminal


def print_training(answer: dict[str, Any]) -> None:
    """Print the figures of every evaluated subnet, where the weights are, and what to do next."""
    from supernet.arch import Arch
    from supernet.evaluation.report import print_notes

    out = terminal(soft_wrap=True)
    out.print(f"{answer['task']} on {answer['dataset']}, {answer['steps']} steps")
    rows = answer["evaluations"]
    longest = max(len(row["subnet"]) for row in rows)
    for row in rows:
        error = "" if row["stderr"] is None else f" ± {row['stderr']:.2f}"
        arch = Arch.from_dict(row["arch"])
        out.print(
            f"  {row['subnet']:<{longest}}  {row['metric']} {row['value']:.2f}{error}, "
            f"{row['n']} pictures at {row['resolution']} px: {arch.describe()}"
        )
    out.print("  ± is the standard error over pictures")
    print_notes(answer.get("notes", ()))
    curve = f", curve {answer['curve']}" if answer["curve"] else ""
    out.print(f"weights {answer['model']}{curve}")
    out.print(f"next: {next_command(answer)}")


def next_command(answer: dict[str, Any]) -> str:
    """Return the command line that goes on with the weights."""
    model, space = shlex.quote(answer["model"]), answer["space"]
    data = f" --data {shlex.quote(answer['data'])}" if answer["data"] else ""
    if answer["task"] == "pretrain":
        arch = f"--space {space}" if space else "--arch ARCH"
        return f"python -m supernet.train {arch} --task TASK --init {model}"
    subnets = " --sample 100 --out subnets.jsonl" if space else ""
    return f"python -m supernet.evaluate --weights {model}{data}{subnets}"
