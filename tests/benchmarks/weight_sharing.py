"""Do shared weights rank networks as training each alone does?

python -m tests.benchmarks.weight_sharing --work DIR [--accelerator cuda] [--processes 12]

A small space (tiny at 64 px, with narrower networks too) on the embedded classification data: 24
random archs are trained alone from three seeds each, and supernets from three seeds, all by the
recipe of `supernet.train`. Then the archs are ranked by the accuracy that they inherit from a
supernet, by their MACs and by their parameters, each against what they reach alone, as the mean
over two seeds (of all three pairs). The ceiling is how well the third seed's accuracies rank them.

Every finished run is a line of DIR/runs.jsonl; started again, only what is missing is run. The
record goes to results/benchmarks/weight_sharing.json, of the variants that were run. A network
alone takes some 100 s of one core, a supernet 10 to 20 minutes; all of them some 11 hours.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from results.record import commit
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.space import Space, Value
from supernet.spaces import get_space
from tests.benchmarks.record import write_record

NUM_ARCHS, SEEDS = 24, (0, 1, 2)
NUM_CLASSES, SIZE = 12, (64, 64)
NUM_TRAIN = 20_000  # pictures, each drawn once and kept; flips are drawn anew
BATCH_SIZE = 64
RECALIBRATED = 2048
TOP = 5
WIDER: dict[str, tuple[Value, ...]] = {
    "stem.width": (8, 16),
    "stage1.width": (8, 16),
    "stage1.expand_ratio": (2, 4),
    "stage2.width": (8, 16, 32),
    "stage2.expand_ratio": (2, 4),
    "stage3.width": (16, 32, 64),
    "stage3.expand_ratio": (2, 4),
    "stage4.width": (32, 64, 128),
    "stage4.expand_ratio": (2, 4),
}
DRAWS = 2000  # of archs, for intervals


@dataclass(frozen=True)
class Variant:
    """How a supernet is trained."""

    num_steps: int = 3000
    random_subnets: int = 2
    alpha: float | None = None
    shrink: bool = False
    fair: bool = False
    distilled: bool = True  # all but the largest learn from it; else from labels
    own_norms: bool = False  # scales and shifts of normalisation for each width


ALONE_STEPS = 1500
OTHERS = {
    "four random subnets": Variant(random_subnets=4),
    "fair mixers": Variant(fair=True),
    "own normalisation for each width": Variant(own_norms=True),
    "alpha-divergence": Variant(alpha=1.0),
    "labels in place of distillation": Variant(distilled=False),
    "progressive shrinking": Variant(shrink=True),
}
VARIANTS = {
    **{f"{steps:,} steps": Variant(num_steps=steps) for steps in (2000, 3000)},
    **OTHERS,
    **{f"{name}, 2,000 steps": replace(v, num_steps=2000) for name, v in OTHERS.items()},
}


@dataclass(frozen=True)
class Job:
    """One training: of an arch alone, or of a supernet that all archs inherit from."""

    variant: str  # "alone", or a name of VARIANTS
    seed: int
    number: int = -1  # of the arch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names, between them ;")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--only-record", action="store_true", help="of the runs that are there")
    options = parser.parse_args()
    if unknown := {*options.variants.split(";")} - {*VARIANTS}:
        parser.error(f"no variants {unknown}; choose from {'; '.join(VARIANTS)}")
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.only_record:
        run_all(options)
    fields = {
        **judged(read(options.work)),
    }
    record = write_record("weight_sharing", fields)
    print(json.dumps({k: v for k, v in record.items() if k != "archs"}, indent=2))


def the_space() -> Space:
    """Space tiny with narrower networks too: alone, tiny's own differ too little."""
    tiny = get_space("tiny", freeze=["resolution=64"], num_classes=NUM_CLASSES)
    (part,) = tiny.parts
    return replace(tiny, parts=(replace(part, dimensions=part.dimensions | WIDER),))


def the_archs() -> list[Arch]:
    space, rng = the_space(), random.Random(0)
    found: dict[Arch, None] = {}
    while len(found) < NUM_ARCHS:
        found[space.sample(rng)] = None
    return list(found)


