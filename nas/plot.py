"""Draw fronts: a picture (front.png) and an interactive page (front.html); `python -m nas.plot`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from nas.front import read_front
from nas.pictures import check_comparable, write_plots
from results.console import main as console_main
from results.errors import RunError
from results.runs import create_run_folder


@dataclass(frozen=True)
class Plot:
    """Redraw the front of a run, or lay several runs or devices over each other."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """New folder for front.png and front.html; by default the run's own, or for several runs
    results/runs/overlay-TIME."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Draw the front of each run, into one picture and one page."""
        if not self.runs:
            raise RunError("name at least one run folder")
        fronts = [read_front(run) for run in self.runs]
        check_comparable(fronts)
        if len(fronts) == 1 and self.out in (None, self.runs[0]):
            folder = self.runs[0]
        else:
            folder = create_run_folder(self.out, "overlay")
        write_plots(fronts, folder)
        if not self.quiet:
            print(f"wrote {folder / 'front.png'} and {folder / 'front.html'}")


def main() -> None:
    """Run the command line."""
    console_main(Plot, "nas.plot")


if __name__ == "__main__":
    main()
