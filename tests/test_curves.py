"""Logs of a training: whole after a kill, drawn in the end."""

import time

import pytest

from results.errors import RunError
from supernet.training.curves import CURVE, EVALUATIONS, EVENTS, Curves, draw_curve, read_rows
from supernet.training.trainer import Report


def report(step, loss=1.0):
    return Report(step, (64, 128), 0.1, loss, None if step % 2 else loss / 2, 3.0)


@pytest.fixture
def run(tmp_path):
    with Curves(tmp_path, 0) as curves:
        for step in range(1, 6):
            curves.step(report(step, 1 / 3), 0.5)
            curves.figures(step, "largest", {"top1": 10.0 * step, "top1_stderr": 1.5, "n": 8.0})
    return tmp_path


def test_a_row_holds_what_was_measured(run):
    rows = read_rows(run / CURVE)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert float(rows[1]["loss"]) == 1 / 3  # to the bit
    assert (rows[0]["distill"], rows[1]["distill"]) == ("", str(1 / 6))
    assert rows[0]["resolution"] == "64x128"
    found = read_rows(run / EVALUATIONS)[2]
    assert list(found.values()) == ["3", "largest", "top1", "30.0", "1.5", "8"]


def test_rows_are_there_as_soon_as_they_are_added(tmp_path):
    with Curves(tmp_path, 0) as curves:
        curves.step(report(1), 0.5)
        assert len(read_rows(tmp_path / CURVE)) == 1


def test_going_on_drops_what_came_after_the_checkpoint(run):
    with (run / CURVE).open("a") as file:
        file.write("6,64,0.1,0.")  # cut off
    with Curves(run, 3) as curves:
        curves.step(report(4, 0.25), 0.5)
    rows = read_rows(run / CURVE)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[-1]["loss"] == "0.25"
    assert [row["step"] for row in read_rows(run / EVALUATIONS)] == ["1", "2", "3"]


def test_events_tell_the_same(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    time.sleep(1.1)  # files of events are read in the order of their names, which tell seconds
    with Curves(run, 3) as curves:
        curves.step(report(4, 0.25), 0.5)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / 3)) for step in (1, 2, 3)] + [(4, 0.25)]
    assert [e.step for e in events.Scalars("largest/top1")] == [1, 2, 3]


def test_the_picture_is_drawn(run, tmp_path):
    path = draw_curve(run, "top1")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    assert draw_curve(tmp_path / "nothing", "top1") is None


@pytest.mark.parametrize(
    "text",
    [
        "my notes\nabout this run",
        "step,resolution,lr,loss,distill,grad_norm,seconds\n1,32,0.1,1.0,,1.0,0.5\nmy note",
        "step,resolution,lr,loss,distill,grad_norm,seconds\nx,32,0.1,1.0,,1.0,0.5\n",
        "step,resolution,lr,loss,distill,grad_norm,seconds\n1,32,0.1,high,,1.0,0.5\n",
        "step,resolution,lr,loss,distill,grad_norm,seconds\n1,32\n",
        "step,resolution,lr,loss,distill,grad_norm,seconds\n" + "9" * 5000 + ",1,1,1,1,1,1\n",
        "no line end",
        "",
    ],
)
def test_what_is_no_log_is_neither_cut_nor_replaced(run, text):
    figures = (run / EVALUATIONS).read_bytes()
    (run / CURVE).write_text(text)
    with pytest.raises(RunError, match=r"curve\.csv"):
        Curves(run, 2)
    assert (run / CURVE).read_text() == text
    assert (run / EVALUATIONS).read_bytes() == figures


def test_all_logs_are_read_before_one_is_cut(run):
    curve = (run / CURVE).read_bytes()
    (run / EVALUATIONS).write_text("mine")
    with pytest.raises(RunError, match=r"evaluations\.csv"):
        Curves(run, 2)
    assert (run / CURVE).read_bytes() == curve


@pytest.mark.parametrize("name", [CURVE, EVALUATIONS, EVENTS])
def test_links_out_of_a_run_are_not_written_through(run, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    files = [path for path in (elsewhere, *elsewhere.parent.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(RunError, match="is a link out of the run folder"):
        Curves(run, 2)
    assert {path: path.read_bytes() for path in files} == before


def test_a_full_disk_is_named(tmp_path):
    with Curves(tmp_path, 0) as curves:
        curves._curve._file.close()
        curves._curve._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        with pytest.raises(RunError, match=r"cannot write .*curve.csv: No space left on device"):
            curves.step(report(1), 0.5)