def run_all(options: argparse.Namespace) -> None:
    """Seed by seed, supernets before the networks alone."""
    jobs = []
    for seed in SEEDS:
        jobs += [Job(name, seed) for name in options.variants.split(";")]
        jobs += [Job("alone", seed, number) for number in range(NUM_ARCHS)]
    done = {(row["variant"], row["seed"], row["number"]) for row in read(options.work)}
    left = [job for job in jobs if (job.variant, job.seed, job.number) not in done]
    pictures(options.work, options.processes)
    until = time.time() + options.seconds
    with (
        ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool,
        (options.work / "runs.jsonl").open("a") as file,
    ):
        running = [pool.submit(run, job, options.work, options.accelerator, until) for job in left]
        for future in as_completed(running):
            if (row := future.result()) is not None:
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{row['variant']} {row['seed']} {row['number']}: {row['seconds']:.0f} s")


def read(work: Path) -> list[dict[str, Any]]:
    """The runs so far. Raises ValueError where they are not of today's recipes."""
    path = work / "runs.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    if any(row["recipe"] != recipe_of(row["variant"]) for row in rows):
        raise ValueError(f"{path} holds runs of other recipes; choose another --work")
    return rows


def pictures(work: Path, processes: int) -> Path:
    """All training pictures as networks see them, (NUM_TRAIN, 3, H, W) of float16, drawn once."""
    path = work / "pictures.npy"
    if path.exists():
        if not np.array_equal(np.load(path, mmap_mode="r")[:16], draw(range(16))):
            raise ValueError(f"{path} holds other pictures than are drawn today")
    else:
        parts = [range(i, NUM_TRAIN, 64) for i in range(64)]
        x = np.empty((NUM_TRAIN, 3, *SIZE), np.float16)
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for part, drawn in zip(parts, pool.map(draw, parts), strict=True):
                x[part.start :: 64] = drawn
        np.save(path.with_name("unfinished.npy"), x)
        path.with_name("unfinished.npy").replace(path)
    return path


def draw(numbers: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float16]]":
    from supernet.tasks.choose import training_task
    from supernet.tasks.draw import Draw
    from supernet.tasks.options import TaskOptions

    data = training_task(TaskOptions("classification")).train_data()
    return np.stack([data[Draw(i, 0, SIZE, 0)][0].numpy().astype(np.float16) for i in numbers])


def run(job: Job, work: Path, accelerator: str, until: float) -> dict[str, Any] | None:
    """What a job gives, as a line of runs.jsonl; None where it is too late to begin."""
    if time.time() > until:
        return None
    import torch

    from supernet.layers.initialise import initialise_weights
    from supernet.model import build
    from supernet.sharing.supernet import Supernet
    from supernet.tasks.task import EvaluationSettings
    from supernet.training.batches import PictureOrder, seed_of
    from supernet.training.distributed import Ranks
    from supernet.training.sandwich import OneArch, Sampler, SandwichRule
    from supernet.training.trainer import Recipe, SingleNetwork, Trainer
    from tests.benchmarks.supernet_variants import FairMixers, Labelled, OwnNorms

    torch.set_num_threads(1)
    started = time.monotonic()
    device = torch.device(accelerator)
    x, labels = loaded(work, device)
    task, archs = the_task(), the_archs()
    torch.manual_seed(job.seed)
    variant = VARIANTS.get(job.variant, Variant(num_steps=ALONE_STEPS))
    sampler: Sampler
    model: SingleNetwork | Supernet
    if job.variant == "alone":
        model, sampler = (
            SingleNetwork(build(archs[job.number])),
            OneArch(archs[job.number], job.seed),
        )
        initialise_weights(model)
    else:
        model = (OwnNorms if variant.own_norms else Supernet)(the_space())
        initialise_weights(model.nets)
        sampler = SandwichRule(
            the_space(),
            variant.random_subnets,
            job.seed,
            variant.num_steps,
            shrink=variant.shrink,
        )
        if variant.fair:
            sampler = FairMixers(sampler, the_space(), job.seed)
        if not variant.distilled:
            task = Labelled(task)
    recipe = Recipe(
        num_steps=variant.num_steps,
        warmup=variant.num_steps // 20,
        clip=2.0,
        alpha=variant.alpha,
        seed=job.seed,
    )
    trainer = Trainer(model, task, sampler, recipe, Ranks(device=device))
    order = PictureOrder(NUM_TRAIN, BATCH_SIZE, job.seed)
    for step in range(variant.num_steps):
        chosen = torch.tensor([d.index for d in order.draws(step, SIZE)], device=device)
        flipped = torch.Generator().manual_seed(seed_of(job.seed, "flip", step))
        flips = (torch.rand(BATCH_SIZE, generator=flipped) < 0.5).to(device)[:, None, None, None]
        batch = x[chosen].float()
        trainer.step([(torch.where(flips, batch.flip(3), batch), labels[chosen])])

    def top1(network: "torch.nn.Module", arch: Arch) -> float:
        settings = EvaluationSettings(250, workers=0, device=device)
        found = task.evaluate(network.eval(), arch, settings)
        return float(found["top1"])

    if isinstance(model, SingleNetwork):
        accuracies = [top1(model.network, archs[job.number])]
    else:
        accuracies = [top1(recalibrated(model, arch, x, job.seed), arch) for arch in archs]
    return {
        **asdict(job),
        "recipe": recipe_of(job.variant),
        "commit": commit(),
        "top1": accuracies,
        "seconds": time.monotonic() - started,
    }


