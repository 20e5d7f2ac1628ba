"""The journal of a build: one JSON object a line, appended as things happen, never changed.

    {"chunk": 3, "role": "blocks", "content": [...]}      what is timed together
    {"chunk": 3, "environment": {...}}                    runtime and version, once a session
    {"chunk": 3, "pass": 0, "us": [...], ...}             see lut/runtimes/timer.py
    {"chunk": 3, "failed": 7, "error": "..."}
    {"chunk": 3, "trouble": "..."}                        why a session died
    {"chunk": 3, "remark": 7, "text": "..."}              of a tool that times by invocation
    {"chunk": 3, "verdict": "accepted", "drift_percent": 0.8}

What the build knows is what its journal says: killed at any instant, it goes on from there.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results.errors import RunError

JOURNAL = "journal.jsonl"


class Journal:
    """Append-only; a line that a kill has torn is cut off when the journal is opened again."""

    def __init__(self, path: Path, cure: str = "") -> None:
        """`cure`: how the command goes on once there is space again, for its errors."""
        self.path, self.cure = path, cure
        self.lines = list(_whole_lines(path))

    def append(self, line: dict[str, Any]) -> None:
        """Raises RunError, as on a full disk; the journal then ends before this line."""
        self._write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self.lines.append(line)

    def _write(self, text: str) -> None:
        try:
            with self.path.open("ab") as file:
                end = file.tell()
                try:
                    file.write(text.encode())
                    file.flush()
                except OSError:
                    os.truncate(self.path, end)
                    raise
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; free space{self.cure}"
            ) from None


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(path, len(data))
    for number, text in enumerate(data.splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise RunError(
                f"{path}, line {number} is damaged; remove it and all lines after it, then resume"
            )
        yield line
