"""What every host does alike: this machine, one behind ssh, phones behind adb of either age."""

import os
import shutil
from pathlib import Path

import pytest

from lut.targets.local import Local
from lut.targets.ssh import Ssh
from results.errors import TargetError
from tests.devices import NASTY, gone, names, small_disk
from tests.sshd import SSHD, Sshd
from tests.test_adb import Phone
from tests.test_adb import server as adb_server

__all__ = ["adb_server"]  # a fixture

SECONDS = 20
HAS_SSH = Path(SSHD).exists() and shutil.which("ssh") is not None
HAS_ADB = shutil.which("adb") is not None


@pytest.fixture(
    scope="module",
    params=[
        "local",
        pytest.param("ssh", marks=pytest.mark.skipif(not HAS_SSH, reason="needs OpenSSH")),
        pytest.param("phone", marks=pytest.mark.skipif(not HAS_ADB, reason="needs adb")),
        pytest.param("old phone", marks=pytest.mark.skipif(not HAS_ADB, reason="needs adb")),
    ],
)
def host(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    if request.param == "local":
        yield Local()
    elif request.param == "ssh":
        server = Sshd(folder)
        host = Ssh("board", ssh_options=server.options)
        yield host
        host.close()
        server.stop()
    else:
        request.getfixturevalue("adb_server")
        phone = Phone(folder, *(["--legacy"] if "old" in request.param else []))
        yield phone.host()
        phone.unplug()


@pytest.fixture
def source(tmp_path):
    """A folder with names that a shell would take apart, a program and binary data."""
    source = tmp_path / "a source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "model $(x) 'y'").write_bytes(os.urandom(300_000))
    (source / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "run").chmod(0o755)
    return source


class TestPush:
    def test_a_folder_arrives_as_it_is(self, host, source):
        with host.folder() as folder:
            host.push(source, f"{folder}/to $(touch oops)/it's")
            copied = Path(f"{folder}/to $(touch oops)/it's")
            assert names(copied) == names(source)
            model = Path("deep") / "model $(x) 'y'"
            assert (copied / model).read_bytes() == (source / model).read_bytes()

    def test_a_folders_contents_go_into_one_that_is_there(self, host, source):
        with host.folder() as folder:
            host.push(source, f"{folder}/models")
            (source / "run").write_text("#!/bin/sh\necho ran again\n")
            (source / "more").write_text("more")
            host.push(source, f"{folder}/models")
            assert names(Path(folder) / "models") == names(source)
            assert host.run([f"{folder}/models/run"], timeout_s=SECONDS) == "ran again\n"

    def test_a_file_keeps_its_mode_and_gets_its_folders(self, host, source):
        with host.folder() as folder:
            host.push(source / "run", f"{folder}/new/-it")
            assert host.run([f"{folder}/new/-it"], timeout_s=SECONDS) == "ran\n"

    def test_what_is_not_there_is_named(self, host, tmp_path):
        with pytest.raises(TargetError, match=r"no .*nowhere to be copied"):
            host.push(tmp_path / "nowhere", "/tmp/x")

    def test_a_full_disk_is_named_and_permanent(self, host, tmp_path):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "big").write_bytes(os.urandom(1_000_000))
        with small_disk(tmp_path) as disk:
            for local, remote in (("models/big", "big"), ("models", "all")):
                with pytest.raises(TargetError, match="no space for the models") as caught:
                    host.push(tmp_path / local, f"{disk}/{remote}")
                assert not caught.value.transient
                assert str(caught.value).startswith(host.name)


class TestFolder:
    def test_it_is_fresh_and_goes_in_the_end(self, host):
        with host.folder() as folder, host.folder() as other:
            assert folder != other
            assert names(Path(folder)) == []
        assert not Path(folder).exists()
        assert not Path(other).exists()

    def test_it_goes_even_when_its_use_fails(self, host):
        with pytest.raises(ZeroDivisionError), host.folder() as folder:
            raise ZeroDivisionError
        assert not Path(folder).exists()


class TestRun:
    def test_arguments_and_input_arrive_as_they_are(self, host):
        assert host.run(["printf", "%s\n", *NASTY], timeout_s=SECONDS).splitlines() == NASTY
        for text in ("$(id) `id` \\n\n\nEND\n", "unended\n"):
            assert host.run(["cat"], timeout_s=SECONDS, stdin=text) == text
        assert host.run(["cat"], timeout_s=SECONDS) == ""

    def test_a_failure_names_host_program_and_status(self, host):
        with pytest.raises(TargetError, match=r"sh failed with exit status 9") as caught:
            host.run(["sh", "-c", "echo why >&2; exit 9"], timeout_s=SECONDS)
        assert str(caught.value).startswith(host.name)
        assert not caught.value.transient
        with pytest.raises(TargetError, match="no program frobnicate") as caught:
            host.run(["frobnicate"], timeout_s=SECONDS)
        assert not caught.value.transient

    def test_a_hung_command_is_ended_with_its_children(self, host, tmp_path):
        script = f"trap '' TERM HUP; sleep 60 & echo $$ $! > {tmp_path}/pids; wait"
        with pytest.raises(TargetError, match="nothing from sh for 2 s") as caught:
            host.run(["sh", "-c", script], timeout_s=2)
        assert caught.value.transient
        assert all(gone(pid) for pid in (tmp_path / "pids").read_text().split())


class TestStream:
    def test_lines_come_as_they_are_printed_and_closing_ends_the_command(self, host, tmp_path):
        script = f"echo $$ > {tmp_path}/pid; echo first; sleep 60"
        lines = host.stream(["sh", "-c", script], idle_timeout_s=SECONDS)
        assert next(lines) == "first"
        lines.close()
        assert gone((tmp_path / "pid").read_text().strip())

    def test_what_was_given_counts_where_it_fails(self, host):
        lines = host.stream(["sh", "-c", "echo one; exit 7"], idle_timeout_s=SECONDS)
        assert next(lines) == "one"
        with pytest.raises(TargetError, match="exit status 7"):
            next(lines)
