"""What a finished search says on the terminal."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas.engine.reach import MOST
from nas.front import TRANSFERRED, Candidate, Front
from nas.options import CHECKPOINT, PUBLISHED
from nas.pareto import best_within
from nas.result import SearchResult
from predictors.accuracy import difference_std
from results.console import terminal
from supernet.arch import format_resolution

if TYPE_CHECKING:
    from rich.console import Console

MAX_ROWS = 15
AROUND = 2.0  # of official networks' latencies, that rows are shown of
WIDE = 130  # columns of a terminal, from which on a network has one line


def print_front(result: SearchResult) -> None:
    """Print at most 15 rows of the front, gains over official networks, sources, what is next."""
    front, limit = result.front, result.options.max_latency_ms
    console = terminal(width=160)
    shown, why = rows_shown(front, limit)
    _print_candidates(console, front, shown, why)
    _print_extrapolated(console, front)
    if gains := list(gains_over(front)):
        console.print("\nagainst the official networks (by the same sources), at equal latency:")
        for line in gains:
            console.print(f"  {line}", soft_wrap=True)
    console.print(f"\nlatency:  {front.latency_source}", soft_wrap=True)
    console.print(f"accuracy: {front.accuracy_source}", soft_wrap=True)
    for note in result.notes:
        console.print(note, soft_wrap=True)
    _print_reach(console, result)
    if result.outcome.proof is not None:
        console.print(result.outcome.proof.describe(), soft_wrap=True)
    _print_outcome(console, result)
    number = shown[len(shown) // 2]
    if limit is not None:
        number = max(front.by_id)
        _print_best(console, number, front.by_id[number], limit)
    console.print(f"next: {next_command(result, number)}", soft_wrap=True)


def rows_shown(front: Front, limit_ms: float | None) -> tuple[list[int], str]:
    """Return the ids of at most 15 candidates, evenly apart in log latency, and of which range.

    Without a budget of latency the range is that of the official networks and a factor of two
    around it, or all of the front where none is there.
    """
    own = front.by_id
    if len(own) <= MAX_ROWS:
        return list(own), ""
    names = sorted(front.baselines, key=lambda name: front.baselines[name].latency_ms)
    low_ms, high_ms, why = 0.0, math.inf, ""
    if limit_ms is None and names:
        low_ms = front.baselines[names[0]].latency_ms / AROUND
        high_ms = front.baselines[names[-1]].latency_ms * AROUND
        why = f"from half of {names[0]}'s latency to twice {names[-1]}'s"
    inside = {n: c for n, c in own.items() if low_ms <= c.latency_ms <= high_ms} or own
    return spread_evenly({n: math.log(c.latency_ms) for n, c in inside.items()}, MAX_ROWS), why


def spread_evenly(places: Mapping[int, float], most: int) -> list[int]:
    """Return at most `most` keys whose places, which ascend, are nearest to evenly spaced ones.

    >>> spread_evenly({4: 0.0, 7: 0.1, 8: 0.2, 9: 1.0}, 3)
    [4, 8, 9]
    """
    keys = list(places)
    if len(keys) <= most:
        return keys
    first, last = places[keys[0]], places[keys[-1]]
    wanted = [first + i * (last - first) / (most - 1) for i in range(most)]
    nearest = (min(keys, key=lambda key: abs(places[key] - place)) for place in wanted)
    return list(dict.fromkeys(nearest))


def _print_candidates(console: "Console", front: Front, shown: Sequence[int], why: str) -> None:
    from rich.table import Table

    wide = console.width >= WIDE
    own = front.by_id
    grid = Table(title=f"{front.title}: {len(own)} networks on the front", box=None)
    for heading in ("id", "latency ms", front.metric, "params M", "MACs G", "memory MB", "px"):
        if wide or heading not in ("params M", "memory MB"):
            grid.add_column(heading, justify="right", no_wrap=heading != front.metric)
    if wide:
        grid.add_column("arch", overflow="fold")
    for number in shown:
        c = own[number]
        cells = [
            str(number),
            plus_minus(c.latency_ms, c.latency_std_ms) + " *"[c.latency_extrapolated],
            f"{c.accuracy:.2f} ± {c.accuracy_std:.2f}" + " *"[c.accuracy_extrapolated],
            f"{c.macs_g:.3g}",
            format_resolution(c.arch.resolution),
        ]
        if wide:
            cells.insert(3, f"{c.params_m:.2f}")
            cells.insert(5, f"{c.memory_mb:.0f}")
            cells.append(c.arch.describe())
        grid.add_row(*cells)
    console.print(grid)
    if not wide:
        for number in shown:
            console.print(f"{number:>4}  {own[number].arch.describe()}", soft_wrap=True)
    if len(shown) < len(own):
        of_range = f", {why}" if why else ""
        text = f"{len(shown)} of {len(own)} shown{of_range}; all are in front.csv"
        console.print(text, soft_wrap=True)


def _print_reach(console: "Console", result: SearchResult) -> None:
    """Tell what it costs that the front keeps near to what is known."""
    if (cost := result.outcome.cost_of_reach) is None:
        return
    console.print(
        f"reach: {result.front.near} where that costs at most {100 * MOST:.0f} % of latency, "
        f"{100 * cost.mean:.1f} % on average; --reach far searches without",
        soft_wrap=True,
    )


def _print_extrapolated(console: "Console", front: Front) -> None:
    """Tell what the stars in the table mean."""
    total = len(front.candidates)
    if unlike := sum(c.latency_extrapolated for c in front.candidates):
        text = f"* {unlike} of {total} latencies extrapolated: unlike what the table was checked on"
        console.print(text, soft_wrap=True)
    if unlike := sum(c.accuracy_extrapolated for c in front.candidates):
        why = "unlike every published network; --max-accuracy-std keeps nearer to those"
        if front.accuracy_provenance != "published":
            why = "with choices that no evaluated subnet has; evaluate some that have them"
        if front.accuracy_provenance == "trained":
            why = "unlike the networks that were trained alone; train some that are like them"
        console.print(f"* {unlike} of {total} accuracies extrapolated: {why}", soft_wrap=True)
    if transferred := sum(c.accuracy_transferred for c in front.candidates):
        text = f"{transferred} of {total} accuracies rest on what 5x5 kernels or a lack of scales "
        text += f"are worth in other networks ({TRANSFERRED} in front.csv)"
        console.print(text, soft_wrap=True)


def _print_outcome(console: "Console", result: SearchResult) -> None:
    outcome = result.outcome
    stopped = "interrupted after" if outcome.interrupted else "tried"
    console.print(
        f"{stopped} {outcome.evaluations:,} networks, {outcome.trials} of them in Optuna's study, "
        f"{outcome.seconds} s; {outcome.whole_front} on the whole front, {outcome.front} that "
        f"differ; wrote {result.folder}",
        soft_wrap=True,
    )
    if outcome.interrupted:
        console.print(f"go on: {result.again}", soft_wrap=True)


def _print_best(console: "Console", number: int, best: Candidate, limit_ms: float) -> None:
    """Name the most accurate network within a budget, and the budget that leaves a margin."""
    console.print(
        f"most accurate within {limit_ms:g} ms: #{number}, "
        f"{plus_minus(best.latency_ms, best.latency_std_ms)} ms, {best.accuracy:.2f} ± "
        f"{best.accuracy_std:.2f}, {best.arch.describe()}",
        soft_wrap=True,
    )
    if best.latency_ms + best.latency_std_ms > limit_ms:
        safe = limit_ms * (1 - best.latency_std_ms / best.latency_ms)
        console.print(
            f"it may take longer, as the ± says; --max-latency-ms {safe:.3g} leaves a margin "
            "of one standard deviation",
            soft_wrap=True,
        )


def next_command(result: SearchResult, number: int) -> str:
    """Return what to do with network `number` of the front: extract it, or look at its cost."""
    options, folder = result.options, result.folder
    network = shlex.quote(f"{folder}#{number}")
    if options.accuracy.endswith(CHECKPOINT):
        command = f"python -m supernet.extract --weights {shlex.quote(options.accuracy)}"
        command += f" --arch {network} --out {shlex.quote(f'{folder}/{number}{CHECKPOINT}')}"
        for flag, value in options.evaluation_flags.items():
            if flag != "--limit":  # statistics are computed on other pictures than those
                command += f" {flag} {shlex.quote(str(value))}"
        return command
    command = f"python -m nas.predict --device {options.device[0]} --arch {network}"
    if options.table is not None:
        command += f" --table {shlex.quote(str(options.table))}"
    if options.accuracy != PUBLISHED:
        command += f" --accuracy {shlex.quote(options.accuracy)}"
    return command


def gains_over(front: Front) -> list[str]:
    """Return what the front offers at each official network's latency, a line each."""
    lines = []
    ordered = sorted(front.baselines.items(), key=lambda item: item[1].latency_ms)
    for index in spread(len(ordered), 8):
        name, baseline = ordered[index]
        best = best_within(front.candidates, baseline.latency_ms)
        if best is None:
            continue
        gain = best.accuracy - baseline.accuracy
        std = difference_std(best.accuracy_std, baseline.accuracy_std)
        extrapolated = best.latency_extrapolated or best.accuracy_extrapolated
        verdict = ", extrapolated" if extrapolated else ""
        if abs(gain) < std:
            verdict = ", indistinguishable (below one standard deviation)"
        text = f"{gain:+.2f} ± {std:.2f}{verdict}"
        if best.arch == baseline.arch:
            text = "on the front itself"
        lines.append(
            f"{name:>16} {plus_minus(baseline.latency_ms, baseline.latency_std_ms):>14} ms, "
            f"{baseline.accuracy:.2f}: {text}"
        )
    return lines


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` indices below `count`, evenly apart, the first and last among them.

    >>> spread(3, 15), spread(10, 4), spread(0, 4)
    ([0, 1, 2], [0, 3, 6, 9], [])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def plus_minus(value: float, std: float) -> str:
    """Return value and standard deviation with as many digits as the deviation supports.

    >>> plus_minus(12.3456, 0.52), plus_minus(1234.6, 98.0), plus_minus(0.1234, 0.0)
    ('12.35 ± 0.52', '1235 ± 98', '0.123 ± 0')
    """
    if std <= 0:
        return f"{value:.3g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(std)))
    return f"{value:.{digits}f} ± {std:.{digits}f}"
