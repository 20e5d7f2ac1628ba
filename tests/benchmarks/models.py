"""Our networks against other implementations of them: `python -m tests.benchmarks.models`.

Time: forward passes and training steps (cross entropy, AdamW) of all implementations in turn,
one thread, channels last; the ratio of each round to the rival that is faster over all rounds,
as median and 95 % bootstrap interval. Memory: the peak of PyTorch's allocations during a step,
beyond the network and its optimizer's state, in a process of its own; exact, by the allocator.

Rivals are named as NAME=MODULE:FUNCTION, a function that makes a network of "b1" or "l1"; timm
is one where it is installed. glibc is told to keep freed memory: else a model is slowed by up to
a fifth whenever its tensors happen to lie where the heap is trimmed, whoever wrote it.

The record goes to results/benchmarks/models.json.
"""

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results.record import command_line
from tests.benchmarks.record import write_record

ROOT = Path(__file__).parents[2]
HEAP = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
CASES = [  # network, batch, rounds of forward passes, rounds of training steps
    ("b1", 1, 80, 0),
    ("b1", 8, 30, 16),
    ("l1", 1, 24, 0),
    ("l1", 4, 20, 12),
]
RESAMPLES = 4000


def factory(name):
    """The function behind `ours` or MODULE:FUNCTION."""
    if name == "ours":
        from supernet.model import build
        from supernet.official import named_arch

        return lambda network: build(named_arch(network))
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def step_of(make, network, batch, mode):
    """A function that makes one forward pass or training step."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make(network).to(memory_format=torch.channels_last)
    pictures = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    if mode == "forward":
        model.eval()

        def forward():
            with torch.inference_mode():
                model(pictures)

        return forward
    labels = torch.arange(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train():
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        optimizer.step()

    return train


def times_of(steps, rounds):
    """Seconds by name, all steps once a round in shuffled order, two rounds not counted."""
    rng = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name in rng.sample(list(steps), len(steps)):
            started = time.perf_counter()
            steps[name]()
            if number >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(ours, rival):
    """Median of the paired ratios, and its 95 % bootstrap interval."""
    pairs = [a / b for a, b in zip(ours, rival, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]
    return {"median": statistics.median(pairs), "interval_95": [low, high]}


def peak_mb(function, network, batch, mode):
    """Peak of what one step allocates, 1e6 bytes."""
    arguments = ("--child", function, network, str(batch), mode)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.models", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def child(function, network, batch, mode):
    print(peak_of(step_of(factory(function), network, int(batch), mode)))


def peak_of(step):
    """Peak of PyTorch's allocations during the second of two steps, beyond those before it, MB."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    totals = []
    events = list(profiled.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            totals.append((event.start_time_ns, event.extra_fields.total_allocated))
    before = min(totals)[1]
    return (max(total for _, total in totals) - before) / 1e6


def compare(functions, network, batch, mode, rounds):
    steps = {name: step_of(factory(f), network, batch, mode) for name, f in functions.items()}
    seconds = times_of(steps, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rival = min((name for name in medians if name != "ours"), key=medians.__getitem__)
    memory = {name: peak_mb(f, network, batch, mode) for name, f in functions.items()}
    return {
        "network": network,
        "batch": batch,
        "mode": mode,
        "rounds": rounds,
        "median_ms": {name: round(1e3 * value, 2) for name, value in medians.items()},
        "fastest_rival": rival,
        "time_ratio_to_fastest": ratio(seconds["ours"], seconds[rival]),
        "peak_memory_mb": memory,
        "memory_ratio_to_smallest": memory["ours"]
        / min(value for name, value in memory.items() if name != "ours"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=MODULE:FUNCTION")
    parser.add_argument("--child", nargs=4)
    flags = parser.parse_args()
    if flags.child:
        child(*flags.child)
        return
    if any(os.environ.get(name) != value for name, value in HEAP.items()):
        arguments = [sys.executable, "-m", "tests.benchmarks.models", *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | HEAP)
    from tests import timm_reference

    functions = {"ours": "ours"} | dict(rival.split("=", 1) for rival in flags.rival)
    if timm_reference.is_installed():
        functions["timm"] = "tests.timm_reference:create"
    if len(functions) < 2:
        parser.error("no rival: install timm (pip install --no-deps timm) or name one")
    comparisons = []
    for network, batch, *rounds in CASES:
        for mode, count in zip(("forward", "train"), rounds, strict=True):
            if count:
                comparisons.append(compare(functions, network, batch, mode, count))
                print(json.dumps(comparisons[-1]), flush=True)
    fields = {
        "settings": "one thread, fp32, 224 px, channels last",
        "comparisons": comparisons,
    }
    write_record("models", fields, command=command_line("tests.benchmarks.models"))


if __name__ == "__main__":
    main()
