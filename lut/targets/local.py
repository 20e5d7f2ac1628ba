"""This machine as a host."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lut.targets.host import CommandHost, check_local, failure
from results.errors import TargetError


class Local(CommandHost):
    def __init__(self, *, python: str = sys.executable) -> None:
        super().__init__("local", python=python, temporary=tempfile.gettempdir())

    def push(self, local: Path, remote: str) -> None:
        """Copy as Host.push says. Raises TargetError for a full disk or a forbidden path."""
        check_local(local)
        try:
            if local.is_dir():
                shutil.copytree(local, remote, dirs_exist_ok=True)
            else:
                Path(remote).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(local, remote)
                shutil.copymode(local, remote)
        except shutil.Error as error:  # of copytree: (source, target, reason) for every file
            raise failure(self.name, "copy", 1, [error.args[0][-1][-1]]) from None
        except OSError as error:
            raise failure(self.name, "copy", 1, [str(error)]) from None

    def _client(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def _lost(self, stderr: list[str], *, started: bool) -> TargetError:
        return TargetError(f"{self.name}: the command was ended from outside")
