"""This machine as a host, and what holds for every host: time limits, ends, facts, retries."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lut.targets.choose import get_host
from lut.targets.facts import parse_facts, parse_temperature_c, parse_thermal_status
from lut.targets.host import retried, run_merged, wait_until_cool
from lut.targets.local import Local
from results.errors import TargetError
from tests.conftest import ROOT
from tests.devices import NASTY, collect, gone, small_disk


@pytest.fixture
def host():
    return Local()


def test_standard_input_arrives_whole_and_unexpanded(host):
    for text in ("$(id) `id` \\n\n\nEND\n", "line\n" * 50_000):
        assert host.run(["cat"], timeout_s=10, stdin=text) == text
    assert host.run(["cat"], timeout_s=10, stdin="unended") == "unended\n"
    assert host.run(["cat"], timeout_s=10) == ""


def test_a_failure_names_program_status_and_last_words(host):
    with pytest.raises(TargetError, match=r"local: sh failed with exit status 3: second") as caught:
        host.run(["sh", "-c", "echo out; echo first >&2; echo second >&2; exit 3"], timeout_s=10)
    assert not caught.value.transient
    assert "\n" not in str(caught.value)
    with pytest.raises(TargetError, match="no program frobnicate"):
        host.run(["frobnicate"], timeout_s=10)
    with pytest.raises(TargetError, match="ended by signal 9"):
        host.run(["sh", "-c", "kill -9 $$"], timeout_s=10)


def test_secrets_in_the_environment_stay_out_of_errors(host, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2")
    with pytest.raises(TargetError) as caught:
        host.run(["sh", "-c", "exit 1", "hunter2"], timeout_s=10)
    assert "hunter2" not in str(caught.value)


def test_a_hung_command_is_ended_with_its_children(host, tmp_path):
    script = f"trap '' TERM; sleep 60 & echo $$ $! > {tmp_path}/pids; echo started >&2; wait"
    start = time.monotonic()
    with pytest.raises(TargetError, match=r"nothing from sh for 3 s; its last words: st") as caught:
        host.run(["sh", "-c", script], timeout_s=3)
    assert caught.value.transient
    assert time.monotonic() - start < 20
    for pid in (tmp_path / "pids").read_text().split():
        assert gone(pid)


def test_a_stream_comes_line_by_line_and_ends_when_it_is_closed(host, tmp_path):
    lines = host.stream(
        ["sh", "-c", f"echo $$ > {tmp_path}/pid; echo first; sleep 60"], idle_timeout_s=10
    )
    assert next(lines) == "first"
    lines.close()
    assert gone((tmp_path / "pid").read_text().strip())


def test_what_a_stream_yielded_stays_when_it_falls_silent(host):
    seen: list[str] = []
    lines = host.stream(["sh", "-c", "echo one; echo two; sleep 60"], idle_timeout_s=3)
    with pytest.raises(TargetError, match=r"for 3 s") as caught:
        collect(lines, seen)
    assert seen == ["one", "two"]
    assert caught.value.transient


def test_a_slow_stream_is_not_a_silent_one(host):
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"
    assert len(list(host.stream(["sh", "-c", script], idle_timeout_s=1.2))) == 8


def test_a_stream_that_fails_says_so_after_its_lines(host):
    seen: list[str] = []
    lines = host.stream(["sh", "-c", "echo one; echo why >&2; exit 7"], idle_timeout_s=10)
    with pytest.raises(TargetError, match="exit status 7: why"):
        collect(lines, seen)
    assert seen == ["one"]


def test_a_command_does_not_outlive_the_process_that_asked_for_it(tmp_path):
    """Killed without a chance to clean up, as by a user's second interrupt or the OOM killer."""
    program = (
        "from lut.targets.local import Local\n"
        "hung = 'echo $$; while :; do sleep 0.05; done'\n"
        "lines = Local().stream(['sh', '-c', hung], idle_timeout_s=9)\n"
        "print(next(lines), flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with parent:
        assert parent.stdout
        pid = parent.stdout.readline().strip()
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_a_full_disk_is_named_and_permanent(host, tmp_path):
    source = tmp_path / "models"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(400_000))
    with small_disk(tmp_path) as disk:
        for action in (
            lambda: host.push(source / "big", f"{disk}/big"),
            lambda: host.push(source, f"{disk}/all"),
            lambda: host.run(["cp", f"{source}/big", f"{disk}/copy"], timeout_s=10),
        ):
            with pytest.raises(TargetError, match="no space") as caught:
                action()
            assert not caught.value.transient


