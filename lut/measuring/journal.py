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
from pathlib import Path
from typing import Any

from lut.runtimes.lines import journal_line
from results.errors import RunError
from results.reading import MOST_LOG_BYTES, read_bytes, whole_lines
from results.runs import own_path

JOURNAL = "journal.jsonl"
BEGINS = '{"chunk":'  # every line


class Journal:
    """Append-only; a line that a kill has torn is cut off before the next one is written."""

    def __init__(self, path: Path, cure: str = "") -> None:
        """Read what is there; nothing is changed.

        `cure`: how the command goes on once there is space again, for its errors.

        Raises RunError for a link out of the folder, and for what is no journal of a build.
        """
        self.path, self.cure = own_path(path.parent, path.name), cure
        self._torn_at: int | None = None  # where a torn last line begins
        self.lines: list[dict[str, Any]] = []
        self.numbers: list[int] = []  # from 1, in the file, of the lines that were read
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        data = read_bytes(self.path, most=MOST_LOG_BYTES)
        lines, end = whole_lines(data, BEGINS, str(self.path))
        if end < len(data):
            self._torn_at = end
        for number, line in enumerate(lines, start=1):
            if not line.strip():  # as an editor leaves
                continue
            self.numbers.append(number)
            try:
                self.lines.append(journal_line(line, "it"))
            except RunError as error:
                raise self.damaged(number, str(error)) from None

    def damaged(self, number: int, what: str) -> RunError:
        """Return what to raise for a line, from 1, that cannot be or follow those before it."""
        return RunError(
            f"{self.path}, line {number} is damaged ({what}); remove it and all lines after it, "
            "then resume"
        )

    def append(self, line: dict[str, Any]) -> None:
        """Write a line. Raises RunError, as on a full disk; the journal then ends before it."""
        self._write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self.lines.append(line)

    def _write(self, text: str) -> None:
        try:
            if self._torn_at is not None:
                os.truncate(self.path, self._torn_at)
                self._torn_at = None
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
