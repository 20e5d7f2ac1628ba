"""Hosts behind ssh, against a real OpenSSH server on loopback: as with any board on a desk."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lut.targets.choose import get_host
from lut.targets.ssh import Ssh
from results.errors import TargetError
from tests.conftest import ROOT
from tests.devices import collect, gone
from tests.sshd import SSHD, Sshd, send

pytestmark = pytest.mark.skipif(
    not Path(SSHD).exists() or shutil.which("ssh") is None,
    reason=f"needs OpenSSH's server at {SSHD} and its client: apt-get install openssh-server",
)
TICKS = ["sh", "-c", "while :; do echo tick; sleep 0.05; done"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def host(server):
    host = Ssh("board", ssh_options=server.options)
    yield host
    host.close()


@pytest.fixture
def fails(server):
    """The error of a host that cannot be reached."""

    def fails(target="board", **changes):
        options = server.configure("wrong_config", **changes)
        host = Ssh(target, ssh_options=options)
        start = time.monotonic()
        with pytest.raises(TargetError) as caught:
            host.run(["true"], timeout_s=10)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - start < 30
        return caught.value

    return fails


def test_where_nothing_can_be_written_is_told(host, tmp_path):
    with pytest.raises(TargetError, match=r"ssh://board: tar failed .*(mkdir|nowhere)"):
        host.push(tmp_path, "/proc/nowhere")


def test_commands_share_a_connection(host, server):
    """A command opens no connection of its own: the server counts one login for all."""
    before = (server.folder / "log").read_text().count("Accepted publickey")
    for _ in range(4):
        host.run(["true"], timeout_s=20)
    assert (server.folder / "log").read_text().count("Accepted publickey") == before + 1


def test_a_users_own_sharing_is_left_alone(server, tmp_path):
    config = tmp_path / "config"
    own = f"Host *\n  ControlPath {tmp_path}/own\n  ControlMaster auto\n  ControlPersist 30\n"
    config.write_text(own + (server.folder / "ssh_config").read_text())
    host = Ssh("board", ssh_options=["-F", str(config)])
    try:
        assert host.run(["echo", "through it"], timeout_s=20) == "through it\n"
        assert (tmp_path / "own").exists()
    finally:
        subprocess.run(
            ["ssh", "-F", config, "-O", "exit", "board"], capture_output=True, check=False
        )


def test_reaches_a_host_by_way_of_another(server):
    host = Ssh("behind", ssh_options=server.options)
    before = (server.folder / "log").read_text().count("Accepted publickey")
    assert host.run(["echo", "behind"], timeout_s=30) == "behind\n"
    assert (server.folder / "log").read_text().count("Accepted publickey") == before + 2
    host.close()


def test_a_target_takes_its_options_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("EFFICIENTVIT_NAS_SSH_OPTIONS", f"-F '{server.folder}/ssh_config'")
    host = get_host("ssh://board", python="python4")
    assert host.name == "ssh://board"
    assert host.run(["echo", "it"], timeout_s=20) == "it\n"
    with pytest.raises(TargetError, match="there is no program python4; install it there"):
        host.run([host.python, "-c", "pass"], timeout_s=20)


def test_options_that_cannot_be_read_are_named(monkeypatch):
    monkeypatch.setenv("EFFICIENTVIT_NAS_SSH_OPTIONS", "-o 'x")
    with pytest.raises(TargetError, match=r"EFFICIENTVIT_NAS_SSH_OPTIONS is .*No closing quot"):
        Ssh("nowhere")


def test_a_cut_connection_ends_the_stream_and_its_command_and_is_opened_again(host, server):
    seen: list[str] = []

    def cut():
        if len(seen) == 4:
            server.cut()

    script = ["sh", "-c", "echo $$; while :; do echo tick; sleep 0.05; done"]
    with pytest.raises(TargetError, match=r"ssh://board: .*(lost|closed|reset|Broken)") as caught:
        collect(host.stream(script, idle_timeout_s=20), seen, cut)
    assert caught.value.transient
    assert len(seen) >= 4
    assert gone(seen[0])
    assert host.run(["echo", "again"], timeout_s=20) == "again\n"


def test_a_connection_that_is_cut_once_is_no_error(host, server, tmp_path):
    """The command is run again, on a new connection, where the first was cut under it."""
    mark = tmp_path / "mark"
    script = f"[ -e '{mark}' ] && echo second && exit; touch '{mark}'; sleep 60"

    def cut():
        while not mark.exists():
            time.sleep(0.02)
        server.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    assert host.run(["sh", "-c", script], timeout_s=20) == "second\n"
    cutter.join()


def test_a_network_that_swallows_everything_is_noticed(server):
    """No reset, no close: the machine is gone, and only ssh's own questions tell."""
    host = Ssh(
        "board",
        ssh_options=[*server.options, "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1"],
    )
    seen: list[str] = []
    frozen: list[int] = []

    def freeze():
        if len(seen) == 3:
            frozen.extend(server.sessions())
            for pid in frozen:
                send(pid, signal.SIGSTOP)

    try:
        with pytest.raises(TargetError, match="ssh://board") as caught:
            collect(host.stream(TICKS, idle_timeout_s=30), seen, freeze)
        assert caught.value.transient
    finally:
        for pid in frozen:
            send(pid, signal.SIGCONT)
        host.close()


