"""One session: many models on one host with one runtime, timed in turns, pass after pass.

Where the host has Python and the runtime, `timer.py` does it; on a phone or with TensorRT's own
tool every model is an invocation. Both give the same lines.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lut.builders.network import Format, build_network
from lut.probes import Probe
from results.errors import DeviceError, TargetError, check_choice

if TYPE_CHECKING:
    from lut.targets.host import Host

SILENCE_S = 300.0  # after which a session counts as hung; the timer speaks every 3 s
FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "litert": "tflite"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a table belongs to, but for the device."""

    runtime: str
    precision: str
    threads: int = 1
    batch: int = 1
    cpus: str = ""  # comma-separated; empty: the last ones
    provider: str = ""  # of ONNX Runtime; empty: its CPU

    def __post_init__(self) -> None:
        check_choice("runtime to build a table with", self.runtime, FORMATS, DeviceError)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Model:
    """A network to time, `repeats` times a pass."""

    blocks: Probe
    repeats: int = 1
    eps: float = 1e-5


def run_session(
    host: "Host",
    setting: Setting,
    models: Sequence[Model],
    *,
    passes: int,
    first_pass: int = 0,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """The lines of `timer.py`, see there. Raises TargetError; what was given before it counts."""
    with TemporaryDirectory(prefix="nas-models-") as name:
        folder = Path(name)
        write_models(folder, setting, models)
        yield from _by_script(host, setting, folder, passes, first_pass, seed)


def write_models(folder: Path, setting: Setting, models: Sequence[Model]) -> None:
    """`models.json` and the files that it lists."""
    format = FORMATS[setting.runtime]
    listed = []
    for index, model in enumerate(models):
        name = f"{index}.{format}"
        data = build_network(
            format,
            model.blocks,
            precision=setting.precision,
            batch=setting.batch,
            eps=model.eps,
        )
        (folder / name).write_bytes(data)
        listed.append({"file": name, "repeats": model.repeats})
    (folder / "models.json").write_text(json.dumps(listed))


def _by_script(
    host: "Host", setting: Setting, folder: Path, passes: int, first_pass: int, seed: int
) -> Iterator[dict[str, Any]]:
    script = Path(__file__).with_name("timer.py")
    here = host.name == "local"
    place: AbstractContextManager[str] = nullcontext(str(folder)) if here else host.folder()
    with place as there:
        models = there
        timer = str(script)
        if not here:
            models, timer = f"{there}/models", f"{there}/timer.py"
            host.push(script, timer)
            host.push(folder, models)
        argv = [sys.executable if here else host.python, timer, models]
        flags = {
            "runtime": setting.runtime,
            "threads": setting.threads,
            "cpus": setting.cpus,
            "provider": setting.provider,
            "passes": passes,
            "first-pass": first_pass,
            "seed": seed,
        }
        argv += [f"--{name}={value}" for name, value in flags.items()]
        for line in host.stream(argv, idle_timeout_s=SILENCE_S):
            try:
                found = json.loads(line)
            except ValueError:
                raise TargetError(f"{host.name}: the timer printed {line[:80]!r}") from None
            if isinstance(found, dict):
                yield found


def shuffled(count: int, seed: int, number: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed} {number}").shuffle(order)
    return order
