"""How good trained weights are: of one network, or of many subnets of a supernet.

python -m supernet.evaluate --arch b1 --weights b1.pt --data imagenet
python -m supernet.evaluate --weights supernet.safetensors --sample 200 --out subnets.jsonl
python -m supernet.evaluate --weights tuned.safetensors --out trained.jsonl
"""

import json
from dataclasses import dataclass

from results.console import main as console_main
from results.console import note
from results.extras import require
from supernet.evaluation.options import EvaluationOptions


@dataclass(frozen=True)
class Evaluate(EvaluationOptions):
    """Evaluate trained weights on pictures: one network, or subnets of a supernet."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Print figures of the weights. Raises UserError."""
        self.check()
        require("torch", "torch", "safetensors", "PIL")
        # With PyTorch, which --help does without.
        from supernet.evaluation.report import print_network, print_subnet, print_supernet
        from supernet.evaluation.run import evaluate_all
        from supernet.evaluation.subnets import check_figures

        silent = self.json or self.quiet
        answer, errors = evaluate_all(
            self,
            silent=silent,
            tell=None if self.quiet else note,
            on_supernet=None if silent else print_supernet,
            on_subnet=None if silent else print_subnet,
        )
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet and "rows" not in answer:
            print_network(answer)
        check_figures(errors)


def main() -> None:
    """Run the command."""
    console_main(Evaluate, "supernet.evaluate")


if __name__ == "__main__":
    main()
