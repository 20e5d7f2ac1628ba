"""Files that are whole or not there, and records that tell how they came about."""

import json
import os
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.errors import RunError, UserError, check_choice, nearest
from results.files import write_json, write_text
from results.reading import read_json
from results.record import RunRecord
from results.runs import create_run_folder, locked, read_record


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
