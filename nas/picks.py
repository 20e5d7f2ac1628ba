"""Networks of a run by what they are: its knee, the fastest, the best, the best within a time."""

import math
import re
from collections.abc import Mapping

from results.errors import SearchError, check_choice

PICKS = ("knee", "fastest", "best")
_WITHIN = re.compile(r"<=\s*(\d+(?:\.\d*)?|\.\d+)\s*ms")
Place = tuple[float, float]  # latency in ms, accuracy


def check_pick(text: str) -> None:
    """Raise SearchError, with the nearest pick, for what is none."""
    if not _WITHIN.fullmatch(text.strip()):
        check_choice("pick", text, (*PICKS, "<=20ms"), SearchError)


def pick(front: Mapping[int, Place], text: str, run: str) -> int:
    """Return the id of the network that `text` names: knee, fastest, best or "<=20ms".

    Of equal ones the faster, or the more accurate, counts. Raises SearchError where no network
    of `run` takes so little time, naming the nearest.

    >>> pick({0: (1.0, 60.0), 4: (2.0, 78.0), 9: (8.0, 80.0)}, "knee", "RUN")
    4
    >>> pick({0: (1.0, 60.0), 4: (2.0, 78.0), 9: (8.0, 80.0)}, "<= 7.5 ms", "RUN")
    4
    """
    check_pick(text)
    if text == "knee":
        return knee(front)
    fastest = min(front, key=lambda own: (front[own][0], -front[own][1]))
    if text == "fastest":
        return fastest
    within = _WITHIN.fullmatch(text.strip())
    most = float(within[1]) if within else math.inf
    fast_enough = [own for own, (latency, _) in front.items() if latency <= most]
    if not fast_enough:
        raise SearchError(
            f"no network of {run} takes {most:g} ms or less; the nearest is {run}#{fastest} with "
            f"{front[fastest][0]:.4g} ms, --pick fastest"
        )
    return max(fast_enough, key=lambda own: (front[own][1], -front[own][0]))


def knee(front: Mapping[int, Place]) -> int:
    """Return the id of the network farthest above the chord of a front.

    The chord goes from the fastest network to the most accurate one, in the logarithm of latency
    and in accuracy. Which one is farthest does not depend on the units of either.
    """
    first, last = pick(front, "fastest", ""), pick(front, "best", "")
    x0, y0 = math.log(front[first][0]), front[first][1]
    run, rise = math.log(front[last][0]) - x0, front[last][1] - y0

    def height(own: int) -> float:  # times the chord's length
        latency, accuracy = front[own]
        return (accuracy - y0) * run - (math.log(latency) - x0) * rise

    return max(front, key=lambda own: (height(own), -front[own][0]))
