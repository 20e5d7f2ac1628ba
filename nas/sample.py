"""Networks of a space as a CSV: drawn at random, or those whose evaluation tells most.

python -m nas.sample --device orin --space tiny --sample 100 --costs costs.csv
python -m nas.sample --device orin --accuracy subnets.jsonl --propose 25 --costs proposals.csv
"""

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.options import SampleOptions
from results.console import main as console_main
from results.console import note, options_of

if TYPE_CHECKING:
    from nas.sampling import Sampled


@dataclass(frozen=True)
class Sample(SampleOptions):
    """Write networks of a space into a CSV: drawn at random, or those to evaluate next."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Write the file, and say where its numbers come from."""
        from nas.sampling import sample  # `--help` has to be there at once

        found = sample(options_of(self, SampleOptions), tell=None if self.quiet else note)
        if self.json:
            print(json.dumps(found.to_dict(), allow_nan=False))
        elif not self.quiet:
            self._print(found)

    def _print(self, found: "Sampled") -> None:
        print(f"wrote {found.count} archs of space {found.space.name} to {found.path}")
        print(f"latency: {found.latency.describe()}")
        if found.accuracy is not None:
            print(f"accuracy: {found.accuracy.describe()}")
        if self.propose is not None:
            rows, file = shlex.quote(self.accuracy), shlex.quote(str(found.path))
            evaluate = "python -m supernet.evaluate --weights CHECKPOINT.safetensors"
            print(f"next (--data and --limit as before): {evaluate} --archs {file} --out {rows}")


def main() -> None:
    """Run the command line."""
    console_main(Sample, "nas.sample")


if __name__ == "__main__":
    main()
