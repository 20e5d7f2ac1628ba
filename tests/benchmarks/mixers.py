"""How the time of each mixer grows with the feature map: `python -m tests.benchmarks.mixers`.

One forward pass of one image on one CPU thread, with 128 channels in 8 heads of 16 (no
further scales in ReLU linear attention), on the maps that stage 3 (stride 16) has for inputs
of 224 to 2048 pixels, and on those of the paper's Figure 4. All cases take turns; the mean of
the lowest 20 % counts. Softmax attention runs in PyTorch's kernel that never holds the map of
tokens times tokens; a case that takes long gets fewer turns, at least one. Freed memory is kept
for the next tensor, as inference runtimes do: else page faults count with the larger maps.
The record goes to results/benchmarks/mixers.json.
"""

import ctypes
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from supernet.blocks import Block
from tests.benchmarks.record import machine, write_record

ROOT = Path(__file__).parents[2]
CHANNELS, NUM_HEADS, HEAD_DIM = 128, 8, 16
GROWTH_SIDES = (14, 28, 64, 128)  # tokens: inputs of 224, 448, 1024, 2048 pixels at stride 16
# Softmax and ReLU linear attention, ms, by tokens a side: EfficientViT, Figure 4, Snapdragon
# 855 CPU, read from the poster's chart. Channels and heads are not given.
PUBLISHED_MS = {24: (21.4, 6.6), 32: (103.1, 19.9), 40: (189.2, 41.6)}
ROUNDS = 40
WARM_UP = 2  # rounds
CASE_SECONDS = 5.0  # no further turn for a case that has had so much


@dataclass
class Case:
    mixer: nn.Module
    x: Tensor
    seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        if sum(self.seconds) > CASE_SECONDS:
            return
        started = time.perf_counter()
        self.mixer(self.x)
        self.seconds.append(time.perf_counter() - started)

    @property
    def ms(self) -> float:
        kept = self.seconds[WARM_UP:] or self.seconds[-1:]
        return statistics.fmean(sorted(kept)[: max(1, len(kept) // 5)]) * 1e3


def main() -> None:
    from supernet.layers.mixers import MIXERS

    torch.set_num_threads(1)
    keep_memory()
    cases = {
        (kind, side): make_case(mixer(block_of(kind), 1e-5), side)
        for kind, mixer in MIXERS.items()
        for side in sorted({*GROWTH_SIDES, *PUBLISHED_MS})
    }
    with torch.inference_mode():
        for _ in range(ROUNDS + WARM_UP):
            for case in cases.values():
                case.turn()
    ms = {kind: {side: cases[kind, side].ms for k, side in cases if k == kind} for kind in MIXERS}
    fields = {
        "machine": f"{machine()}, 1 thread, fp32",
        "channels": CHANNELS,
        "num_heads": NUM_HEADS,
        "head_dim": HEAD_DIM,
        "growth": {kind: growth(times) for kind, times in ms.items()},
        "softmax_over_relu_linear": {
            str(side): {
                "ratio": ms["softmax"][side] / ms["relu_linear"][side],
                "softmax_ms": ms["softmax"][side],
                "relu_linear_ms": ms["relu_linear"][side],
                "published_ratio": published[0] / published[1],
                "published_softmax_ms": published[0],
                "published_relu_linear_ms": published[1],
            }
            for side, published in PUBLISHED_MS.items()
        },
        "fewest_samples": {
            kind: min(len(cases[kind, side].seconds) for side in times)
            for kind, times in ms.items()
        },
    }
    record = write_record("mixers", fields)
    show(ms)
    print(json.dumps(record))


def keep_memory() -> None:
    """Has glibc neither map large blocks one by one nor give freed ones back."""
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def block_of(kind: str) -> Block:
    headed = kind in ("relu_linear", "softmax", "retention")
    heads, dim = (NUM_HEADS, HEAD_DIM) if headed else (0, 0)
    return Block(kind, CHANNELS, CHANNELS, 14, 14, num_heads=heads, head_dim=dim)  # type: ignore[arg-type]


def make_case(mixer: nn.Module, side: int) -> Case:
    generator = torch.Generator().manual_seed(side)
    return Case(mixer.eval(), torch.randn(1, CHANNELS, side, side, generator=generator))


def growth(ms: Mapping[int, float]) -> dict[str, object]:
    """Milliseconds, their ratio to the smallest map's, and the power of the tokens they follow."""
    smallest = ms[GROWTH_SIDES[0]]
    return {
        "ms": {str(side): ms[side] for side in GROWTH_SIDES},
        "over_smallest": {str(side): ms[side] / smallest for side in GROWTH_SIDES},
        "exponent": exponent(GROWTH_SIDES, ms),
        "exponent_of_the_larger_half": exponent(GROWTH_SIDES[2:], ms),
    }


def exponent(sides: Sequence[int], ms: Mapping[int, float]) -> float:
    tokens = np.log([side**2 for side in sides])
    return float(np.polyfit(tokens, np.log([ms[side] for side in sides]), 1)[0])


def show(ms: Mapping[str, Mapping[int, float]]) -> None:
    tokens = [f"{side}x{side}" for side in GROWTH_SIDES]
    print(f"{'ms (over the smallest)':24}" + "".join(f"{t:>18}" for t in tokens) + "  exponent")
    for kind, times in ms.items():
        smallest = times[GROWTH_SIDES[0]]
        cells = [f"{times[side]:.2f} ({times[side] / smallest:.1f})" for side in GROWTH_SIDES]
        power = exponent(GROWTH_SIDES, times)
        print(f"{kind:24}" + "".join(f"{cell:>18}" for cell in cells) + f"{power:10.2f}")
    count = [side**2 / GROWTH_SIDES[0] ** 2 for side in GROWTH_SIDES]
    print(f"{'tokens':24}" + "".join(f"{f'({c:.1f})':>18}" for c in count))
    print("softmax / relu_linear   here   published (Snapdragon 855)")
    for side, (softmax, linear) in PUBLISHED_MS.items():
        here = ms["softmax"][side] / ms["relu_linear"][side]
        print(f"{f'{side}x{side}':20}{here:8.2f}{softmax / linear:12.2f}")


if __name__ == "__main__":
    main()
