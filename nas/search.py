"""Search a space for the networks that trade accuracy for latency best on a device.

python -m nas.search --device snapdragon8gen1
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from nas.options import PREDICTED, SearchOptions
from results.console import EXIT_INTERRUPTED, note, options_of
from results.console import main as console_main
from results.errors import PictureError, SearchError, one_line
from results.progress import remark

if TYPE_CHECKING:
    from nas.result import SearchResult


@dataclass(frozen=True)
class SearchCommand(SearchOptions):
    """Search for the networks that trade accuracy for latency best on a device."""

    objective: str | None = None
    """The old name of --evaluate."""
    json: bool = False
    """Print one JSON object instead of tables."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Search, print the front and draw it; exit with 130 where Ctrl-C ended it early."""
        from nas.engine.run import search  # `--help` has to be there at once

        result = search(self.options(), silent=self.quiet or self.json)
        if result.front.candidates:
            try:
                self._print(result)
                sys.stdout.flush()
            finally:  # last, as no picture is worth the numbers; also where nobody reads on
                _draw(result)
        else:
            remark(f"interrupted after {result.outcome.trials} trials; go on: {result.again}")
        if result.outcome.interrupted:
            sys.exit(EXIT_INTERRUPTED)

    def options(self) -> SearchOptions:
        """Return what is searched, without how it is printed."""
        options = options_of(self, SearchOptions)
        if self.objective is None:
            return options
        if options.evaluate not in (PREDICTED, self.objective):
            raise SearchError(
                f"--objective is what --evaluate was called, and {self.objective} is not "
                f"{options.evaluate}; leave --objective out"
            )
        note("--objective is called --evaluate now; --minimize and --maximize choose objectives")
        return replace(options, evaluate=self.objective)

    def _print(self, result: "SearchResult") -> None:
        from nas.summary import print_front

        if self.json:
            front = str(result.folder / "front.csv")
            summary = {"run": str(result.folder), **asdict(result.outcome), "front_csv": front}
            print(json.dumps(summary, allow_nan=False))
        elif not self.quiet:
            print_front(result)


def _draw(result: "SearchResult") -> None:
    from nas.pictures import write_plots

    try:
        write_plots([result.front], result.folder)
    except PictureError as error:
        again = f"python -m nas.plot {shlex.quote(str(result.folder))}"
        remark(one_line(f"{error}; draw it by {again}"))


def main() -> None:
    """Run the command line."""
    console_main(SearchCommand, "nas.search")


if __name__ == "__main__":
    main()
