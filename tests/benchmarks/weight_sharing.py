"""Do shared weights rank networks as training each alone does?

python -m tests.benchmarks.weight_sharing --work DIR [--accelerator cuda] [--processes 12]

A space of 1,536 archs (tiny at 64 px) on the embedded classification data: 24 random archs are
trained alone from three seeds each, and supernets from three seeds, all by the recipe of
`supernet.train`. Then the archs are ranked by the accuracy that they inherit from a supernet, by
their MACs and by their parameters, each against the mean over the seeds of what they reach alone.
The ceiling is how well one seed's accuracies rank like the mean of the other two.

Every finished run is a line of DIR/runs.jsonl; started again, only what is missing is run. The
record goes to results/benchmarks/weight_sharing.json. On two cores it takes hours, on a GPU
minutes.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from results.files import write_json
from results.record import RunRecord, commit, now
from supernet.arch import Arch
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.space import Space, get_space
from tests.benchmarks.search import ROOT, machine

NUM_ARCHS, SEEDS = 24, (0, 1, 2)
NUM_CLASSES, SIZE = 12, (64, 64)
NUM_TRAIN = 20_000  # pictures, each drawn once and kept; flips are drawn anew
BATCH_SIZE = 64
RECALIBRATED = 2048
TOP = 5
DRAWS = 2000  # of archs, for intervals


@dataclass(frozen=True)
class Variant:
    """How a supernet is trained, where it is not as by default."""

    num_steps: int = 1000
    random_subnets: int = 2
    alpha: float | None = None
    shrink: bool = False


ALONE_STEPS = 400
VARIANTS = {
    "default": Variant(),
    "a third of the steps": Variant(num_steps=333),
    "alpha-divergence": Variant(alpha=1.0),
    "progressive shrinking": Variant(shrink=True),
    "four random subnets": Variant(random_subnets=4, num_steps=667),
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
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--only-record", action="store_true", help="of the runs that are there")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.only_record:
        run_all(options)
    record = {
        "command": "python -m tests.benchmarks.weight_sharing",
        "date": now().isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": RunRecord("", {}, {}).versions,
        **judged(read(options.work)),
    }
    write_json(ROOT / "results" / "benchmarks" / "weight_sharing.json", record)
    print(json.dumps({k: v for k, v in record.items() if k != "archs"}, indent=2))


def the_space() -> Space:
    return get_space("tiny", freeze=["resolution=64"], num_classes=NUM_CLASSES)


def the_archs() -> list[Arch]:
    space, rng = the_space(), random.Random(0)
    found: dict[Arch, None] = {}
    while len(found) < NUM_ARCHS:
        found[space.sample(rng)] = None
    return list(found)


def run_all(options: argparse.Namespace) -> None:
    """Supernets first, as they take longest; then networks alone, seed by seed."""
    names = options.variants.split(",")
    jobs = [Job("default", seed) for seed in SEEDS if "default" in names]
    jobs += [Job("alone", seed, number) for seed in SEEDS for number in range(NUM_ARCHS)]
    jobs += [Job(name, seed) for name in names if name != "default" for seed in SEEDS]
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
    path = work / "runs.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def pictures(work: Path, processes: int) -> Path:
    """All training pictures as networks see them, (NUM_TRAIN, 3, H, W) of float16, drawn once."""
    path = work / "pictures.npy"
    if not path.exists():
        parts = [range(i, NUM_TRAIN, 64) for i in range(64)]
        x = np.empty((NUM_TRAIN, 3, *SIZE), np.float16)
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for part, drawn in zip(parts, pool.map(draw, parts), strict=True):
                x[part.start :: 64] = drawn
        np.save(path.with_name("unfinished.npy"), x)
        path.with_name("unfinished.npy").replace(path)
    return path


def draw(numbers: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float16]]":
    from supernet.tasks.training import Draw, training_task

    data = training_task("classification", seed=0).train_data()
    return np.stack([data[Draw(i, 0, SIZE, 0)][0].numpy().astype(np.float16) for i in numbers])


def run(job: Job, work: Path, accelerator: str, until: float) -> dict[str, Any] | None:
    """What a job gives, as a line of runs.jsonl; None where it is too late to begin."""
    if time.time() > until:
        return None
    import torch

    from supernet.distributed import Ranks
    from supernet.initialise import initialise_weights
    from supernet.model import build
    from supernet.order import Order, seed_of
    from supernet.sandwich import OneArch, Sampler, SandwichRule
    from supernet.subnet import Supernet
    from supernet.trainer import Alone, Recipe, Trainer

    torch.set_num_threads(1)
    started = time.monotonic()
    device = torch.device(accelerator)
    x, labels = loaded(work, device)
    task, archs = the_task(), the_archs()
    torch.manual_seed(job.seed)
    variant = VARIANTS.get(job.variant, Variant(num_steps=ALONE_STEPS))
    sampler: Sampler
    model: Alone | Supernet
    if job.variant == "alone":
        model, sampler = Alone(build(archs[job.number])), OneArch(archs[job.number], job.seed)
        initialise_weights(model)
    else:
        model = Supernet(the_space())
        initialise_weights(model.nets)
        sampler = SandwichRule(
            the_space(),
            variant.random_subnets,
            job.seed,
            variant.num_steps,
            shrink=variant.shrink,
        )
    recipe = Recipe(
        num_steps=variant.num_steps,
        warmup=variant.num_steps // 20,
        clip=2.0,
        alpha=variant.alpha,
        seed=job.seed,
    )
    trainer = Trainer(model, task, sampler, recipe, Ranks(device=device))
    order = Order(NUM_TRAIN, BATCH_SIZE, job.seed)
    for step in range(variant.num_steps):
        chosen = torch.tensor([d.index for d in order.draws(step, SIZE)], device=device)
        flipped = torch.Generator().manual_seed(seed_of(job.seed, "flip", step))
        flips = (torch.rand(BATCH_SIZE, generator=flipped) < 0.5).to(device)[:, None, None, None]
        batch = x[chosen].float()
        trainer.step([(torch.where(flips, batch.flip(3), batch), labels[chosen])])

    def top1(network: "torch.nn.Module", arch: Arch) -> float:
        found = task.evaluate(
            network.eval(),
            arch,
            limit=None,
            batch_size=250,
            workers=0,
            device=device,
            dtype=torch.float32,
        )
        return float(found["top1"])

    if isinstance(model, Alone):
        accuracies = [top1(model.network, archs[job.number])]
    else:
        accuracies = [top1(recalibrated(model, arch, x, job.seed), arch) for arch in archs]
    return {**asdict(job), "top1": accuracies, "seconds": time.monotonic() - started}


def recalibrated(supernet: Any, arch: Arch, x: Any, seed: int) -> Any:
    """A subnet alone, with statistics of its own."""
    import torch

    from supernet.batchnorm import recalibrate

    network = supernet.extract(arch)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    chosen = shuffled[:RECALIBRATED].to(x.device)
    recalibrate(network, (x[part].float() for part in chosen.split(BATCH_SIZE)))
    return network


@lru_cache
def the_task() -> Any:
    from supernet.tasks.training import training_task

    return training_task("classification", seed=0)


@lru_cache
def loaded(work: Path, device: Any) -> tuple[Any, Any]:
    import torch

    x = torch.from_numpy(np.load(work / "pictures.npy")).to(device)
    return x, (torch.arange(NUM_TRAIN) % NUM_CLASSES).to(device)


def judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the runs so far: correlations with intervals, and what they were made from."""
    archs = the_archs()
    alone = {(row["number"], row["seed"]): row["top1"][0] for row in rows if row["number"] >= 0}
    complete = [n for n in range(NUM_ARCHS) if all((n, seed) in alone for seed in SEEDS)]
    table = np.array([[alone[n, seed] for seed in SEEDS] for n in complete])
    mean = table.mean(axis=1)
    costs = [network_cost(blocks_of(archs[n])) for n in complete]
    found = {
        "by MACs": compared([float(cost.macs) for cost in costs], mean),
        "by parameters": compared([float(cost.params) for cost in costs], mean),
    }
    others = [np.delete(table, i, axis=1).mean(axis=1) for i in range(len(SEEDS))]
    ceiling = [compared(table[:, i].tolist(), other) for i, other in enumerate(others)]
    found["by one training alone (ceiling)"] = {
        name: float(np.mean([row[name] for row in ceiling])) for name in ceiling[0]
    }
    supernets: dict[str, Any] = {}
    for name in VARIANTS:
        runs = [row["top1"] for row in rows if row["variant"] == name]
        if not runs:
            continue
        inherited = np.array(runs)[:, complete]
        each = [compared(row.tolist(), mean) for row in inherited]
        supernets[name] = {
            "num_supernets": len(runs),
            "kendall_tau_of_each": [row["kendall_tau"] for row in each],
            **{key: float(np.mean([row[key] for row in each])) for key in each[0]},
            "mean_of_supernets": compared(inherited.mean(axis=0).tolist(), mean),
            "mean_inherited": float(inherited.mean()),
        }
    seconds = {
        name: float(np.mean([row["seconds"] for row in rows if row["variant"] == name]))
        for name in {row["variant"] for row in rows}
    }
    return {
        "space": {"name": "tiny", "freeze": "resolution=64", "size": the_space().size},
        "recipe": {
            "alone_steps": ALONE_STEPS,
            "batch_size": BATCH_SIZE,
            "variants": {name: asdict(variant) for name, variant in VARIANTS.items()},
        },
        "num_archs": len(complete),
        "mean_alone": float(mean.mean()),
        "spread_alone": [float(mean.min()), float(mean.max())],
        "std_over_seeds": float(table.std(axis=1, ddof=1).mean()),
        "rankings": found,
        "supernets": supernets,
        "seconds": seconds,
        "archs": [
            {
                "arch": archs[n].describe(),
                "macs_m": cost.macs / 1e6,
                "params_m": cost.params / 1e6,
                "alone": table[i].tolist(),
                **{
                    name: [row["top1"][n] for row in rows if row["variant"] == name]
                    for name in supernets
                },
            }
            for i, (n, cost) in enumerate(zip(complete, costs, strict=True))
        ],
    }


def compared(scores: Sequence[float], truth: Any) -> dict[str, Any]:
    """Kendall's tau with an interval over archs drawn anew (bootstrap), and the best in common."""
    values, truth = np.asarray(scores), np.asarray(truth)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(values), size=len(values)) for _ in range(DRAWS)]
    taus = [kendalltau(values[i], truth[i]).statistic for i in drawn]
    best = {*np.argsort(-values)[:TOP]} & {*np.argsort(-truth)[:TOP]}
    return {
        "kendall_tau": float(kendalltau(values, truth).statistic),
        "low": float(np.nanpercentile(taus, 2.5)),
        "high": float(np.nanpercentile(taus, 97.5)),
        "top5_overlap": len(best) / TOP,
    }


if __name__ == "__main__":
    main()
