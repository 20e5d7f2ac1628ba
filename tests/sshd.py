"""A real OpenSSH server on loopback, with keys and a configuration of its own, for one test run."""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SSHD = "/usr/sbin/sshd"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sshd:
    """`options` are ssh's, to reach it as host `board`, or `behind` by way of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        for name in ("host_key", "user_key", "other_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
            )
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\n"
            + ("PerSourcePenalties no\n" if self._version() >= (9, 8) else "")
        )
        key = (folder / "host_key.pub").read_text().split()
        self.known = folder / "known hosts"  # a space in the path, as users have
        self.known.write_text(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")
        self.options = self.configure("ssh_config")
        self.start()

    def configure(self, name, *, key="user_key", known=None):
        """Write a user's configuration; returns ssh's options to use it."""
        path = self.folder / name
        path.write_text(
            f"Host board behind\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  User {getpass.getuser()}\n  IdentityFile {self.folder}/{key}\n"
            f'  IdentitiesOnly yes\n  UserKnownHostsFile "{known or self.known}"\n'
            "  GlobalKnownHostsFile /dev/null\n"
            "Host behind\n  ProxyJump board\n"
        )
        return ["-F", str(path)]

    def start(self):
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"],
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def sessions(self):
        """The server's processes of the open connections."""
        found = []
        for pid in _descendants(self.process.pid):
            with contextlib.suppress(OSError):  # one that has ended
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    found.append(pid)
        return found

    def cut(self):
        """Kill every open connection, as a network that is gone; the server itself stays."""
        for pid in self.sessions():
            send(pid, signal.SIGKILL)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()

    @staticmethod
    def _version():
        told = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
        found = re.search(r"OpenSSH_(\d+)\.(\d+)", told)
        assert found
        return int(found[1]), int(found[2])


def send(pid, number):
    """A signal, to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _descendants(pid):
    """Of a process, the deepest last."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            children.append(int(stat.parent.name))
    return children + [deeper for child in children for deeper in _descendants(child)]
