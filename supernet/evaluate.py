"""How good trained weights are: of one network, or of many subnets of a supernet.

python -m supernet.evaluate --arch b1 --weights b1.pt --data imagenet
python -m supernet.evaluate --weights supernet.safetensors --sample 200 --out subnets.jsonl
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from results.console import main as console_main
from results.console import note
from results.errors import Interrupted
from results.extras import require
from supernet.accelerator import check_is_here
from supernet.evaluation.options import EvaluationOptions

if TYPE_CHECKING:
    from supernet.evaluation.rows import EvaluationRow


@dataclass(frozen=True)
class Evaluate(EvaluationOptions):
    """Evaluate trained weights on pictures: one network, or subnets of a supernet."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Print figures of the weights. Raises UserError."""
        weights = self.check()
        require("torch", "torch", "safetensors", "PIL")
        # With PyTorch, which --help does without.
        from supernet.weights.header import read_header

        check_is_here(self.accelerator)
        if read_header(weights).kind == "supernet":
            self._evaluate_subnets()
        else:
            self._evaluate_network()

    def _evaluate_network(self) -> None:
        from supernet.evaluation.network import evaluate_network
        from supernet.evaluation.report import print_network

        answer = evaluate_network(self, silent=self.json or self.quiet)
        if self.json:
            print(json.dumps(answer, allow_nan=False))
        elif not self.quiet:
            print_network(answer)

    def _evaluate_subnets(self) -> None:
        from supernet.evaluation.report import print_subnet, print_supernet
        from supernet.evaluation.subnets import EvaluatedSubnets, check_figures

        silent = self.json or self.quiet
        subnets = EvaluatedSubnets(self, silent=silent, tell=None if self.quiet else note)
        if not silent:
            print_supernet(subnets.sources, subnets.notes)
        rows: list[EvaluationRow] = []
        num_done = 0
        try:
            for arch, figures in subnets:
                num_done += 1
                rows += figures
                if not silent:
                    print_subnet(arch, figures)
        except KeyboardInterrupt:
            kept = self.out or self.storage
            if kept is None:
                raise
            raise Interrupted(
                f"figures of {num_done} networks are kept in {kept}; the same command goes on"
            ) from None
        if self.json:
            print(json.dumps(subnets.answer(rows), allow_nan=False))
        check_figures(subnets.errors)


def main() -> None:
    """Run the command."""
    console_main(Evaluate, "supernet.evaluate")


if __name__ == "__main__":
    main()
