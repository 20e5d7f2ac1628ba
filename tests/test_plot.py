"""The pictures: redrawn, overlaid, and opened in a real browser without a network."""

import random
import shutil
import subprocess

import pytest

from nas.front import Candidate, Front, read_front
from nas.pareto import pareto_front
from nas.plot import Plot
from nas.summary import gains_over
from supernet.named import named_arch
from supernet.space import get_space

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""


def a_front(title="Bench", metric="ImageNet top-1 [%]", factor=1.0):
    rng = random.Random(0)
    space = get_space("tiny")
    found = []
    for _ in range(60):
        ms = factor * rng.uniform(1, 100)
        accuracy = 60 + 10 * rng.random() * ms**0.2
        found.append(
            Candidate(space.sample(rng), ms, 0.1 * ms, accuracy, 0.5, 1.0, 1.0, 1.0, ms > 50)
        )
    baseline = Candidate(named_arch("b0"), 20.0 * factor, 1.0, 65.0, 0.4, 3.4, 0.1, 10.0)
    return Front(
        tuple(pareto_front(found)),
        {"b0@224": baseline},
        [(c.latency_ms, c.accuracy) for c in found],
        title,
        metric,
        "measured, error 1.0 % <on> 60 networks",
        "published",
    )


@pytest.fixture
def runs(tmp_path):
    for name, factor in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        a_front(f"Device {name}", factor=factor).write(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def size_of_png(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_run_is_redrawn_in_its_folder(runs, capsys):
    Plot((runs[0],)).run()
    assert size_of_png(runs[0] / "front.png") == (1350, 900)
    assert str(runs[0] / "front.html") in capsys.readouterr().out


def test_several_runs_share_a_picture(runs, tmp_path):
    Plot(runs, out=tmp_path / "both").run()
    page = (tmp_path / "both" / "front.html").read_text()
    assert "Device a" in page
    assert "Device b" in page
    assert size_of_png(tmp_path / "both" / "front.png") == (1350, 900)


def test_runs_of_different_metrics_are_refused(runs, fails, tmp_path):
    (tmp_path / "c").mkdir()
    a_front(metric="Cityscapes mIoU [%]").write(tmp_path / "c")
    assert "metric differs" in fails(Plot, "nas.plot", runs[0], tmp_path / "c")
    assert not (runs[0] / "front.png").exists()


def test_no_run_no_picture(fails, tmp_path):
    assert "no run folder" in fails(Plot, "nas.plot", tmp_path / "none")
    assert "at least one run" in fails(Plot, "nas.plot")


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_draws_in_a_browser_without_a_network(runs, tmp_path):
    Plot((runs[0],)).run()
    page = runs[0] / "front.html"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=15000",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    drawn = done.stdout
    assert "latency [ms per image]" in drawn
    assert drawn.count('class="point"') >= len(read_front(runs[0]).candidates)
    assert "&lt;on&gt;" in drawn  # text of a run is no HTML


def test_gains_compare_at_equal_latency():
    front = a_front()
    (line,) = gains_over(front)
    fast = [c for c in front.candidates if c.latency_ms <= 20.0]
    gain = max(c.accuracy for c in fast) - 65.0
    assert f"{gain:+.2f}" in line
    assert "b0@224" in line
    even = Front(
        front.candidates,
        {"x": Candidate(named_arch("b1"), 20.0, 1.0, 65.0 + gain, 0.4, 1, 1, 1)},
        [], "", "", "", "",
    )  # fmt: skip
    assert "indistinguishable" in gains_over(even)[0]
