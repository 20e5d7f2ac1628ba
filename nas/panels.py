"""What pictures of fronts share: which objectives are drawn against each other, titles, colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from nas.front import Front
from results.errors import printable, shortened

TICKS = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Panel:
    """Two objectives that are drawn against each other."""

    x: int  # among the front's objectives
    y: int
    is_accuracy: bool  # up the y axis; else networks are coloured by it


def panels_of(front: Front) -> list[Panel]:
    """Return each cost with accuracy, then each pair of costs."""
    last = len(front.objectives) - 1
    with_accuracy = [Panel(x, last, is_accuracy=True) for x in range(last)]
    return with_accuracy + [Panel(x, y, is_accuracy=False) for x, y in combinations(range(last), 2)]


def words_of(text: str) -> str:
    """Return a text of a run as a picture can hold it: printable, of a few lines at most."""
    return shortened(printable(text), 600)


def title_of(fronts: Sequence[Front]) -> list[str]:
    if len(fronts) > 1:
        return [
            f"{fronts[0].metric}, {len(fronts)} runs",
            *(f"{front.title}: {front.latency_source}" for front in fronts),
        ]
    front = fronts[0]
    names = dict.fromkeys(cost.quantity.name for cost in front.costs)
    against = " and ".join("multiply-adds" if name == "macs" else name for name in names)
    return [
        f"{front.title}: {front.metric} against {against}",
        f"latency: {front.latency_source}",
        f"accuracy: {front.accuracy_source}",
    ]


def cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def columns_of(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
