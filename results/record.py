"""The circumstances of a result: what run.json says beside every table and front."""

import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from results.errors import masked, masked_word

PACKAGES = ("efficientvit-nas", "numpy", "optuna", "scipy", "torch")


@dataclass(frozen=True)
class RunRecord:
    """How a result was made: the command's flags, and where its numbers come from."""

    command: str
    settings: dict[str, Any]
    sources: dict[str, Any]
    seed: int | None = None
    started: str = field(default_factory=lambda: now().isoformat(timespec="seconds"))
    commit: str | None = field(default_factory=lambda: commit())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    host: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them, with `***` for passwords in them."""
        plain: dict[str, Any] = _masked(asdict(self))
        return plain


def _masked(value: Any) -> Any:
    """Return a value of JSON with the passwords in its texts masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list | tuple) else value


def now() -> datetime:
    """Return the time, in the zone of this machine."""
    return datetime.now(UTC).astimezone()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, or None where it is no checkout.

    Ends in -dirty where tracked files have been changed since.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def command_line(module: str) -> str | None:
    """Return the command as typed, to repeat it, but for passwords.

    None where this process is not `python -m MODULE`: somebody calls it from Python.
    """
    import shlex

    if not sys.argv[0].removesuffix(".py").endswith(module.replace(".", "/")):
        return None
    words = [masked_word(word) for word in sys.argv[1:]]
    return masked(shlex.join(["python", "-m", module, *words]))
