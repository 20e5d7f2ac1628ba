"""What a verification is told: the flags of its command, as a value."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lut.device import check_name, device_names
from results.errors import (
    ArchError,
    DeviceError,
    RunError,
    UserError,
    WeightsError,
    check_all_least,
    check_least,
)
from results.options import Options
from supernet.evaluation.options import RECALIBRATION_IMAGES

PASSES = 20  # over all networks, as of lut.validate


@dataclass(frozen=True)
class VerifyOptions(Options):
    """Which networks are measured on which device, and what they are held against."""

    folder: Positional[Path | None] = None
    """RUN: the folder of a search, whose front and official networks are measured."""
    arch: tuple[str, ...] = ()
    """Instead of a RUN: b0, ..., l3, a JSON file, RUN#ID, or weights; repeatable."""
    device: str | None = None
    """NAME[:runtime[:precision]]; of a run, one of its devices, needed where it has several."""
    table: Path | None = None
    """Latency table (.csv, with its .json beside it) instead of the device's own."""
    target: str | None = None
    """Where the device is: local, ssh://[user@]host[:port], adb:SERIAL or adb; by default here,
    where the table was measured here."""
    networks: int | None = None
    """Of the front only so many, spread evenly over the logarithm of latency."""

    passes: int | None = None
    """Passes over all networks, after two that are dropped; by default 20, or 5 where each timing
    is an invocation of its own, as on a phone."""
    cpus: str = ""
    """CPUs to keep to, as 4,5,6; by default those that the table was measured on."""
    benchmark_model: str = ""
    """Path of TensorFlow Lite's benchmark_model on the target, where the table was measured with
    one elsewhere than usual."""
    python: str = "python3"
    """Interpreter on an ssh target, which must have the runtime."""
    seed: int = 0
    """Of the order of passes."""
    again: bool = False
    """Measure anew, instead of going on from what was measured before."""

    weights: Path | None = None
    """Also evaluate these weights, a supernet's or one network's .safetensors, on --data."""
    data: Path | None = None
    """Folder of labelled pictures for that; by default embedded ones, as supernet.evaluate."""
    limit: int | None = None
    """Evaluate on this many pictures, evenly spread over all."""
    recalibration_images: int = RECALIBRATION_IMAGES
    """Of a supernet: training pictures that a subnet's BatchNorm statistics are computed on."""
    workers: int | None = None
    """Processes that read pictures; by default one a core, up to 8."""

    recalibrate: str | None = None
    """NAME of a new device: write its table, the old one fitted to what was measured."""
    out: Path | None = None
    """Folder for networks by --arch; by default results/runs/verify-DEVICE-TIME. A RUN keeps its
    own."""

    def check(self) -> None:
        """Raise UserError for what can be told without reading anything."""
        if self.folder is None and not self.arch:
            raise UserError("name a RUN of nas.search, or networks by --arch NAME --device NAME")
        if self.folder is not None:
            if self.arch:
                raise UserError("give either a RUN or --arch, not both")
            if self.out is not None:
                raise RunError(f"{self.folder} keeps what is measured of it; leave --out out")
        elif self.device is None:
            raise DeviceError(f"--device is missing: choose from {', '.join(device_names())}")
        elif self.networks is not None:
            raise ArchError("--networks chooses from the front of a RUN; leave it out")
        check_all_least(self, {"passes": 5, "seed": 0}, DeviceError)
        check_least("--networks", self.networks, 1, ArchError)
        check_least("--limit", self.limit, 1)
        check_least("--workers", self.workers, 0)
        check_least("--recalibration-images", self.recalibration_images, 1)
        if self.weights is None and (self.data is not None or self.limit is not None):
            raise WeightsError("--data and --limit are of --weights; add these, or leave them out")
        if self.weights is not None and not self.weights.is_file():
            raise WeightsError(f"no file {self.weights}")
        if self.recalibrate is not None:
            self._check_new_name(self.recalibrate)

    def _check_new_name(self, name: str) -> None:
        check_name(name)
        if name.lower() in device_names():
            raise DeviceError(
                f"--recalibrate {name} is a device already; choose a new name for the new table"
            )
