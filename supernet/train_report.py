"""What a training prints when it is done."""

from typing import Any

UNITS = {"psnr_db": "dB"}  # of the other figures: percent, where they are no losses


def print_training(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from supernet.arch import Arch

    out = Console(highlight=False, soft_wrap=True, markup=False)
    metric = answer["primary"]
    table = Table(box=None, header_style="", padding=(0, 2, 0, 0))
    for name in ("subnet", "size", metric, "±", "n", "arch"):
        table.add_column(name, justify="left" if name in ("subnet", "arch") else "right")
    for row in answer["evaluations"]:
        error = "" if row["stderr"] is None else f"{row['stderr']:.2f}"
        arch = Arch.from_dict(row["arch"])
        table.add_row(
            row["subnet"],
            row["resolution"],
            f"{row['value']:.2f}",
            error,
            str(row["n"]),
            arch.describe(),
        )
    out.print(f"{answer['task']} on {answer['dataset']}, {answer['steps']} steps")
    out.print(table)
    out.print("± is the standard error over pictures")
    out.print(f"weights {answer['model']}, curve {answer['curve']}")
    out.print(f"next: {next_command(answer)}")


def next_command(answer: dict[str, Any]) -> str:
    return f"python -m supernet.evaluate --weights {answer['model']}"
