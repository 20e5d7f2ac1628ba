"""A subnet of a supernet as a network of its own, in a file.

python -m supernet.extract --weights supernet.safetensors --arch RUN#3 --out winner.safetensors
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.console import main as console_main
from results.console import note
from results.errors import ArchError, RunError, UserError, WeightsError
from results.extras import require
from supernet.accelerator import check_accelerator, check_is_here


@dataclass(frozen=True)
class Extract:
    """Write a subnet as a stand-alone model, its BatchNorm statistics computed anew."""

    weights: Path | None = None
    """The supernet's .safetensors."""
    arch: str | None = None
    """b0, ..., l3, a JSON file, or RUN#ID: an arch of the supernet's space."""
    out: Path | None = None
    """The .safetensors to write."""
    resolution: str | None = None
    """224, or HEIGHTxWIDTH; by default the arch's."""

    data: Path | None = None
    """Folder of training pictures for statistics; by default embedded ones."""
    recalibration_images: int = 512
    """Training pictures that statistics are computed on."""
    batch_size: int = 64
    """Pictures at a time."""
    seed: int = 0
    """Of the pictures for statistics."""
    accelerator: str = "cpu"
    """Where PyTorch computes: cpu or cuda."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""

    json: bool = False
    """Print one JSON object."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        weights, name, out = self._check()
        require("torch", "torch", "safetensors", "PIL")
        check_is_here(self.accelerator)
        from supernet.evaluation.recalibrated import Recalibration, Subnets, naming_memory
        from supernet.resolve import at_resolution, read_archs
        from supernet.weights.files import save_weights, sha256_of
        from supernet.weights.header import classes_in, classes_text

        settings = Recalibration(self.recalibration_images, self.batch_size, self.seed)
        subnets = Subnets(
            weights,
            data=self.data,
            recalibration=settings,
            accelerator=self.accelerator,
            workers=self.workers,
        )
        found = read_archs(name, subnets.space, tell=None if self.quiet else note)
        if len(found) != 1:
            raise ArchError(f"{name} names {len(found)} archs; extract one of them, as RUN#ID")
        arch = at_resolution(found[0], self.resolution)
        with naming_memory():
            model = subnets.network(arch)
        origin: dict[str, Any] = {
            "supernet_sha256": sha256_of(weights),
            "recalibration_images": self.recalibration_images,
            "recalibration_batch": self.batch_size,
            "seed": subnets.seed,
            "recalibration_seed": self.seed,
        }
        save_weights(model, out, **origin, **classes_text(classes_in(weights)))
        num_params = sum(p.numel() for p in model.parameters())
        answer: dict[str, Any] = {
            "weights": str(out),
            "weights_sha256": sha256_of(out),
            "arch": arch.to_dict(),
        }
        answer |= {"num_params": num_params, "dataset": subnets.task.dataset} | origin
        if self.json:
            print(json.dumps(answer))
        elif not self.quiet:
            print(f"{out}: {arch.describe()}, {num_params:,} parameters")

    def _check(self) -> tuple[Path, str, Path]:
        """What can be told without PyTorch."""
        if self.weights is None or not self.weights.is_file():
            found = f"no file {self.weights}" if self.weights else "no supernet"
            raise WeightsError(f"{found}; name the one that supernet.train wrote by --weights")
        if self.arch is None:
            raise ArchError("name the arch to extract by --arch NAME, FILE or RUN#ID")
        if self.out is None:
            raise RunError("name the file to write by --out FILE.safetensors")
        if self.out.suffix != ".safetensors":
            raise RunError(f"--out {self.out} must end in .safetensors, which is what it will be")
        if self.out.exists() and self.out.samefile(self.weights):
            raise RunError(f"--out {self.out} is the supernet itself; name another file")
        check_accelerator(self.accelerator)
        for flag, value, least in (
            ("--recalibration-images", self.recalibration_images, 1),
            ("--batch-size", self.batch_size, 1),
            ("--seed", self.seed, 0),
            ("--workers", self.workers, 0),
        ):
            if value is not None and value < least:
                raise UserError(f"{flag} must be {least} or more, not {value}")
        return self.weights, self.arch, self.out


def main() -> None:
    console_main(Extract, "supernet.extract")


if __name__ == "__main__":
    main()