def test_both_outputs_come_in_one_text_with_the_status(host):
    assert run_merged(host, ["sh", "-c", "echo a; echo b >&2; exit 5"], timeout_s=10) == (
        5,
        "a\nb\n",
    )
    assert run_merged(host, ["printf", "%s", *NASTY[:3]], timeout_s=10)[1] == "".join(NASTY[:3])


def test_outputs_without_an_end_are_refused(host, monkeypatch):
    monkeypatch.setattr("lut.targets.process.MOST_LINE", 2**16)
    endless = ["sh", "-c", "yes | tr -d '\\n'"]
    with pytest.raises(TargetError, match=r"sh printed a line of more than"):
        host.run(endless, timeout_s=60)
    with pytest.raises(TargetError, match=r"sh printed a line of more than"):
        list(host.stream(endless, idle_timeout_s=60))
    monkeypatch.setattr("lut.targets.host.MOST_OUTPUT", 2**20)
    with pytest.raises(TargetError, match=r"yes printed more than 1 MB"):
        host.run(["yes"], timeout_s=60)
    lines = host.stream(["yes"], idle_timeout_s=60)  # as long as anybody takes them
    assert [next(lines) for _ in range(10_000)] == ["y"] * 10_000
    lines.close()
    assert host.run(["sh", "-c", "head -c 20000000 /dev/zero >&2; echo ok"], timeout_s=60) == "ok\n"


def test_a_status_that_is_none_is_an_error(monkeypatch):
    for text in ("", "x", "\n" + "9" * 5000, "\n-1"):
        monkeypatch.setattr(Local, "run", lambda *a, text=text, **b: text)
        with pytest.raises(TargetError, match="which is no status"):
            run_merged(Local(), ["tool"], timeout_s=1)


WIRELESS = "adb-13e75597-Upleco (2)._adb-tls-connect._tcp"


@pytest.fixture
def phones(tmp_path, monkeypatch):
    """adb as a stand-in that lists phones, and notes its arguments one a line."""
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    calls = tmp_path / "calls"

    def phones(listed):
        (tmp_path / "listed").write_text(listed)
        adb.write_text(
            "#!/bin/sh\n"
            f"if [ \"$*\" = devices ]; then cat '{tmp_path}/listed'; exit; fi\n"
            f"printf '%s\\n' \"$@\" > '{calls}'\nexit 1\n"
        )
        adb.chmod(0o755)
        return calls

    monkeypatch.setenv("PATH", str(adb.parent), prepend=":")
    return phones


@pytest.mark.parametrize(
    "serial",
    [
        WIRELESS,
        "R58M12ABCDE",
        "emulator-5554",
        "192.168.1.20:5555",
        "[fe80::1%wlan0]:5555",
        "???????? no permissions",
        'a\'b "c" $(id) `id`;d&e',
        "phone \u00fc",
    ],
)
def test_a_phone_is_named_as_adb_lists_it(phones, serial):
    calls = phones(f"List of devices attached\n{serial}\tdevice\nother\toffline\n\n")
    host = get_host(f"adb:{serial}")
    assert get_host("adb").name == host.name == f"adb:{serial}"
    with pytest.raises(TargetError):
        host.run(["true"], timeout_s=10)
    assert calls.read_text().splitlines()[:3] == ["-s", serial, "shell"]


def test_phones_to_choose_from_are_offered_as_a_shell_takes_them(phones):
    phones(f"List of devices attached\n{WIRELESS}\tdevice\nR58M12ABCDE\tdevice\n")
    with pytest.raises(TargetError, match="2 phones are attached") as caught:
        get_host("adb")
    assert f"'adb:{WIRELESS}', adb:R58M12ABCDE" in str(caught.value)
    with pytest.raises(TargetError, match=r"no phone 'R58M12ABCD'; did you mean 'R58M12ABCDE'"):
        get_host("adb:R58M12ABCD")


