"""Whether a runtime is of the version that a latency table was measured with."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def version_remark(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say that `now`, a session's environment, has another version than `before`; else "".

    `before` is the environment in a table's sidecar. Nothing is said where either tells none.
    """
    own, other = _readable(before), _readable(now)
    if not own or not other or _release(own) == _release(other):
        return ""
    runtime = str(before.get("runtime") or now.get("runtime") or "")
    name = "" if own.startswith("benchmark_model") else f"{runtime} "
    return (
        f"the table was measured with {name}{own}, here is {other}: latencies may differ "
        f"({MOVED}); build it again, or check it by lut.validate"
    )


def environment_of(sidecar: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what ran the models of a measured table, as its sidecar tells; {} of any other."""
    environment = _measurement_of(sidecar).get("environment")
    return environment if isinstance(environment, Mapping) else {}


def _measurement_of(sidecar: Mapping[str, Any] | None) -> Mapping[str, Any]:
    measurement = (sidecar or {}).get("measurement")
    return measurement if isinstance(measurement, Mapping) else {}


def remark_here(sidecar: Mapping[str, Any] | None) -> str:
    """`version_remark` of a table that was measured on this machine; "" of any other.

    What is installed is looked up, not imported.
    """
    before, target = environment_of(sidecar), _measurement_of(sidecar).get("target")
    if not before or not isinstance(target, Mapping):
        return ""
    told = "package" in before or before.get("runtime") != "litert"  # else a tool timed it
    if target.get("kind") != "local" or "tool" in before or not told or not _is_here(target):
        return ""
    found = _installed(before)
    return version_remark(before, {"version": found}) if found else ""


def _installed(before: Mapping[str, Any]) -> str:
    names = PACKAGES.get(str(before.get("runtime")), ())
    own = str(before.get("package", "")).replace("_", "-")
    for name in (own,) if own in names else names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _is_here(target: Mapping[str, Any]) -> bool:
    """By kind of machine and processor, as `lut.targets.facts` names them."""
    if target.get("machine") != os.uname().machine:
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    found = sorted({m.strip() for m in re.findall(r"^model name\s*:(.*)$", text, re.MULTILINE)})
    own = target.get("cpu")
    return own is None or not found or own == ", ".join(" ".join(name.split()) for name in found)


def _readable(environment: Mapping[str, Any]) -> str:
    """A version as people write it; trtexec's 101300 is 10.13.0."""
    told = environment.get("version")
    text = told if isinstance(told, str) else ""
    if environment.get("tool") == "trtexec" and re.fullmatch(r"\d{4,7}", text):
        number = int(text)
        if number >= 100_000:
            return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return text[:60]


def _release(text: str) -> str:
    """Without what a build adds: 2.1.0+cu121 is 2.1.0."""
    return text.partition("+")[0]
