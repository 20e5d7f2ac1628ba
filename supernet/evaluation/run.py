"""An evaluation from its options to its figures."""

from collections.abc import Callable
from typing import Any

from results.errors import Interrupted
from supernet.accelerator import check_is_here
from supernet.arch import Arch
from supernet.evaluation.network import evaluate_network
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.rows import EvaluationRow
from supernet.evaluation.subnets import EvaluatedSubnets, check_figures
from supernet.weights.files import read_weights


def evaluate(
    options: EvaluationOptions,
    *,
    silent: bool = True,
    tell: Callable[[str], None] | None = None,
    on_supernet: Callable[[dict[str, Any]], None] | None = None,
    on_subnet: Callable[[Arch, list[EvaluationRow]], None] | None = None,
) -> dict[str, Any]:
    """Return figures of a network or of a supernet's subnets, and where they come from.

    Args:
        silent: show no progress.
        tell: is given what was passed over in a file of archs, in one line.
        on_supernet: is given the answer without figures, before the first subnet.
        on_subnet: is given each subnet with its figures, as soon as they are there.

    Returns:
        What `python -m supernet.evaluate --json` prints.

    Raises UserError for options, weights and pictures that do not go together, and where subnets
    have no figures; Interrupted where those of others are kept.
    """
    answer, errors = evaluate_all(
        options, silent=silent, tell=tell, on_supernet=on_supernet, on_subnet=on_subnet
    )
    check_figures(errors)
    return answer


def evaluate_all(
    options: EvaluationOptions,
    *,
    silent: bool = True,
    tell: Callable[[str], None] | None = None,
    on_supernet: Callable[[dict[str, Any]], None] | None = None,
    on_subnet: Callable[[Arch, list[EvaluationRow]], None] | None = None,
) -> tuple[dict[str, Any], dict[Arch, str]]:
    """Return what `evaluate` does, and what is wrong with each subnet that has no figures."""
    path = options.check()
    check_is_here(options.accelerator)
    weights = read_weights(path)
    if weights.header.kind == "network":
        return evaluate_network(weights, options, silent=silent), {}
    subnets = EvaluatedSubnets(options, weights=weights, silent=silent, tell=tell)
    if on_supernet is not None:
        on_supernet(subnets.answer([]))
    rows: list[EvaluationRow] = []
    num_done = 0
    try:
        for arch, figures in subnets:
            num_done += 1
            rows += figures
            if on_subnet is not None:
                on_subnet(arch, figures)
    except KeyboardInterrupt:
        kept = options.out or options.storage
        if kept is None:
            raise
        raise Interrupted(
            f"figures of {num_done} networks are kept in {kept}; the same command goes on"
        ) from None
    return subnets.answer(rows), subnets.errors
