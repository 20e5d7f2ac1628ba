"""What a calibration is asked to do: the flags of `lut.calibrate` as a value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from results.options import Options
from supernet.spaces import DEFAULT_SPACE


@dataclass(frozen=True)
class CalibrationOptions(Options):
    """Which device's tables to make of which points, or which networks to propose for timing.

    `from_`, `propose` and `out_points` that are None are not used. Any other None is worked out
    from the device or its published points, see `lut.calibration.inputs`.
    """

    device: tuple[str, ...] = ()
    """NAME[:runtime[:precision]]; a new NAME needs both."""
    points: Path | None = None
    """CSV with columns arch and latency_ms (and resolution, task, dataset, batch, kind, …); by
    default the published latencies, where the device has any."""
    processor: str | None = None
    """Whose physics to start from: cpu, gpu or tensor_core_gpu; by default the device's own,
    tensor_core_gpu for tensorrt, else cpu."""
    title: str | None = None
    """What to call the device in titles."""
    from_: Annotated[str | None, arg(name="from")] = None
    """Start from another device's table instead of bare physics: NAME[:runtime[:precision]], or
    a table's CSV."""
    propose: int | None = None
    """Write no table; propose this many networks to time next, as points without latencies."""
    space: str = DEFAULT_SPACE
    """Where the proposed networks come from: family, b, l, all or tiny."""
    seed: int = 0
    """Of the proposed networks."""
    out_points: Path | None = None
    """File of the proposed networks; by default they are printed."""
    out: Path | None = None
    """Folder of the tables; by default the user's own, where --device finds them."""
