"""Whether a runtime is of the version that a latency table was measured with."""

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lut.sidecar import Environment, Sidecar, Target

PACKAGES = {  # of pip, by runtime; the first that is installed
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert", "tflite-runtime"),
    "pytorch": ("torch",),
    "tensorrt": ("tensorrt",),
}
MOVED = (
    "in a public comparison 22 to 27 % of the models moved by more than 10 % between two versions "
    "of one runtime"
)


def version_remark(before: Environment, now: Environment) -> str:
    """Say that a session's environment has another version than a table's, `before`; else "".

    Nothing is said where either tells none.
    """
    own, other = _readable(before), _readable(now)
    if not own or not other or _release(own) == _release(other):
        return ""
    runtime = before.runtime or now.runtime or ""
    name = "" if own.startswith("benchmark_model") else f"{runtime} "
    return (
        f"the table was measured with {name}{own}, here is {other}: latencies may differ "
        f"({MOVED}); build it again, or check it by lut.validate"
    )


def remark_here(sidecar: Sidecar) -> str:
    """Return `version_remark` of a table that was measured on this machine; "" of any other.

    What is installed is looked up, not imported.
    """
    before, target = sidecar.measurement.environment, sidecar.measurement.target
    in_python = before.package is not None or before.runtime != "litert"  # else a tool timed it
    if target.kind != "local" or before.tool is not None or not in_python or not _is_here(target):
        return ""
    installed = _installed(before)
    return version_remark(before, Environment(version=installed)) if installed else ""


def target_flag(sidecar: Sidecar) -> str | None:
    """Return the flag by which `nas.verify` reaches what a table was measured on; "" for none.

    None where the table was measured on another machine like this one, or not at all.
    """
    target = sidecar.measurement.target
    if target.kind == "local":
        return "" if _is_here(target) else None
    return {"ssh": "--target ssh://HOST", "adb": "--target adb"}.get(target.kind or "")


def _installed(before: Environment) -> str:
    """Return the version of the package that ran the models, as it is installed here; else ""."""
    names = PACKAGES.get(before.runtime or "", ())
    own = (before.package or "").replace("_", "-")
    for name in (own,) if own in names else names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _is_here(target: Target) -> bool:
    """Compare kind of machine and processor, as `lut.targets.facts` names them."""
    if target.machine != os.uname().machine:
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    models = sorted({m.strip() for m in re.findall(r"^model name\s*:(.*)$", text, re.MULTILINE)})
    own = target.cpu
    return own is None or not models or own == ", ".join(" ".join(name.split()) for name in models)


def _readable(environment: Environment) -> str:
    """Return a version as people write it; trtexec's 101300 is 10.13.0."""
    text = environment.version or ""
    if environment.tool == "trtexec" and re.fullmatch(r"\d{4,7}", text):
        return ".".join(map(str, tensorrt_version(text)))
    return text[:60]


def tensorrt_version(number: str) -> tuple[int, int, int]:
    """Return major, minor and patch of a version as TensorRT writes it, in four to seven digits.

    >>> tensorrt_version("8601"), tensorrt_version("101200")
    ((8, 6, 1), (10, 12, 0))
    """
    value = int(number)
    if value >= 100_000:
        return value // 10_000, value // 100 % 100, value % 100
    return value // 1000, value // 100 % 10, value % 100


def _release(text: str) -> str:
    """Return a version without what a build adds: 2.1.0+cu121 is 2.1.0."""
    return text.partition("+")[0]
