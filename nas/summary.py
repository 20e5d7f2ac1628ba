"""What a finished search says on the terminal."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from nas.engine.devices import tables_by_device
from nas.engine.reach import MOST
from nas.engine.sharing import Sharing
from nas.front import TRANSFERRED, Candidate, Front
from nas.objectives.budgets import Budget
from nas.objectives.objective import MEDIAN, Objective
from nas.options import CHECKPOINT, PUBLISHED
from nas.pareto import best_within, least_in_each, place_of
from nas.result import SearchResult
from predictors.accuracy import difference_std
from results.console import terminal
from supernet.arch import format_resolution

if TYPE_CHECKING:
    from rich.console import Console

MAX_ROWS = 15
AROUND = 2.0  # of official networks' latencies, that rows are shown of
ENERGY_SOURCE = "measured, a sum over blocks, never held to networks"
WIDE = 130  # columns of a terminal, from which on a network has one line


def print_front(result: SearchResult) -> None:
    """Print at most 15 rows of the front, gains over official networks, sources, what is next."""
    front = result.front
    console = terminal(width=160)
    shown, why = rows_shown(front, is_bounded=bool(result.latency_limits))
    _print_candidates(console, front, shown, why)
    _print_extrapolated(console, front)
    if (sharing := result.outcome.sharing) is not None:
        _print_sharing(console, front, sharing)
    if gains := list(gains_over(front)):
        costs = " and ".join(dict.fromkeys(cost.quantity.name for cost in front.costs))
        console.print(f"\nagainst the official networks (by the same sources), at equal {costs}:")
        for line in gains:
            console.print(f"  {line}", soft_wrap=True)
    console.print(f"\nlatency:  {front.latency_source}", soft_wrap=True)
    console.print(f"accuracy: {front.accuracy_source}", soft_wrap=True)
    if any(objective.quantity.name == "energy" for objective in front.objectives):
        console.print(f"energy:   {ENERGY_SOURCE}", soft_wrap=True)
    for note in result.notes:
        console.print(note, soft_wrap=True)
    _print_reach(console, result)
    if result.outcome.proof is not None:
        console.print(result.outcome.proof.describe(), soft_wrap=True)
    _print_outcome(console, result)
    number = shown[len(shown) // 2]
    if limits := result.latency_limits:
        number = max(front.by_id, key=lambda own: front.by_id[own].accuracy)
        _print_best(console, number, front, limits)
    console.print(f"as files: {export_command(result, number)}", soft_wrap=True)
    if command := verify_command(result):
        console.print(f"as measured: {command}", soft_wrap=True)
    console.print(f"next: {next_command(result, number)}", soft_wrap=True)


def rows_shown(front: Front, *, is_bounded: bool) -> tuple[list[int], str]:
    """Return the ids of at most 15 candidates, evenly apart in the log of a cost; of which range.

    The cost is the first objective; of several devices, the mean of the logs of all latencies, and
    the network beside each place whose worst loss is least. Where no budget limits costs
    (`is_bounded`), the range is that of the official networks and a factor of two around it, or
    all of the front where none is there.
    """
    own = front.by_id
    if len(own) <= MAX_ROWS:
        return list(own), ""
    baselines = {name: place_of(front, c) for name, c in front.baselines.items()}
    names = sorted(baselines, key=lambda name: baselines[name])
    low, high, why = -math.inf, math.inf, ""
    if not is_bounded and names:
        low = baselines[names[0]] - math.log(AROUND)
        high = baselines[names[-1]] + math.log(AROUND)
        cost = front.costs[0].quantity.name
        why = f"from half of {names[0]}'s {cost} to twice {names[-1]}'s"
    places = {number: place_of(front, c) for number, c in own.items()}
    inside = {n: place for n, place in places.items() if low <= place <= high} or places
    if front.devices:
        losses = {number: max(own[number].losses) for number in inside}
        return least_in_each(inside, losses, MAX_ROWS), why
    return spread_evenly(inside, MAX_ROWS), why


def spread_evenly(places: Mapping[int, float], most: int) -> list[int]:
    """Return at most `most` keys whose places, which ascend, are nearest to evenly spaced ones.

    >>> spread_evenly({4: 0.0, 7: 0.1, 8: 0.2, 9: 1.0}, 3)
    [4, 8, 9]
    """
    keys = list(places)
    if len(keys) <= most:
        return keys
    if most == 1:
        return [keys[len(keys) // 2]]
    first, last = places[keys[0]], places[keys[-1]]
    wanted = [first + i * (last - first) / (most - 1) for i in range(most)]
    nearest = (min(keys, key=lambda key: abs(places[key] - place)) for place in wanted)
    return list(dict.fromkeys(nearest))


def _print_candidates(console: "Console", front: Front, shown: Sequence[int], why: str) -> None:
    from rich.table import Table

    wide = console.width >= WIDE
    own = front.by_id
    grid = Table(title=f"{front.title}: {len(own)} networks on the front", box=None)
    columns = _cells_of(front, wide=wide)
    grid.add_column("id", justify="right")
    for heading in columns:
        grid.add_column(heading, justify="right", no_wrap=heading != front.metric)
    if wide:
        grid.add_column("arch", overflow="fold")
    for number in shown:
        c = own[number]
        cells = [str(number), *(cell(c) for cell in columns.values())]
        grid.add_row(*cells, *([c.arch.describe()] if wide else []))
    console.print(grid)
    if not wide:
        for number in shown:
            console.print(f"{number:>4}  {own[number].arch.describe()}", soft_wrap=True)
    if len(shown) < len(own):
        of_range = f", {why}" if why else ""
        text = f"{len(shown)} of {len(own)} shown{of_range}; all are in front.csv"
        console.print(text, soft_wrap=True)


def _cells_of(front: Front, *, wide: bool) -> dict[str, Callable[[Candidate], str]]:
    """Return what the table shows of a network, by heading."""
    cells: dict[str, Callable[[Candidate], str]] = {}
    for place, device in enumerate(front.devices or ("",)):
        cells[f"{device} ms" if device else "latency ms"] = partial(_latency_cell, place)
        if device:
            cells[f"{device} loses"] = partial(_loss_cell, place)
    for objective in front.costs:
        if objective.quantile != MEDIAN:
            heading = f"{objective.device} {100 * objective.quantile:g} % ms".strip()
            cells[heading] = partial(_value_cell, objective)
        if objective.quantity.name == "energy":
            cells["energy mJ"] = partial(_value_cell, objective)
    cells[front.metric] = _accuracy_cell
    asked = {objective.quantity.field for objective in front.costs}
    if wide or "params_m" in asked:
        cells["params M"] = lambda c: f"{c.params_m:.2f}"
    cells["MACs G"] = lambda c: f"{c.macs_g:.3g}"
    if wide or "memory_mb" in asked:
        cells["memory MB"] = lambda c: f"{c.memory_mb:.0f}"
    cells["px"] = lambda c: format_resolution(c.arch.resolution)
    return cells


def _latency_cell(place: int, candidate: Candidate) -> str:
    own = candidate.latencies[place]
    return plus_minus(own.latency_ms, own.latency_std_ms) + " *"[own.latency_extrapolated]


def _loss_cell(place: int, candidate: Candidate) -> str:
    return f"{100 * candidate.losses[place]:.0f} %"


def _value_cell(objective: Objective, candidate: Candidate) -> str:
    return f"{objective.value(candidate):.4g}"


def _accuracy_cell(candidate: Candidate) -> str:
    text = f"{candidate.accuracy:.2f} ± {candidate.accuracy_std:.2f}"
    return text + " *"[candidate.accuracy_extrapolated]


def _print_sharing(console: "Console", front: Front, sharing: Sharing) -> None:
    """Tell what devices lose by running the same network."""
    least = min(front.by_id, key=lambda number: max(front.by_id[number].losses))
    console.print(
        "\nsharing one network, beside each device's own fastest that is as accurate: the device "
        f"that loses more loses {100 * sharing.mean:.0f} % of latency on average over accuracies, "
        f"{100 * sharing.worst:.0f} % at most; least with #{least}",
        soft_wrap=True,
    )
    for name, losses in sharing.taken_over.items():
        for other, loss in losses.items():
            text = f"  networks that are best on {name} alone lose {100 * loss:.0f} % on {other}"
            console.print(text, soft_wrap=True)


def _print_reach(console: "Console", result: SearchResult) -> None:
    """Tell what it costs that the front keeps near to what is known."""
    if result.outcome.near_only:
        text = f"reach: only networks {result.front.near}; --reach far searches all"
        console.print(text, soft_wrap=True)
    if (cost := result.outcome.cost_of_reach) is None:
        return
    console.print(
        f"reach: {result.front.near} where that costs at most {100 * MOST:.0f} % of "
        f"{result.front.costs[0].quantity.name}, "
        f"{100 * cost.mean:.1f} % on average; --reach far searches without",
        soft_wrap=True,
    )


def _print_extrapolated(console: "Console", front: Front) -> None:
    """Tell what the stars in the table mean."""
    total = len(front.candidates)
    for place, device in enumerate(front.devices or ("",)):
        latencies = [c.latencies[place] for c in front.candidates]
        if unlike := sum(latency.latency_extrapolated for latency in latencies):
            which = f"latencies on {device}" if device else "latencies"
            text = f"* {unlike} of {total} {which} extrapolated: unlike what the table was checked"
            console.print(f"{text} on", soft_wrap=True)
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


def _print_best(console: "Console", number: int, front: Front, limits: Sequence[Budget]) -> None:
    """Name the most accurate network within budgets, and the budget that leaves a margin."""
    best = front.by_id[number]
    within = " and ".join(f"{limit.limit:g} ms{_on(limit.measure.device)}" for limit in limits)
    took = ", ".join(
        f"{plus_minus(own.latency_ms, own.latency_std_ms)} ms" for own in best.latencies
    )
    console.print(
        f"most accurate within {within}: #{number}, {took}, {best.accuracy:.2f} ± "
        f"{best.accuracy_std:.2f}, {best.arch.describe()}",
        soft_wrap=True,
    )
    for limit in limits:
        if limit.measure.quantile != MEDIAN:
            continue  # the margin was asked for
        own = best.latencies[limit.measure.place]
        if own.latency_ms + own.latency_std_ms > limit.limit:
            safe = float(f"{limit.limit * (1 - own.latency_std_ms / own.latency_ms):.3g}")
            console.print(
                f"it may take longer{_on(limit.measure.device)}, as the ± says; --max-latency-ms "
                f"{limit.typed(safe)} leaves a margin of one standard deviation, --risk 0.9 more",
                soft_wrap=True,
            )


def _on(device: str) -> str:
    return f" on {device}" if device else ""


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
    device = options.device[0]
    command = f"python -m nas.predict --device {device} --arch {network}"
    if table := tables_by_device(options.device, options.table).get(device):
        command += f" --table {shlex.quote(str(table))}"
    if options.accuracy != PUBLISHED:
        command += f" --accuracy {shlex.quote(options.accuracy)}"
    return command


def export_command(result: SearchResult, number: int) -> str:
    """Return what writes network `number` of the front as files that other programs run."""
    options = result.options
    command = f"python -m nas.export {shlex.quote(f'{result.folder}#{number}')} --format onnx"
    if options.accuracy.endswith(CHECKPOINT):
        command += f" --weights {shlex.quote(options.accuracy)}"
        if options.data is not None:
            command += f" --data {shlex.quote(str(options.data))}"
    return command


def verify_command(result: SearchResult) -> str:
    """Return what measures the front on a device that can be reached; "" where none can."""
    for place, flag in enumerate(result.reached_by):
        if flag is not None:
            words = ["python -m nas.verify", shlex.quote(str(result.folder)), "--networks 30"]
            if result.front.devices:
                words.append(f"--device {result.front.devices[place]}")
            return " ".join(filter(None, [*words, flag]))
    return ""


def gains_over(front: Front) -> list[str]:
    """Return what the front offers at the cost of each official network, a line each."""
    lines = []
    ordered = sorted(front.baselines.items(), key=lambda item: place_of(front, item[1]))
    for index in spread(len(ordered), 8):
        name, baseline = ordered[index]
        best = best_within(front.candidates, baseline, front.costs)
        if best is None:
            continue
        gain = best.accuracy - baseline.accuracy
        std = difference_std(best.accuracy_std, baseline.accuracy_std)
        verdict = ", extrapolated" if best.is_extrapolated else ""
        if abs(gain) < std:
            verdict = ", indistinguishable (below one standard deviation)"
        text = f"{gain:+.2f} ± {std:.2f}{verdict}"
        if best.arch == baseline.arch:
            text = "on the front itself"
        took = ", ".join(
            f"{plus_minus(own.latency_ms, own.latency_std_ms):>14} ms" for own in baseline.latencies
        )
        lines.append(f"{name:>16} {took}, {baseline.accuracy:.2f}: {text}")
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
