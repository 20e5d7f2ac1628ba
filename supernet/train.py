"""Train a supernet, or one network alone, by the sandwich rule.

python -m supernet.train --space tiny --task classification --steps 2000
torchrun --nproc-per-node 8 -m supernet.train --space b --data imagenet --out runs/b
"""

import json
from dataclasses import dataclass

from results.console import main as console_main
from results.console import options_of
from results.extras import require
from supernet.training.options import Messages, TrainingOptions


@dataclass(frozen=True)
class Train(TrainingOptions):
    """Train a supernet, or one network alone."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Train, and print what was reached. Raises UserError."""
        require("torch", "torch", "safetensors", "PIL", "tensorboard")
        from supernet.training.run import train

        if self.quiet:
            messages = Messages.TROUBLE
        else:
            messages = Messages.NOTES if self.json else Messages.PROGRESS
        answer = train(self.options(), messages)
        if not answer:  # of all processes but the first
            return
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            from supernet.training.report import print_training

            print_training(answer)

    def options(self) -> TrainingOptions:
        """Return what is trained, without how it is printed."""
        return options_of(self, TrainingOptions)


def main() -> None:
    """Run the command."""
    console_main(Train, "supernet.train")


if __name__ == "__main__":
    main()