@pytest.mark.parametrize(
    "listed",
    [
        "a\tb\tc\td\n",
        "\t\t\n\tdevice\n",
        "-s\tdevice\n--help\tdevice\n",
        "x" * 1_000_000,
        "\tdevice\n" * 100_000,
        "a\x1b[2J\tdevice\n",
        "",
    ],
)
def test_whatever_adb_lists_ends_in_one_line(phones, listed):
    phones(listed)
    for target in ("adb:R5CT", "adb:-s"):
        with pytest.raises(TargetError) as caught:
            get_host(target)
        assert str(caught.value).isprintable()
    if "device" in listed:
        with pytest.raises(TargetError, match="no phone is attached"):
            get_host("adb")


def test_facts_of_this_machine(host):
    facts = host.facts()
    assert facts["machine"] == os.uname().machine
    assert facts["num_cpus"] == os.cpu_count()
    assert os.uname().release in facts["kernel"]
    celsius = host.temperature_c()
    assert celsius is None or 1 < celsius < 150


def test_facts_leave_out_what_is_unknown():
    facts = parse_facts(
        "os=Android 12\nmodel=samsung SM-S901B\nsoc= \nsoc=taro\nnum_cpus=8\nbattery_percent=?\n"
        "frequency=cpu0 walt 300000-1785600 kHz\nfrequency=cpu7 walt 806400-2995200 kHz\n"
        "governor=walt\ngovernor=walt\nnvpmodel=NV Power Mode: MAXN\nnvpmodel=0\ngarbage\n"
    )
    assert facts == {
        "os": "Android 12",
        "model": "samsung SM-S901B",
        "soc": "taro",
        "num_cpus": 8,
        "frequency": ["cpu0 walt 300000-1785600 kHz", "cpu7 walt 806400-2995200 kHz"],
        "governor": "walt",
        "nvpmodel": ["NV Power Mode: MAXN", "0"],
    }
    assert parse_facts("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "num_cpus=" + "9" * 5000,
        "memory_mb=\u0663",
        "cpu=" + "x" * 10_000_000,
        "\n".join(f"field{i}=1" for i in range(100_000)),
        "\n".join(f"gpu=card {i}" for i in range(100_000)),
        "cpu=a\x1b[2Jb",
        "=1\n==\na b=1\n\x00=1",
    ],
)
def test_facts_are_bounded_and_printable(text):
    facts = parse_facts(text)
    assert len(facts) <= 2000
    assert len(repr(facts)) < 200_000
    assert repr(facts).isprintable()
    assert "\x1b" not in str(facts.get("cpu"))


