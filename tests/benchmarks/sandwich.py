"""What a step of the sandwich rule costs: `python -m tests.benchmarks.sandwich`.

Largest, smallest and two random subnets, forward and backward, against the same four networks
standing alone, all in turn in shuffled order, one thread, channels last. Beside it a null
control: four networks standing alone against four others of the same archs. The ratios are paired
by round, with 95 % bootstrap intervals. Then whole steps, with clipping and AdamW, of which the
four networks need four. Memory: the peak of PyTorch's allocations during the four passes, beyond
weights and their gradients, against that of the largest alone; exact, by the allocator.

`--once-for-all DIR`, a checkout of mit-han-lab/once-for-all, adds its way for comparison, modules
that slice themselves: its MobileNetV3 supernet against four of its static networks.

The record goes to results/benchmarks/sandwich.json.
"""

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from unittest.mock import MagicMock

from supernet.arch import Arch
from supernet.space import Space
from supernet.spaces import get_space
from tests.benchmarks.models import HEAP, ROOT, peak_of, ratio, times_of
from tests.benchmarks.record import write_record

SPACES = {  # whose largest networks are as B1 and B2
    "b1": (
        "stem.width=8,16", "stem.depth=1",
        "stage1.width=16,32", "stage2.width=32,64", "stage3.width=64,128", "stage4.width=128,256",
        "stage1.depth=1,2", "stage2.depth=1,2,3", "stage3.depth=1,2,3", "stage4.depth=1,2,3,4",
    ),
    "b2": (
        "stem.width=8,16,24", "stem.depth=1",
        "stage1.width=16,32,48", "stage2.width=32,64,96", "stage3.width=64,128,192",
        "stage4.width=128,256,384",
        "stage1.depth=1,2,3", "stage2.depth=1,2,3,4", "stage3.depth=1,2,3,4",
        "stage4.depth=1,2,3,4,5,6",
    ),
}  # fmt: skip
CASES = [("b1", 32, 64, 16), ("b1", 64, 96, 10), ("b2", 32, 64, 12), ("b2", 64, 96, 8)]
NUM_CLASSES = 1000


def the_space(name: str) -> Space:
    expand = [f"stage{n}.expand_ratio=3,4" for n in (1, 2, 3, 4)]
    return get_space("b", freeze=[*SPACES[name], *expand])


def sandwich(name: str) -> list[Arch]:
    from supernet.training.sandwich import SandwichRule

    archs = SandwichRule(the_space(name), 2, seed=0, num_steps=1).draw(0).archs
    assert len(archs) == 4
    return list(archs)


def passes(name: str, kind: str, batch: int, side: int) -> Callable[[], None]:
    """Forward and backward passes: of the supernet, of four networks, or of the largest alone."""
    import torch
    import torch.nn.functional as F

    from supernet.model import build
    from supernet.sharing.supernet import Supernet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    archs = sandwich(name)
    x = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    y = torch.arange(batch) % NUM_CLASSES
    if kind == "supernet":
        supernet = Supernet(the_space(name))
        supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def shared() -> None:
            supernet.zero_grad(set_to_none=True)
            for arch in archs:
                F.cross_entropy(supernet(x, arch), y).backward()

        return shared
    networks = [build(arch) for arch in (archs[:1] if kind == "largest" else archs)]
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def alone() -> None:
        for network in networks:
            network.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()

    return alone


def steps(name: str, kind: str, batch: int, side: int) -> Callable[[], None]:
    """Whole steps, as `supernet.train` makes them."""
    import torch

    from supernet.model import build
    from supernet.sharing.supernet import Supernet
    from supernet.tasks.choose import training_task
    from supernet.tasks.options import TaskOptions
    from supernet.training.sandwich import OneArch, Sampler, Sandwich
    from supernet.training.trainer import Recipe, SingleNetwork, Trainer

    class Same:
        def draw(self, step: int) -> Sandwich:
            return Sandwich(tuple(archs))

    torch.manual_seed(0)
    archs, task = sandwich(name), training_task(TaskOptions("classification"))
    recipe = Recipe(num_steps=1000, clip=2.0)
    x, y = torch.randn(batch, 3, side, side), torch.arange(batch) % 12
    models: list[tuple[Supernet | SingleNetwork, Sampler]] = [(Supernet(the_space(name)), Same())]
    if kind != "supernet":
        models = [(SingleNetwork(build(arch)), OneArch(arch, 0)) for arch in archs]
    trainers = [Trainer(model, task, sampler, recipe) for model, sampler in models]

    def step() -> None:
        for trainer in trainers:
            trainer.step([(x, y)])

    return step


