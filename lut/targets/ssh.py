"""A machine behind ssh, by the system's own client and the user's own configuration.

Keys, ports, jump hosts and known hosts are those of ~/.ssh/config. One connection is opened and
shared by all commands (ControlMaster), as timing thousands of models by one command each would
spend more time on handshakes than on models. It runs `cat` on a pipe of ours: when this process
ends, however it ends, so does the connection.
"""

import contextlib
import gzip
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lut.targets.host import (
    CommandHost,
    check_local,
    copy_limit_s,
    failure,
    find_program,
    retried,
    run_client,
)
from results.errors import TargetError

CONNECT_S = 15
OPTIONS = "EFFICIENTVIT_NAS_SSH_OPTIONS"  # words to put before ours
MOST_WORDS = 2**16  # bytes of what a copy says, that are looked at
LONGEST_SOCKET_PATH = 80  # bytes; the limit of the system is 104, ssh adds a random ending

# What ssh says where trying again cannot help, and the cure.
_PERMANENT = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key has changed: {check}"),
    (
        r"Host key verification failed|host key is known for",
        "its host key is unknown: {check}",
    ),
    (
        r"Permission denied|Too many authentication failures|No supported authentication",
        "it does not let us in: make `ssh {target}` work without a password (ssh-copy-id, ssh-add)",
    ),
    (r"Could not resolve hostname (?!.*Temporary failure)", "there is no such host"),
    (r"Bad configuration option|Bad owner or permissions|command-line line", "{line}"),
    (r"administratively prohibited|Bad port|no matching .* found", "{line}"),
)
_LOST = re.compile(r"^(Timeout, server|client_loop|Connection |Shared connection|Read from)")
_LOST_STATUS = 255  # ssh's own; a command's status comes through the supervisor


class Ssh(CommandHost):
    """`ssh_options` go before all others: `("-F", FILE)` for another configuration."""

    def __init__(
        self,
        target: str,
        *,
        port: int | None = None,
        ssh_options: Sequence[str] | None = None,
        python: str = "python3",
        temporary: str = "/tmp",
    ) -> None:
        shown = f"ssh://{target}" + (f":{port}" if port else "")
        super().__init__(shown, python=python, temporary=temporary)
        self._ssh = find_program("ssh", "install OpenSSH's client (apt-get install openssh-client)")
        if ssh_options is None:
            given = os.environ.get(OPTIONS, "")
            try:
                ssh_options = shlex.split(given)
            except ValueError as error:
                raise TargetError(f"{OPTIONS} is {given!r}: {error}") from None
        self._target = target
        self._port = ["-p", str(port)] if port else []
        self._options = [
            *ssh_options,
            *("-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}"),
            *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
            *self._port,
        ]
        self._shared = _SharedConnection(self._ssh, self._options, target)

    def push(self, local: Path, remote: str) -> None:
        """Copy as Host.push says, in one compressed stream that tar unpacks there."""
        check_local(local)
        retried(lambda: self._send(local, remote))

    def close(self) -> None:
        """End the shared connection; a further command opens it again."""
        self._shared.close()

    def _client(self, argv: Sequence[str]) -> list[str]:
        failed = self._shared.open()
        if failed is not None:
            raise self._lost(failed, started=False)
        return [
            self._ssh,
            *self._shared.options(),
            *self._options,
            "--",
            self._target,
            shlex.join(argv),
        ]

    def _lost(self, stderr: list[str], *, started: bool) -> TargetError:
        if started:
            said = [line.strip() for line in stderr if _LOST.search(line)]
            reason = f" ({said[-1]})" if said else ""
            return TargetError(f"{self.name}: the connection was lost{reason}", transient=True)
        for pattern, cure in _PERMANENT:
            for line in stderr:
                if re.search(pattern, line):
                    target = shlex.join([*self._port, self._target])
                    check = f"connect once by `ssh {target}` and compare its fingerprint"
                    told = cure.format(target=target, line=line.strip(), check=check)
                    return TargetError(f"{self.name}: {told}")
        said = [line for line in stderr if not line.startswith(("Warning: ", "mux_", "@"))]
        reason = said[-1].strip() if said else "the connection was lost"
        return TargetError(f"{self.name}: {reason}", transient=True)

    def _send(self, local: Path, remote: str) -> None:
        path = PurePosixPath(remote)
        folder = path if local.is_dir() else path.parent
        script = 'mkdir -p -- "$1" && exec tar -xzf - -C "$1"'
        client = self._client(["sh", "-c", script, "sh", str(folder)])
        limit_s = copy_limit_s(local)
        sender = subprocess.Popen(
            client,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stop = threading.Timer(limit_s, os.killpg, (sender.pid, signal.SIGKILL))
        stop.start()
        try:
            assert sender.stdin is not None
            assert sender.stderr is not None
            with (
                contextlib.suppress(OSError),  # the other side's own words tell more
                sender.stdin as pipe,
                gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=1) as packed,
                tarfile.open(fileobj=packed, mode="w|") as tar,
            ):
                tar.add(local, arcname="." if local.is_dir() else path.name)
            said = sender.stderr.read(MOST_WORDS).decode(errors="replace").splitlines()
            while sender.stderr.read(2**16):
                pass
            status = sender.wait()
        finally:
            in_time = stop.is_alive()
            stop.cancel()
            with contextlib.suppress(ProcessLookupError):
                if sender.poll() is None:
                    os.killpg(sender.pid, signal.SIGKILL)
            sender.wait()
            sender.stderr.close()  # type: ignore[union-attr]
        if not in_time:
            raise TargetError(
                f"{self.name}: copying took longer than {limit_s:.0f} s", transient=True
            )
        if status in (_LOST_STATUS, -signal.SIGPIPE):
            raise self._lost(said, started=False)
        if status:
            said = [line for line in said if "due to previous errors" not in line]
            raise failure(self.name, "tar", status, said)


