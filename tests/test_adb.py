"""Phones behind adb: the real client and server, and a stand-in for the phone's side of them."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lut.runtimes.benchmark_model import Invocation, time_model
from lut.targets.adb import Adb, find_adb, serials
from lut.targets.choose import get_host
from lut.targets.host import wait_until_cool
from results.errors import TargetError
from tests.conftest import ROOT
from tests.devices import NASTY, collect
from tests.sshd import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("adb") is None, reason="needs the program adb: apt-get install adb"
)
GOLDEN = ROOT / "tests" / "golden" / "benchmark_model"


class Phone:
    """A stand-in, connected to the adb server under a serial number."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.old = "--legacy" in options
        (folder / "bin").mkdir()
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "adbd.py", folder, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.serial = f"127.0.0.1:{self.process.stdout.readline().strip()}"
        self.connect()

    def connect(self):
        subprocess.run(["adb", "connect", self.serial], check=True, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while serials().get(self.serial) != "device":
            assert time.monotonic() < end
            time.sleep(0.05)

    def host(self):
        return Adb(self.serial, temporary=str(self.folder))

    def program(self, name, text):
        path = self.folder / "bin" / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)

    def kill(self):
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def unplug(self):
        self.kill()
        subprocess.run(["adb", "disconnect", self.serial], check=False, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An adb server on a port of its own, with keys of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("ANDROID_SERIAL", raising=False)
        subprocess.run(["adb", "start-server"], check=True, stderr=subprocess.DEVNULL)
        yield
        subprocess.run(["adb", "kill-server"], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module", params=["new", "old"])
def phone(server, tmp_path_factory, request):
    """With shell_v2, and without, as before Android 7."""
    options = ["--legacy"] if request.param == "old" else []
    phone = Phone(tmp_path_factory.mktemp("phone"), *options)
    yield phone
    phone.unplug()


@pytest.fixture
def other(server, tmp_path):
    (tmp_path / "phone").mkdir()
    phone = Phone(tmp_path / "phone")
    yield phone
    phone.unplug()


def test_arguments_and_status_arrive_as_they_are(phone):
    host = phone.host()
    assert host.run(["printf", "%s\n", *NASTY], timeout_s=20).splitlines() == NASTY
    assert host.run(["cat"], timeout_s=20, stdin="$(id)\nEND\n") == "$(id)\nEND\n"
    reason = "" if phone.old else ": why"
    with pytest.raises(TargetError, match=f"adb:127.*: sh failed with exit status 9{reason}"):
        host.run(["sh", "-c", "echo why >&2; exit 9"], timeout_s=20)
    with pytest.raises(TargetError, match=r"there is no program python3\.9"):
        host.run(["python3.9"], timeout_s=20)


def test_a_phone_that_dies_ends_the_stream_and_comes_back(other):
    seen: list[str] = []

    def die():
        if len(seen) == 3:
            other.kill()

    host = other.host()
    lines = host.stream(["sh", "-c", "while :; do echo tick; sleep 0.05; done"], idle_timeout_s=20)
    with pytest.raises(TargetError, match=f"{host.name}: the connection was lost") as caught:
        collect(lines, seen, die)
    assert caught.value.transient
    assert len(seen) >= 3
    with pytest.raises(TargetError, match=f"{host.name}: .*(offline|not found)") as caught:
        host.run(["true"], timeout_s=20)
    assert caught.value.transient
    with pytest.raises(TargetError, match=host.name):
        host.push(ROOT / "LICENSE", f"{other.folder}/x")


def test_chooses_among_phones(phone, tmp_path_factory):
    assert get_host("adb").name == f"adb:{phone.serial}"
    assert get_host(f"adb:{phone.serial}").run(["echo", "it"], timeout_s=20) == "it\n"
    with pytest.raises(TargetError, match=f"did you mean '{phone.serial}'"):
        get_host(f"adb:{phone.serial}9")
    second = Phone(tmp_path_factory.mktemp("second"))
    try:
        with pytest.raises(TargetError, match="2 phones are attached; choose from adb:127"):
            get_host("adb")
        assert second.host().run(["pwd"], timeout_s=20) == f"{second.folder}\n"
        assert phone.host().run(["pwd"], timeout_s=20) == f"{phone.folder}\n"
    finally:
        second.unplug()


def test_without_phones_says_what_to_do(server, monkeypatch):
    monkeypatch.setattr("lut.targets.adb.serials", dict)
    for target in ("adb", "adb:R5CT"):
        with pytest.raises(TargetError, match="no phone is attached; enable USB debugging"):
            get_host(target)
    monkeypatch.setattr("lut.targets.adb.serials", lambda: {"R5CT": "unauthorized"})
    with pytest.raises(TargetError, match="R5CT is unauthorized"):
        get_host("adb")
    with pytest.raises(TargetError, match="allow USB debugging on the phone's screen"):
        get_host("adb:R5CT")


def test_without_a_client_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(TargetError, match="no program adb on this machine; install Android's"):
        find_adb()


def test_facts_and_temperature_of_a_phone(other):
    other.program(
        "getprop",
        "case $1 in ro.product.model) echo SM-S901B;; ro.product.manufacturer) echo samsung;;\n"
        "ro.soc.model) echo SM8450;; ro.soc.manufacturer) echo QTI;;\n"
        "ro.build.version.release) echo 12;; ro.board.platform) echo taro;; esac\n",
    )
    other.program(
        "dumpsys",
        "case $1 in battery) printf 'Current Battery Service state:\\n  level: 81\\n';;\n"
        "thermalservice) printf 'Thermal Status: 2\\nCurrent temperatures from HAL:\\n"
        "\\tTemperature{mValue=61.5, mType=0, mName=CPU4, mStatus=2}\\n';; esac\n",
    )
    host = other.host()
    facts = host.facts()
    assert facts["model"].endswith("samsung SM-S901B")
    assert facts["soc"] == "QTI SM8450, taro"
    assert "Android 12" in facts["os"]
    assert facts["battery_percent"] == 81
    assert facts["thermal_status"] == 2
    assert host.thermal_status() == 2
    assert host.temperature_c() is not None
    assert "thermal status 2 after waiting 0 s" in str(
        wait_until_cool(host, below_c=200, limit_s=0)
    )


def test_times_a_model_on_a_phone(phone):
    """The binary, the mask and a model whose name a shell would take apart."""
    binary = phone.program(
        "benchmark_model", f"printf '%s\\n' \"$@\" > $0.args; cat {GOLDEN}/2024_cpu.txt >&2\n"
    )
    with phone.host().folder() as folder:
        phone.host().push(GOLDEN, f"{folder}/models")
        timing = time_model(
            phone.host(),
            binary,
            f"{folder}/models/a $(b).tflite",
            Invocation(
                threads=1,
                cpu_mask="1",
                runs=50,
                warmup_runs=10,
                min_secs=0.5,
                max_secs=30,
                timeout_s=60,
            ),
        )
    assert (timing.count, timing.mean_us, timing.median_us) == (50, 105784, 105718)
    told = Path(f"{binary}.args").read_text().splitlines()
    assert f"--graph={folder}/models/a $(b).tflite" in told
    assert "--use_xnnpack=true" in told
