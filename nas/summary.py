"""What a finished search says on the terminal."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.accuracy import CHECKPOINT, PUBLISHED
from nas.front import Front
from nas.pareto import best_within
from predictors.accuracy import difference_std
from results.console import terminal
from supernet.arch import format_resolution

MAX_ROWS = 15
WIDE = 130  # columns of a terminal, from which on a network has one line


def print_front(
    front: Front,
    folder: Path,
    device: str,
    outcome: Mapping[str, Any],
    notes: Sequence[str],
    max_latency_ms: float | None = None,
    table: Path | None = None,
    accuracy: str = PUBLISHED,
    pictures: Sequence[str] = (),
) -> None:
    """At most 15 rows of the front, the gains over the official networks, sources, what next.

    `device`, `max_latency_ms`, `table` and `accuracy` are the search's own flags, `pictures` those
    that `supernet.extract` needs too.
    """
    from rich.table import Table as Grid

    console = terminal(width=160)
    shown = spread(len(front.candidates), MAX_ROWS)
    wide = console.width >= WIDE
    grid = Grid(title=f"{front.title}: {len(front.candidates)} networks on the front", box=None)
    for heading in ("id", "latency ms", front.metric, "params M", "MACs G", "memory MB", "px"):
        if wide or heading not in ("params M", "memory MB"):
            grid.add_column(heading, justify="right", no_wrap=heading != front.metric)
    if wide:
        grid.add_column("arch", overflow="fold")
    for number in shown:
        c = front.candidates[number]
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
            arch = front.candidates[number].arch
            console.print(f"{number:>4}  {arch.describe()}", soft_wrap=True)
    if len(shown) < len(front.candidates):
        console.print(f"{len(shown)} of {len(front.candidates)} shown; all are in front.csv")
    total = len(front.candidates)
    if unlike := sum(c.latency_extrapolated for c in front.candidates):
        text = f"* {unlike} of {total} latencies extrapolated: unlike what the table was checked on"
        console.print(text, soft_wrap=True)
    if unlike := sum(c.accuracy_extrapolated for c in front.candidates):
        why = "unlike every published network; --max-accuracy-std keeps nearer to those"
        if front.accuracy_provenance != "published":
            why = "with choices that no evaluated subnet has; evaluate some that have them"
        console.print(
            f"* {unlike} of {total} accuracies extrapolated: {why}",
            soft_wrap=True,
        )
    if gains := list(gains_over(front)):
        console.print("\nagainst the official networks (by the same sources), at equal latency:")
        for line in gains:
            console.print(f"  {line}", soft_wrap=True)
    console.print(f"\nlatency:  {front.latency_source}", soft_wrap=True)
    console.print(f"accuracy: {front.accuracy_source}", soft_wrap=True)
    for note in notes:
        console.print(note, soft_wrap=True)
    stopped = "interrupted after" if outcome["interrupted"] else "tried"
    console.print(
        f"{stopped} {outcome['distinct_archs']} distinct archs in {outcome['trials']} trials, "
        f"{outcome['seconds']} s; wrote {folder}",
        soft_wrap=True,
    )
    if outcome["interrupted"]:
        run = shlex.quote(str(folder))
        console.print(f"go on: python -m nas.search --resume {run}", soft_wrap=True)
    chosen = shown[len(shown) // 2] if max_latency_ms is None else total - 1
    if max_latency_ms is not None:
        best = front.candidates[chosen]
        console.print(
            f"most accurate within {max_latency_ms:g} ms: #{chosen}, "
            f"{plus_minus(best.latency_ms, best.latency_std_ms)} ms, {best.accuracy:.2f} ± "
            f"{best.accuracy_std:.2f}, {best.arch.describe()}",
            soft_wrap=True,
        )
        if best.latency_ms + best.latency_std_ms > max_latency_ms:
            safe = max_latency_ms * (1 - best.latency_std_ms / best.latency_ms)
            console.print(
                f"it may take longer, as the ± says; --max-latency-ms {safe:.3g} leaves a margin "
                "of one standard deviation",
                soft_wrap=True,
            )
    found = shlex.quote(f"{folder}#{chosen}")
    if accuracy.endswith(CHECKPOINT):
        command = f"next: python -m supernet.extract --weights {shlex.quote(accuracy)}"
        command += f" --arch {found} --out {shlex.quote(f'{folder}/{chosen}{CHECKPOINT}')}"
        command += "".join(f" {shlex.quote(word)}" for word in pictures)
    else:
        command = f"next: python -m nas.predict --device {device} --arch {found}"
        if table is not None:
            command += f" --table {shlex.quote(str(table))}"
        if accuracy != PUBLISHED:
            command += f" --accuracy {shlex.quote(accuracy)}"
    console.print(command, soft_wrap=True)


def gains_over(front: Front) -> list[str]:
    """A line for each official network, fastest first: what the front offers at its latency."""
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
    """At most `most` indices below `count`, evenly apart, the first and the last among them.

    >>> spread(3, 15), spread(10, 4), spread(0, 4)
    ([0, 1, 2], [0, 3, 6, 9], [])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def plus_minus(value: float, std: float) -> str:
    """Value and standard deviation with as many digits as the deviation supports.

    >>> plus_minus(12.3456, 0.52), plus_minus(1234.6, 98.0), plus_minus(0.1234, 0.0)
    ('12.35 ± 0.52', '1235 ± 98', '0.123 ± 0')
    """
    if std <= 0:
        return f"{value:.3g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(std)))
    return f"{value:.{digits}f} ± {std:.{digits}f}"