# Recorded on a Xiaomi 13T Pro with Android 16.
THERMAL_SERVICE = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=84.208, mType=0, mName=CPU, mStatus=0}
\tTemperature{mValue=42.2, mType=2, mName=BATTERY, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=57.9, mType=0, mName=CPU, mStatus=0}
\tTemperature{mValue=34.351, mType=3, mName=SKIN, mStatus=0}
Temperature static thresholds from HAL:
"""


@pytest.mark.parametrize(
    ("text", "celsius"),
    [
        ("zone 45000 cpu-thermal\nzone 51500 gpu-thermal\nzone 70000 wifi\n", 51.5),
        ("zone 38000 acpitz\nzone -274000 dead\n", 38.0),
        ("zone 0 cpu0\nzone  \nzone x cpu1\n", None),
        (THERMAL_SERVICE, 57.9),  # the current one, not the cached
        (THERMAL_SERVICE.replace("mType=0", "mType=9"), 57.9),
        ("", None),
        ("zone nan cpu\nzone inf cpu\nzone " + "9" * 5000 + " cpu\nzone 1e400 cpu\n", None),
        (THERMAL_SERVICE.replace("57.9", "--.."), 34.351),
        (THERMAL_SERVICE.replace("57.9", "9" * 5000), 34.351),
    ],
)
def test_temperature_is_that_of_the_warmest_processor_sensor(text, celsius):
    assert parse_temperature_c(text) == celsius


def test_androids_own_verdict():
    assert parse_thermal_status(THERMAL_SERVICE) == 0
    assert parse_thermal_status("Thermal Status: " + "9" * 5000) is None
    assert parse_thermal_status("\n" * 100_000) is None
    assert parse_thermal_status("\tThermal Status: 3\n") == 3
    assert parse_thermal_status("") is None


class Warm:
    """A host that cools by ten degrees whenever it is left alone."""

    def __init__(self, celsius):
        self.celsius, self.slept = celsius, 0.0

    def temperature_c(self):
        return self.celsius

    def sleep(self, seconds):
        self.slept += seconds
        self.celsius = self.celsius and self.celsius - 10


@pytest.mark.parametrize(
    ("celsius", "limit_s", "slept", "note"),
    [
        (85, 60, 15, None),
        (49, 60, 0, None),
        (None, 60, 0, None),
        (95, 10, 10, "still 75 °C after waiting 10 s for 60 °C"),
    ],
)
def test_waits_until_cool_but_not_forever(celsius, limit_s, slept, note):
    host: Any = Warm(celsius)
    told = wait_until_cool(
        host, below_c=60, limit_s=limit_s, sleep=host.sleep, clock=lambda: host.slept
    )
    assert told == note
    assert host.slept == slept


def test_only_what_may_pass_is_tried_again():
    for transient, attempts in ((True, 3), (False, 1)):
        waits: list[float] = []
        calls: list[int] = []

        def fail(calls=calls, transient=transient):
            calls.append(1)
            raise TargetError("no", transient=transient)

        with pytest.raises(TargetError, match="no"):
            retried(fail, sleep=waits.append)
        assert len(calls) == attempts
        assert waits == [0.5, 1.0][: attempts - 1]
    answers = iter([TargetError("lost", transient=True), "done"])

    def second():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retried(second, sleep=lambda _: None) == "done"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("locale", "did you mean local?"),
        ("ssh:/board", "did you mean ssh://[user@]host[:port]?"),
        ("ssh://", "did you mean ssh://[user@]host[:port]?"),
        ("ssh://-oProxyCommand=id", "choose from local, ssh://"),
        ("ssh://board;id", "choose from local, ssh://"),
        ("ssh://board:99x", "choose from local, ssh://"),
        ("abd:R5CT", "did you mean adb:SERIAL?"),
        ("adb:-s x", "did you mean adb:SERIAL?"),
        ("adb:", "did you mean adb:SERIAL?"),
        ("adb:--help", "did you mean adb:SERIAL?"),
        ("ssh://board:0", "no port 0 of a target"),
        ("ssh://board:99999", "no port 99999 of a target"),
        ("ssh://$HOME@board", "choose from local, ssh://"),
        ("ssh://board name", "choose from local, ssh://"),
        ("x" * 100_000, "choose from local, ssh://"),
        ("quantum", "choose from local, ssh://"),
    ],
)
def test_an_unknown_target_names_the_nearest_form(target, told):
    with pytest.raises(TargetError) as caught:
        get_host(target)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        *("ssh://me:hunter2@board", "me:hunter2@board", "ssh:/me:hunter2@board"),
        *("ssh//me:hunter2@board", "SSH://me:hunter2@board", "ssh://me:hun/hunter2@board"),
        *("me:hun@hunter2@board", "ssh:me:hunter2@board:22", ":hunter2@board"),
    ],
)
def test_a_password_is_refused_and_not_repeated(target):
    with pytest.raises(TargetError, match="holds no password") as caught:
        get_host(target)
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("local", "local"),
        ("ssh://board", "ssh://board"),
        ("ssh://me@board.local:2222", "ssh://me@board.local:2222"),
        ("ssh://me@[fe80::1]:22", "ssh://me@fe80::1:22"),
        ("ssh://me@[fe80::1%eth0.100]", "ssh://me@fe80::1%eth0.100"),
        ("ssh://me@corp.example@board", "ssh://me@corp.example@board"),
        ("ssh://CORP\\me@board", "ssh://CORP\\me@board"),
        ("ssh://machine$@board", "ssh://machine$@board"),
        ("ssh://gerät_1", "ssh://gerät_1"),
    ],
)
def test_a_target_names_its_host(target, name):
    host = get_host(target, python="python3.12")
    assert host.name == name
    assert host.python == "python3.12"
    assert get_host("local").python == sys.executable
