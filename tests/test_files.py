"""Files that are whole or not there, and records that tell how they came about."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.console import main
from results.errors import RunError, UserError, check_choice, nearest
from results.files import write_json, write_text
from results.reading import read_json
from results.record import RunRecord, command_line
from results.runs import create_run_folder, locked, own_path, read_record

ROOT = Path(__file__).parents[1]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_other_programs_cannot_read(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_files_get_the_usual_mode(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "private"
    path.touch(mode)
    path.chmod(mode)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "new"


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        before = (tmp_path / name).stat().st_mode
        with pytest.raises(RunError, match="cannot write"):
            write_text(tmp_path / name, "x")
        assert (tmp_path / name).stat().st_mode == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_record_survives_json(tmp_path):
    record = RunRecord("python -m x", {"seed": 1}, {"latency": "measured"}, seed=1)
    write_json(tmp_path / "run.json", record.to_dict())
    assert read_json(tmp_path / "run.json", dict[str, Any]) == json.loads(
        json.dumps(record.to_dict())
    )
    assert read_record(tmp_path)["settings"] == {"seed": 1}


def test_run_folders_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        folder = create_run_folder(None, "orin")
        (folder / "run.json").write_text("{}")
        folders.append(folder)
    assert len(set(folders)) == 3
    assert all(f.parts[:2] == ("results", "runs") for f in folders)


def test_processes_that_start_together_have_a_folder_each(tmp_path):
    """Twelve that make eight folders each, and hold them, in the same seconds."""
    code = """
import sys
from results.runs import create_run_folder, locked
sys.stdin.readline()
for _ in range(8):
    folder = create_run_folder(None, "job")
    with locked(folder):
        print(folder)
"""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(12)
    ]
    for job in jobs:  # all have begun
        assert job.stdin is not None
        job.stdin.write("go\n")
        job.stdin.flush()
    folders = [line for job in jobs for line in job.communicate(timeout=120)[0].splitlines()]
    assert [job.returncode for job in jobs] == [0] * 12
    assert len(folders) == len(set(folders)) == 96
    assert all((tmp_path / folder).is_dir() for folder in folders)


def test_a_folder_given_as_out_is_one_run_s(tmp_path):
    folder = create_run_folder(tmp_path / "run", "job")
    write_json(folder / "run.json", {"settings": {}})
    with pytest.raises(RunError, match="holds another run; nothing was written"):
        create_run_folder(tmp_path / "run", "job")


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "../new", "loop"])
def test_a_link_out_of_a_run_is_refused(tmp_path, target):
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.write_text("mine")
    (run / "loop").symlink_to("loop")
    for name in ("study.log", ".lock"):
        (run / name).symlink_to(target)
        with pytest.raises(RunError, match="link out of the run folder"):
            own_path(run, name)
    with pytest.raises(RunError, match="link out of the run folder"), locked(run):
        pass
    assert outside.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_links_within_a_run_and_to_a_run_are_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "real.log").touch()
    (tmp_path / "run" / "study.log").symlink_to("real.log")
    (tmp_path / "link").symlink_to("run")
    assert own_path(tmp_path / "link", "study.log") == tmp_path / "link" / "study.log"
    with locked(tmp_path / "link"):
        assert (tmp_path / "run" / ".lock").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys):
    @dataclass(frozen=True)
    class Work:
        def run(self):
            with locked(tmp_path, "go on: python -m x --resume y"):
                raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        main(Work, "x", [])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted; go on: python -m x --resume y\n"


@pytest.mark.parametrize(
    "password", ["s3cret", "s3cr@et", "s3/cret", "s3:cret", "a s3cret", "s3'cret", "s3%20cret"]
)
def test_a_typed_password_is_in_no_command_line_nor_record(monkeypatch, password):
    url = f"mysql+pymysql://u:{password}@host/x?ssl_key=s3cret"
    for words in (["--storage", url], [f"--storage={url}"]):
        monkeypatch.setattr("sys.argv", ["/x/supernet/evaluate.py", *words, "--out", "a b"])
        line = command_line("supernet.evaluate") or ""
        assert "cret" not in line
        assert line.endswith("--out 'a b'")
        assert "u:***@host/x?***" in line
    record = RunRecord("x", {"storage": "mysql://u:s3cret@h/x"}, {"of": ["redis://:s3cret@h"]})
    assert "cret" not in json.dumps(record.to_dict())


@pytest.mark.parametrize("program", ["", "-c", "/x/notebook.py", "/x/supernet/train.py"])
def test_a_call_from_python_has_no_command_line(monkeypatch, program):
    monkeypatch.setattr("sys.argv", [program, "--flag-of-somebody-else"])
    assert command_line("supernet.evaluate") is None


def test_a_lock_excludes_and_is_freed(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=8), max_size=20))
def test_nearest_never_fails_and_names_a_choice(value, choices):
    text = nearest(value, choices)
    assert text.endswith(")")
    if value in choices:
        check_choice("x", value, choices)
    else:
        with pytest.raises(UserError):
            check_choice("x", value, choices)


def test_numbers_are_near_by_value():
    assert "did you mean '224'" in nearest("230", ["128", "224", "288"])


def test_a_pipe_in_the_locks_place_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(RunError, match="cannot write to"), locked(tmp_path):
        pass
