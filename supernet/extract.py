"""A subnet of a supernet as a network of its own, in a file.

python -m supernet.extract --weights supernet.safetensors --arch RUN#3 --out winner.safetensors
"""

import json
import shlex
from dataclasses import dataclass

from results.console import main as console_main
from results.console import note
from results.extras import require
from supernet.evaluation.options import ExtractionOptions


@dataclass(frozen=True)
class Extract(ExtractionOptions):
    """Write a subnet as a stand-alone model, its BatchNorm statistics computed anew."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Write the file, and print what it holds. Raises UserError."""
        self.check()
        require("torch", "torch", "safetensors", "PIL")
        # With PyTorch, which --help does without.
        from supernet.arch import Arch
        from supernet.evaluation.extraction import extract

        answer = extract(self, tell=None if self.quiet else note)
        if self.json:
            print(json.dumps(answer))
        elif not self.quiet:
            arch = Arch.from_dict(answer["arch"])
            print(f"{self.out}: {arch.describe()}, {answer['num_params']:,} parameters")
            print(f"as files: python -m nas.export {shlex.quote(str(self.out))} --format onnx")


def main() -> None:
    """Run the command."""
    console_main(Extract, "supernet.extract")


if __name__ == "__main__":
    main()
