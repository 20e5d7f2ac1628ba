"""Learn from public tables of other spaces what MACs are worth at each stride."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.console import main as console_main
from results.console import terminal


@dataclass(frozen=True)
class Transfer:
    """Fit the worth of MACs at each stride to public tables, and judge it on each table left out.

    Prints for each table the effects and how well they rank and predict its networks when they
    come from the other tables; writes what predictions use, with sources and errors.
    """

    tables: Path
    """Folder with the tables: mbnv3w10_*.csv, accel_nasbench_dataset_jsons.tar.gz,
    nasbench_mr.csv.gz and imagenet_published_architectures.csv.gz, see docs/accuracy.md."""
    out: Path | None = None
    """Write the effects to this file, in the layout of results/published/stage_effects.json."""

    def run(self) -> None:
        """Fit, judge, print and write."""
        from predictors.public_tables import read_public_tables
        from predictors.stage_effects import learn
        from results.files import write_json

        learned = learn(read_public_tables(self.tables))
        _print(learned)
        if self.out is not None:
            write_json(self.out, learned)
            print(f"wrote {self.out}")


def _print(learned: dict[str, Any]) -> None:
    from rich.table import Table

    from predictors.worth import WORTH

    table = Table(box=None)
    for name in ("table", "networks", *(f"stride {stride}" for stride in WORTH)):
        table.add_column(name, no_wrap=True)
    table.add_column("from the others: tau, std")
    for name, own in learned["tables"].items():
        effects = [
            f"{100 * mean:.1f} ± {100 * variances[number] ** 0.5:.1f}"
            for number, (mean, variances) in enumerate(
                zip(own["effects"]["mean"], own["effects"]["covariance"], strict=True)
            )
        ]
        judged = own["left_out"]
        verdict = "not judged: levels differ between its groups"
        if judged is not None:
            verdict = (
                f"{judged['tau_of_size']:.3f} -> {judged['tau']:.3f}, "
                f"{judged['std_of_size']:.3f} -> {judged['std']:.3f}"
            )
        table.add_row(name, str(own["networks"]), *effects, verdict)
    console = terminal(width=160)
    console.print("effects in percent of the error, for a MAC share e times as large", markup=False)
    console.print(table)


def main() -> None:
    """Run the command line."""
    console_main(Transfer, "predictors.transfer")


if __name__ == "__main__":
    main()
