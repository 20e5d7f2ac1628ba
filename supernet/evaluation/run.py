"""An evaluation from its options to its figures."""

from typing import Any

from supernet.accelerator import check_is_here
from supernet.evaluation.network import evaluate_network
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.subnets import EvaluatedSubnets, check_figures
from supernet.weights.header import read_header


def evaluate(options: EvaluationOptions) -> dict[str, Any]:
    """Return figures of a network or of a supernet's subnets, and where they come from.

    Nothing is printed; the answer is what `python -m supernet.evaluate --json` prints.

    Raises UserError for options, weights and pictures that do not go together.
    """
    weights = options.check()
    check_is_here(options.accelerator)
    if read_header(weights).kind == "network":
        return evaluate_network(options)
    subnets = EvaluatedSubnets(options)
    rows = [row for _, figures in subnets for row in figures]
    check_figures(subnets.errors)
    return subnets.answer(rows)