def recipe_of(name: str) -> dict[str, Any]:
    return asdict(VARIANTS.get(name, Variant(num_steps=ALONE_STEPS)))


def recalibrated(supernet: Any, arch: Arch, x: Any, seed: int) -> Any:
    """A subnet alone, with statistics of its own."""
    import torch

    from supernet.evaluation.batchnorm import recalibrate

    network = supernet.extract(arch)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    chosen = shuffled[:RECALIBRATED].to(x.device)
    recalibrate(network, (x[part].float() for part in chosen.split(BATCH_SIZE)))
    return network


@lru_cache
def the_task() -> Any:
    from supernet.tasks.choose import training_task
    from supernet.tasks.options import TaskOptions

    return training_task(TaskOptions("classification"))


@lru_cache
def loaded(work: Path, device: Any) -> tuple[Any, Any]:
    import torch

    x = torch.from_numpy(np.load(work / "pictures.npy")).to(device)
    return x, (torch.arange(NUM_TRAIN) % NUM_CLASSES).to(device)


def judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the runs so far: correlations with intervals, and what they were made from.

    All rankings are compared with the same truths: the means over all seeds but one.
    """
    archs = the_archs()
    alone = {(row["number"], row["seed"]): row["top1"][0] for row in rows if row["number"] >= 0}
    complete = [n for n in range(NUM_ARCHS) if all((n, seed) in alone for seed in SEEDS)]
    table = np.array([[alone[n, seed] for seed in SEEDS] for n in complete])
    truths = np.array([np.delete(table, i, axis=1).mean(axis=1) for i in range(len(SEEDS))])
    costs = [network_cost(blocks_of(archs[n])) for n in complete]
    macs, params = ([[float(getattr(cost, k)) for cost in costs]] for k in ("macs", "params"))
    inherited = {
        name: np.array([row["top1"] for row in rows if row["variant"] == name])[:, complete]
        for name in VARIANTS
        if any(row["variant"] == name for row in rows)
    }
    return {
        "space": {"name": "tiny at 64 px, wider", "wider": WIDER, "size": the_space().size},
        "recipe": {
            "alone_steps": ALONE_STEPS,
            "batch_size": BATCH_SIZE,
            "variants": {name: asdict(VARIANTS[name]) for name in inherited},
        },
        "num_archs": len(complete),
        "alone": {
            "mean": float(table.mean()),
            "min": float(table.mean(axis=1).min()),
            "max": float(table.mean(axis=1).max()),
            "std_over_seeds": float(table.std(axis=1, ddof=1).mean()),
        },
        "ceiling": compared(table.T, truths, table.T, paired=True),
        "by MACs": compared(np.array(macs), truths, table.T),
        "by parameters": compared(np.array(params), truths, table.T),
        "supernets": {
            name: {
                "num_supernets": len(scores),
                "mean_inherited": float(scores.mean()),
                **compared(scores, truths, table.T),
                "gain": gain(scores, inherited.get(plain_of(name)), truths),
            }
            for name, scores in inherited.items()
        },
        "seconds": {
            name: float(np.mean([row["seconds"] for row in rows if row["variant"] == name]))
            for name in sorted({row["variant"] for row in rows})
        },
        "commits": sorted({str(row["commit"]) for row in rows}),
        "archs": [
            {
                "arch": archs[n].describe(),
                "macs_m": cost.macs / 1e6,
                "params_m": cost.params / 1e6,
                "alone": table[i].tolist(),
                "inherited": {name: scores[:, i].tolist() for name, scores in inherited.items()},
            }
            for i, (n, cost) in enumerate(zip(complete, costs, strict=True))
        ],
    }


def compared(scores: Any, truths: Any, alone: Any, *, paired: bool = False) -> dict[str, Any]:
    """Kendall's tau of several rankings with several truths, and the best in common.

    Intervals, and those of the ratio to what single trainings reach, are over archs, rankings and
    truths drawn anew (bootstrap).

    Args:
        scores: (rankings, archs).
        truths: (seeds, archs), each the mean over all other seeds.
        alone: (seeds, archs), what `truths` are made from: one seed's ranking is the ceiling.
        paired: ranking i is compared with truth i alone, as it is part of the others.
    """
    rng = np.random.default_rng(0)

    def taus(which: Any, rows: Any, seeds: Any) -> tuple[float, float]:
        pairs = [(s, s) for s in seeds] if paired else [(r, s) for r in rows for s in seeds]
        found = [kendalltau(scores[r][which], truths[s][which]).statistic for r, s in pairs]
        best = [kendalltau(alone[s][which], truths[s][which]).statistic for s in seeds]
        return float(np.mean(found)), float(np.mean(best))

    num_rows, num_seeds, num_archs = len(scores), len(truths), truths.shape[1]
    tau, ceiling = taus(np.arange(num_archs), range(num_rows), range(num_seeds))
    drawn = np.array(
        [
            taus(*(rng.integers(count, size=count) for count in (num_archs, num_rows, num_seeds)))
            for _ in range(DRAWS)
        ]
    )
    overlap = [
        len({*np.argsort(-scores[r])[:TOP]} & {*np.argsort(-truths[s])[:TOP]}) / TOP
        for r in range(num_rows)
        for s in range(num_seeds)
        if r == s or not paired
    ]
    return {
        "kendall_tau": tau,
        "interval_95": np.nanpercentile(drawn[:, 0], [2.5, 97.5]).tolist(),
        "share_of_ceiling": tau / ceiling,
        "share_interval_95": np.nanpercentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5]).tolist(),
        "top5_overlap": float(np.mean(overlap)),
    }


def plain_of(name: str) -> str:
    """The plain recipe of as many steps."""
    return f"{VARIANTS[name].num_steps:,} steps"


def gain(scores: Any, plain: Any, truths: Any) -> dict[str, Any] | None:
    """Mean tau above that of the plain recipe, both drawn anew for the interval.

    Args:
        scores, plain: (rankings, archs) each; None or the same object: there is no gain.
        truths: (seeds, archs).
    """
    if plain is None or plain is scores:
        return None
    rng = np.random.default_rng(0)

    def mean_tau(x: Any, which: Any, rows: Any, seeds: Any) -> float:
        found = [kendalltau(x[r][which], truths[s][which]).statistic for r in rows for s in seeds]
        return float(np.mean(found))

    def difference(which: Any, ours: Any, theirs: Any, seeds: Any) -> float:
        return mean_tau(scores, which, ours, seeds) - mean_tau(plain, which, theirs, seeds)

    counts = (truths.shape[1], len(scores), len(plain), len(truths))
    drawn = [difference(*(rng.integers(n, size=n) for n in counts)) for _ in range(DRAWS)]
    return {
        "tau": difference(*map(np.arange, counts)),
        "interval_95": np.nanpercentile(drawn, [2.5, 97.5]).tolist(),
    }


if __name__ == "__main__":
    main()
