"""A phone behind adb, by the system's own client.

Timing on phones is a matter of temperature: `wait_until_cool` of `host` before every model.
"""

import contextlib
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lut.targets.host import (
    CommandHost,
    check_local,
    copy_limit_s,
    failure,
    find_program,
    retried,
    run_client,
)
from results.errors import TargetError, nearest, shown

_LOST = re.compile(r"device .*not found|offline|closed|protocol fault|failed to read|no devices")
_CURE = (
    "install Android's platform tools (apt-get install adb, or `pip install adbutils`, "
    "which brings it)"
)


class Adb(CommandHost):
    """One phone, by the serial number that `adb devices` shows."""

    def __init__(
        self, serial: str, *, python: str = "python3", temporary: str = "/data/local/tmp"
    ) -> None:
        super().__init__(f"adb:{serial}", python=python, temporary=temporary)
        self._adb = [find_adb(), "-s", serial]

    def push(self, local: Path, remote: str) -> None:
        """Copy as Host.push does."""
        check_local(local)
        retried(lambda: self._send(local, remote))

    def _client(self, argv: Sequence[str]) -> list[str]:
        # Without shell_v2 adb tells no exit status: the supervisor's last line does on any phone.
        return [*self._adb, "shell", shlex.join(argv)]

    def _lost(self, stderr: list[str], *, started: bool) -> TargetError:
        stderr = [] if started else stderr
        reason = stderr[-1].strip() if stderr else "the connection was lost"
        if any("unauthorized" in line for line in stderr):
            return TargetError(f"{self.name}: allow USB debugging on the phone's screen")
        return TargetError(f"{self.name}: {reason}; is it in `adb devices`?", transient=True)

    def _send(self, local: Path, remote: str) -> None:
        # A trailing /. copies a folder's contents, whether the target exists or not.
        source = f"{local}/." if local.is_dir() else str(local)
        limit_s = copy_limit_s(local)
        try:
            done = run_client([*self._adb, "push", source, remote], limit_s)
        except subprocess.TimeoutExpired:
            raise TargetError(
                f"{self.name}: copying took longer than {limit_s:.0f} s", transient=True
            ) from None
        if done.returncode == 0:
            return
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        if any(_LOST.search(line) or "unauthorized" in line for line in lines):
            errors = [line for line in lines if "error" in line.lower()]
            raise self._lost(errors or lines, started=False)
        raise failure(self.name, "adb push", done.returncode, lines)


def find_adb() -> str:
    """Return adb's path, in PATH or in the package adbutils. Raises TargetError with the cure."""
    with contextlib.suppress(TargetError):
        return find_program("adb", _CURE)
    try:
        import adbutils
    except ImportError:
        raise TargetError(f"there is no program adb on this machine; {_CURE}") from None
    return str(adbutils.adb_path())


def serials() -> dict[str, str]:
    """Return the states of attached phones (`device` where ready), by serial number."""
    try:
        done = run_client([find_adb(), "devices"], 30)
    except subprocess.TimeoutExpired:
        raise TargetError("adb does not answer; try `adb kill-server`", transient=True) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason told"])[-1]
        raise TargetError(f"adb devices failed: {last}; try `adb kill-server`")
    # A serial may hold spaces and parentheses: wireless debugging names phones by mDNS.
    pairs = (line.rpartition("\t") for line in done.stdout.splitlines()[:1000])
    return {serial: state.strip() for serial, _, state in pairs if _is_serial(serial)}


def _is_serial(text: str) -> bool:
    """Return whether adb takes it for no option, and a terminal for nothing but a text."""
    return bool(text.strip()) and text.isprintable() and not text.startswith("-")


def only_serial() -> str:
    """Return the serial number of the one phone that is ready. Raises TargetError."""
    states = serials()
    ready = [serial for serial, state in states.items() if state == "device"]
    if len(ready) == 1:
        return ready[0]
    if ready:
        listed = ", ".join(shlex.quote(f"adb:{serial}") for serial in ready)
        raise TargetError(f"{len(ready)} phones are attached; choose from {listed}")
    listed = ", ".join(f"{serial} is {state}" for serial, state in states.items())
    raise TargetError(
        "no phone is attached; enable USB debugging, allow it on its screen, and look at "
        f"`adb devices`{f' ({listed})' if listed else ''}"
    )


def check_serial(serial: str) -> None:
    """Raise TargetError, with the nearest, for a phone that is not attached and ready."""
    states = serials()
    if serial not in states:
        if not states:
            only_serial()
        raise TargetError(f"no phone {shown(serial)}{nearest(serial, states)}")
    if states[serial] == "unauthorized":
        raise TargetError(f"adb:{serial}: allow USB debugging on the phone's screen")
    if states[serial] != "device":
        raise TargetError(f"adb:{serial} is {states[serial]}", transient=True)