def test_a_command_does_not_outlive_the_process_that_asked_for_it(server):
    program = (
        "import sys\n"
        "from lut.targets.ssh import Ssh\n"
        "host = Ssh('board', ssh_options=sys.argv[1:])\n"
        "hung = 'echo $$; while :; do sleep 0.05; done'\n"
        "print(next(host.stream(['sh', '-c', hung], idle_timeout_s=30)), flush=True)\n"
        "lines = host.stream(['sh', '-c', hung], idle_timeout_s=30)\n"
        "print(next(lines), flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, *server.options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with parent:
        assert parent.stdout
        closed, running = (parent.stdout.readline().strip() for _ in range(2))
        assert gone(closed)  # its generator was dropped
        assert Path(f"/proc/{running}").exists()
        parent.send_signal(signal.SIGKILL)
    assert gone(running)


def test_an_unknown_host_key_says_what_to_do(fails):
    error = fails(known="/dev/null")
    assert "host key is unknown: connect once by `ssh board` and compare" in str(error)
    assert not error.transient


def test_a_changed_host_key_says_what_to_do(fails, server, tmp_path):
    other = (server.folder / "other_key.pub").read_text().split()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {other[0]} {other[1]}\n")
    error = fails(known=tmp_path / "known")
    assert "host key has changed" in str(error)
    assert not error.transient


def test_a_key_that_is_not_taken_is_permanent(fails):
    error = fails(key="other_key")
    assert "does not let us in" in str(error)
    assert not error.transient


@pytest.mark.parametrize(
    ("said", "started", "told", "transient"),
    [
        ("ssh: Could not resolve hostname b: Name or service not known", False, "no such host", 0),
        ("ssh: Could not resolve hostname b: Temporary failure in name resolution", False, "b", 1),
        ("ssh: connect to host b port 22: Connection timed out", False, "timed out", 1),
        ("kex_exchange_identification: read: Connection reset by peer", False, "reset by peer", 1),
        ("b: Permission denied (publickey).", False, "does not let us in", 0),
        (
            "cat: /etc/shadow: Permission denied",
            True,
            "the connection was lost",
            1,
        ),  # the command's
        ("Timeout, server b not responding.", True, r"lost \(Timeout, server b not", 1),
        ("", True, "the connection was lost", 1),
    ],
)
def test_tells_what_may_pass_from_what_will_not(said, started, told, transient):
    error = Ssh("b", ssh_options=[])._lost([said] if said else [], started=started)
    assert re.search(told, str(error))
    assert error.transient == bool(transient)


def test_a_machine_that_is_off_may_come_back(fails, server):
    server.stop()
    try:
        error = fails()
    finally:
        server.start()
    assert "Connection refused" in str(error)
    assert error.transient


def test_without_a_client_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="no program ssh on this machine; install"):
        Ssh("board")


def test_facts_come_in_one_connection(host):
    facts = host.facts()
    assert facts["machine"] == os.uname().machine
    assert facts["num_cpus"] == os.cpu_count()
