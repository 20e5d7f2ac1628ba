"""Readers of tables that models are fitted to, and of fitted models."""

import io
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from predictors.evaluations import read_evaluations
from predictors.learned import fit_learned, read_learned
from predictors.models.file import METADATA, read_model, write_model
from predictors.rows import read_rows
from tests.fuzzing import mutate
from tests.fuzzing.check import Reader
from tests.fuzzing.of_runs import TWELVE, make_rows
from tests.fuzzing.values import damaged, parse, write
from tests.test_subnets import subnets

WIDE = (np.nan, np.inf, -np.inf, 1e308, -1e300, 1e-300, 0.0, -1.0)


@mutate.of_format
def npz(data: bytes, rng: Random) -> bytes:
    """Metadata that is damaged as JSON is; arrays of other numbers, shapes, types and names."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    name = rng.choice(sorted(set(arrays) - {METADATA}))
    array = arrays[name]
    match rng.randrange(8):
        case 0 | 1 | 2:
            text = write(damaged(parse(arrays[METADATA].tobytes().decode()), rng))
            arrays[METADATA] = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
        case 3:
            flat = array.copy().ravel()
            if flat.size:
                wide = rng.choice(WIDE) if flat.dtype.kind == "f" else rng.choice((-1, 2**31 - 1))
                flat[rng.randrange(flat.size) :: rng.choice((1, 7, 10**6))] = wide
            arrays[name] = flat.reshape(array.shape)
        case 4:
            arrays[name] = array[: rng.randrange(len(array) + 1)]
        case 5:
            arrays[name] = array.astype(rng.choice(("f4", "i8", "U9", "c16", "?", ">f8")))
        case 6:
            other = rng.choice(sorted(arrays))
            arrays[name], arrays[other] = arrays[other], array
        case _:
            arrays.pop(name)
    buffer = io.BytesIO()
    with np.errstate(all="ignore"):
        np.savez(buffer, **arrays)
    return buffer.getvalue()


def make_model(folder: Path) -> list[Path]:
    (rows,) = make_rows(folder)
    learned = fit_learned(read_evaluations(rows), TWELVE)
    path = folder / "model.npz"
    write_model(path, learned.model, learned.metric, learned.origin)
    rows.unlink()
    return [path]


def use_model(path: Path) -> Any:
    learned = read_learned(path)
    found = learned.predict(subnets(42, TWELVE)[-1])
    json.dumps([learned.describe(), learned.metric, learned.to_dict()], allow_nan=False)
    genes = {gene.name: [None, "1", "x"][:2] for gene in learned.model.encoding.genes}
    features = {name: [0.0, 1e6] for name in learned.model.encoding.features}
    means, stds = read_model(path)[0].predict(genes, features)
    return [found.mean, found.std, *means.tolist(), *stds.tolist()]


def make_table(folder: Path) -> list[Path]:
    path, rng = folder / "rows.csv", Random(0)
    lines = ["d1,ks1,mixer,macs,top1,date"]
    lines += [
        f"{rng.randint(1, 4)},{rng.choice((3, 5))},{rng.choice(('none', 'softmax', ''))},"
        f"{rng.uniform(1, 9):.3f},{rng.uniform(60, 70):.2f},2026"
        for _ in range(30)
    ]
    path.write_text("\n".join(lines) + "\n")
    return [path]


def use_table(path: Path) -> Any:
    rows = read_rows(path, "top1", ["d*,ks1", "mixer"], ["macs"])
    return rows.table.values.tolist()


READERS = (
    Reader("model of predictors.fit", make_model, npz, use_model, quick=25),
    Reader("table of predictors.fit", make_table, mutate.csv_file, use_table),
)