def once_for_all(folder: str, batch: int, side: int, rounds: int) -> dict[str, object]:
    """The same comparison of Once-for-All's own supernet and networks."""
    import torch
    import torch.nn.functional as F

    for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[module] = MagicMock()  # of its data loaders, which are imported along
    sys.path.insert(0, folder)
    elastic = importlib.import_module("ofa.imagenet_classification.elastic_nn.networks")
    torch.set_num_threads(1)
    random.seed(0)
    choices = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    net = elastic.OFAMobileNetV3(dropout_rate=0, **choices).to(memory_format=torch.channels_last)
    settings = [{"ks": 7, "e": 6, "d": 4}, {"ks": 3, "e": 3, "d": 2}]
    settings += [dict(net.sample_active_subnet()) for _ in range(2)]
    networks = []
    for setting in settings:
        net.set_active_subnet(**setting)
        networks.append(net.get_active_subnet().to(memory_format=torch.channels_last))
    x = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    y = torch.arange(batch) % NUM_CLASSES

    def shared() -> None:
        net.zero_grad(set_to_none=True)
        for setting in settings:
            net.set_active_subnet(**setting)
            F.cross_entropy(net(x), y).backward()

    def alone() -> None:
        for network in networks:
            network.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()

    found = times_of({"supernet": shared, "alone": alone}, rounds)
    return {
        "supernet": "Once-for-All, MobileNetV3",
        "batch": batch,
        "side": side,
        "rounds": rounds,
        "median_ms": {kind: 1e3 * statistics.median(times) for kind, times in found.items()},
        "ratio": ratio(found["supernet"], found["alone"]),
    }


def compare(name: str, batch: int, side: int, rounds: int) -> dict[str, object]:
    def seconds(make: Callable[..., Callable[[], None]], kinds: Sequence[str]):
        return times_of({kind: make(name, kind, batch, side) for kind in kinds}, rounds)

    found = seconds(passes, ("supernet", "alone", "alone again"))
    whole = seconds(steps, ("supernet", "alone"))
    peaks = {kind: peak_mb(name, kind, batch, side) for kind in ("supernet", "largest")}
    return {
        "supernet": name,
        "batch": batch,
        "side": side,
        "rounds": rounds,
        "archs": [arch.describe() for arch in sandwich(name)],
        "median_ms": {kind: 1e3 * statistics.median(times) for kind, times in found.items()},
        "ratio": ratio(found["supernet"], found["alone"]),
        "null_ratio": ratio(found["alone again"], found["alone"]),
        "whole_step_ratio": ratio(whole["supernet"], whole["alone"]),
        "peak_memory_mb": peaks,
        "memory_ratio": peaks["supernet"] / peaks["largest"],
    }


def peak_mb(name: str, kind: str, batch: int, side: int) -> float:
    arguments = ("--child", name, kind, str(batch), str(side))
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.sandwich", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--once-for-all", metavar="DIR")
    flags = parser.parse_args()
    if flags.child:
        name, kind, batch, side = flags.child
        print(peak_of(passes(name, kind, int(batch), int(side))))
        return
    if any(os.environ.get(name) != value for name, value in HEAP.items()):
        arguments = [sys.executable, "-m", "tests.benchmarks.sandwich", *sys.argv[1:]]
        os.execve(sys.executable, arguments, os.environ | HEAP)
    random.seed(0)
    comparisons = []
    for case in CASES:
        comparisons.append(compare(*case))
        print(json.dumps(comparisons[-1]), flush=True)
    if flags.once_for_all:
        for _, batch, side, rounds in CASES[:2]:
            comparisons.append(once_for_all(flags.once_for_all, batch, side, rounds))
            print(json.dumps(comparisons[-1]), flush=True)
    other = " --once-for-all DIR" if flags.once_for_all else ""
    fields = {
        "settings": "one thread, fp32, channels last",
        "comparisons": comparisons,
    }
    write_record("sandwich", fields, command="python -m tests.benchmarks.sandwich" + other)


if __name__ == "__main__":
    main()