class _SharedConnection:
    """A connection that other ssh commands go through, where the user has none of the kind."""

    def __init__(self, ssh: str, options: Sequence[str], target: str) -> None:
        self._command = [ssh, *options]
        self._target = target
        self._wanted: bool | None = None
        self._folder: str | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., _SharedConnection] | None = None
        self._lock = threading.Lock()

    def options(self) -> list[str]:
        """Return options of a command that goes through it, or by itself where it is gone."""
        if self._folder is None:
            return []
        return ["-o", f"ControlPath={self._folder}/s", "-o", "ControlMaster=no"]

    def open(self) -> list[str] | None:
        """Open it where it is not, and return what ssh said where that failed, else None."""
        with self._lock:
            return self._open()

    def _open(self) -> list[str] | None:
        if self._wanted is None:
            self._wanted = self._users_own() is False
        if not self._wanted or (self._master is not None and self._master.poll() is None):
            return None
        self.close()
        folder = tempfile.mkdtemp(prefix="enas-")  # mode 700: nobody else can use the connection
        if len(folder) > LONGEST_SOCKET_PATH:
            os.rmdir(folder)
            self._wanted = False
            return None
        shared = ["-o", "ControlMaster=yes", "-o", f"ControlPath={folder}/s"]
        with tempfile.TemporaryFile() as said:
            self._master = subprocess.Popen(
                [self._command[0], *shared, *self._command[1:], "--", self._target, "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            self._folder = folder
            self._finalizer = weakref.finalize(self, _end, self._master, folder)
            end = time.monotonic() + 3 * CONNECT_S  # through jump hosts, each with its own limit
            while not os.path.exists(f"{folder}/s"):
                if self._master.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").splitlines()
                    self.close()
                    return lines
                time.sleep(0.02)
        return None

    def close(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._master = self._folder = self._finalizer = None

    def _users_own(self) -> bool | None:
        """Return whether the user's configuration shares connections; None where ssh tells not."""
        try:
            asked = run_client([*self._command, "-G", "--", self._target], CONNECT_S)
        except subprocess.TimeoutExpired:
            return None
        return any(
            line.startswith("controlpath ") and not line.endswith(" none")
            for line in asked.stdout.splitlines()
        )


def _end(master: "subprocess.Popen[bytes]", folder: str) -> None:
    with contextlib.suppress(OSError):
        assert master.stdin is not None
        master.stdin.close()
    with _killed_after(master, 2):
        master.wait()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _killed_after(process: "subprocess.Popen[bytes]", limit_s: float) -> Iterator[None]:
    timer = threading.Timer(limit_s, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
