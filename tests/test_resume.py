"""run.json of a run that goes on: typed by the flags of its command."""

import json

import pytest

from lut.build import Build
from nas.options import UNRECORDED, SearchOptions
from nas.search import SearchCommand
from results.errors import Interrupted, RunError
from results.files import write_json
from results.resume import flags_of, resumed
from results.runs import command_of, open_run, read_record
from supernet.train import Train

SETTINGS = SearchOptions(device=("orin",), max_latency_ms=("2.5",)).settings()


def with_setting(name, value):
    return json.loads(json.dumps(SETTINGS | {name: value}))


def go_on(settings, tmp_path):
    return resumed(SearchOptions(), settings, tmp_path, unrecorded=UNRECORDED)


def test_flags_come_back_as_they_were_given(tmp_path):
    found = go_on(json.loads(json.dumps(SETTINGS)), tmp_path)
    assert found == SearchOptions(device=("orin",), max_latency_ms=("2.5",))
    assert go_on(with_setting("max_latency_ms", ["2"]), tmp_path).max_latency_ms == ("2",)
    assert flags_of(found, UNRECORDED) == SETTINGS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 10**400),
        ("trials", 10**18),
        ("trials", 2.5),
        ("trials", True),
        ("seed", "0"),
        ("seed", None),
        ("device", "orin"),
        ("device", [1]),
        ("device", {"orin": 1}),
        ("task", ["classification"]),
        ("table", "a\0b"),
        ("data", 3),
        ("max_latency_ms", 1e300),
        ("max_latency_ms", "2"),
        ("freeze", [["x"]]),
        ("accuracy", None),
        ("accuracy", "x" * 10**6),
    ],
)
def test_a_setting_of_another_type_is_named(tmp_path, name, value):
    with pytest.raises(RunError, match=f"its {name}: damaged, or of another layout") as caught:
        go_on(with_setting(name, value), tmp_path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", '{"settings": []}', '{"settings": {}', "[" * 100_000, "1" * 5000,
        '{"settings": {"a": ' + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_record_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("nas.search", "nas.search"),
        ("python -m nas.search --device orin --out lut.build", "nas.search"),
        ("lut.build", "lut.build"),
        ("nas.searching", "nas.searching"),
        ("python x.py", None),
        ("", None),
        (None, None),
        (["nas.search"], None),
        (7, None),
    ],
)
def test_the_command_of_a_record(command, name):
    assert command_of({"command": command}) == name
    assert command_of({}) is None


def test_a_run_of_another_command_is_named_as_what_it_is(tmp_path, fails):
    for module, command in (
        ("nas.search", SearchCommand),
        ("lut.build", Build),
        ("supernet.train", Train),
    ):
        for own in ("nas.search", "lut.build", "supernet.train", "lut.validate"):
            run = tmp_path / own
            write_json(run / "run.json", {"command": own, "settings": {}})
            said = fails(command, module, "--resume", run)
            if own == module:
                assert "begun by an older version" in said
                continue
            assert f"{run} is a run of {own}, not of {module}" in said
            assert (f"`python -m {own} --resume {run}`" in said) == (own != "lut.validate")


class TestRun:
    def test_the_first_record_stays(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sys.argv", ["/x/lut/build.py", "--budget", "5min"])
        folder = tmp_path / "run"
        with open_run("lut.build", folder, "name") as run:
            assert run.is_new
            run.record({"budget": "5min"}, {"space": 1}, 7, outcome=None)
        first = read_record(folder, "lut.build")
        assert first["command"] == "lut.build"
        assert first["command_line"] == "python -m lut.build --budget 5min"
        assert (first["seed"], first["sources"], first["outcome"]) == (7, {"space": 1}, None)
        monkeypatch.setattr("sys.argv", ["/x/lut/build.py", "--resume", str(folder)])
        with open_run("lut.build", None, "name", resume=folder) as run:
            assert not run.is_new
            run.record({"budget": "9min"}, {"space": 2}, 8, outcome=3)
        assert read_record(folder) == first | {"settings": {"budget": "9min"}, "outcome": 3}

    def test_a_record_of_an_older_search_is_read_and_mended(self, tmp_path):
        line = "python -m nas.search --device orin"
        write_json(tmp_path / "run.json", {"command": line, "settings": {}, "started": "then"})
        with open_run("nas.search", None, "x", resume=tmp_path) as run:
            run.record({"trials": 5}, {}, 0)
        record = read_record(tmp_path, "nas.search")
        assert (record["command"], record["command_line"]) == ("nas.search", line)
        assert record["started"] == "then"

    def test_two_processes_cannot_hold_it(self, tmp_path):
        with open_run("nas.search", tmp_path / "run", "x") as run:
            run.record({}, {}, 0)
            with (
                pytest.raises(RunError, match="in use by another process"),
                open_run("nas.search", None, "x", resume=run.folder),
            ):
                pass

    def test_a_folder_taken_meanwhile_is_refused(self, tmp_path, monkeypatch):
        def somebody_else(out, name, flag, *, resumes):
            write_json(out / "run.json", {"command": "nas.search", "settings": {}})
            return out

        monkeypatch.setattr("results.runs.create_run_folder", somebody_else)
        with (
            pytest.raises(RunError, match="taken by another run; choose another --run-folder"),
            open_run("lut.build", tmp_path / "run", "x", flag="--run-folder"),
        ):
            pass

    def test_an_interruption_says_how_to_go_on(self, tmp_path):
        folder = tmp_path / "a run"
        with (
            pytest.raises(Interrupted, match=r"go on: python -m nas\.search --resume '.*a run'"),
            open_run("nas.search", folder, "x"),
        ):
            raise KeyboardInterrupt
