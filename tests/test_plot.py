"""The pictures: redrawn, overlaid, and opened in a real browser without a network."""

import json
import random
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest

from nas.front import Candidate, Front, read_front
from nas.options import SearchOptions
from nas.page import figure_of
from nas.plot import Plot
from nas.result import Outcome, SearchResult
from nas.summary import gains_over, print_front
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.pareto import pareto_front

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""


def a_front(title="Bench", metric="ImageNet top-1 [%]", factor=1.0):
    rng = random.Random(0)
    space = get_space("tiny")
    found = []
    for _ in range(60):
        ms = factor * rng.uniform(1, 100)
        accuracy = 60 + 10 * rng.random() * ms**0.2
        found.append(
            Candidate(
                space.sample(rng), ms, 0.1 * ms, accuracy, 0.5, 1.0, 1.0, 1.0, ms > 50, ms > 80
            )
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


def a_result(front, folder=Path("run"), *, notes=(), interrupted=False, **flags):
    options = SearchOptions(device=("orin",), **flags)
    outcome = Outcome(60, 60, len(front.candidates), interrupted, 1.0)
    return SearchResult(options, folder, front, outcome, notes)


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


def test_names_are_no_formulas(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    a_front(metric="$^$ top-1 [%]").write(run)
    Plot((run,)).run()
    assert size_of_png(run / "front.png") == (1350, 900)


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


def test_plotly_knows_every_property_of_the_page():
    figure = figure_of([a_front(), a_front("another", factor=2.0)])
    checked = go.Figure({"data": figure["data"], "layout": figure["layout"]})
    assert [len(trace.x) for trace in checked.data[:2]] == [60, len(a_front().candidates)]
    assert checked.layout.xaxis.type == "log"


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


def with_baseline(accuracy, std=0.4, latency_ms=20.0):
    baseline = Candidate(named_arch("b1"), latency_ms, 1.0, accuracy, std, 1.0, 1.0, 1.0)
    return replace(a_front(), baselines={"b1@224": baseline})


def test_gains_compare_at_equal_latency():
    best = max(c.accuracy for c in a_front().candidates if c.latency_ms <= 20.0)
    (line,) = gains_over(with_baseline(65.0))
    assert f"{best - 65.0:+.2f}" in line
    assert "b1@224" in line
    assert "indistinguishable" not in line


@pytest.mark.parametrize(
    ("gain", "std", "close"),
    [(0.6, 0.5, False), (0.4, 0.5, True), (-0.4, 0.5, True), (-0.6, 0.5, False), (0.9, 1.2, True)],
)
def test_only_what_lies_below_one_standard_deviation_is_indistinguishable(gain, std, close):
    """The front's own std is 0.5; of equals the difference has that of either."""
    best = max(c.accuracy for c in a_front().candidates if c.latency_ms <= 20.0)
    (line,) = gains_over(with_baseline(best - gain, std))
    assert f"{gain:+.2f}" in line
    assert ("indistinguishable" in line) == close


def test_a_gain_by_extrapolation_says_so():
    assert "extrapolated" in gains_over(with_baseline(60.0, latency_ms=90.0))[0]
    assert "extrapolated" not in gains_over(with_baseline(60.0, latency_ms=20.0))[0]


def test_no_run_is_drawn_over(runs, fails):
    Plot((runs[0],)).run()
    before = (runs[0] / "front.png").read_bytes()
    says = fails(Plot, "nas.plot", *runs, "--out", runs[0])
    assert "not an empty folder" in says
    assert (runs[0] / "front.png").read_bytes() == before


def test_text_of_a_run_is_no_formula(tmp_path):
    (tmp_path / "odd").mkdir()
    a_front(title=r"Box $\frac$ [/b] <i>").write(tmp_path / "odd")
    Plot((tmp_path / "odd",)).run()
    Plot((tmp_path / "odd", tmp_path / "odd"), out=tmp_path / "two").run()
    assert size_of_png(tmp_path / "two" / "front.png") == (1350, 900)


def test_a_narrow_terminal_keeps_a_line_a_network(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    front = a_front(title="Box [/b]")
    print_front(a_result(front, Path("it's") / "run", notes=("note [x]",)))
    shown = capsys.readouterr().out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "Box [/b]" in plain
    assert shlex.split(plain.strip().splitlines()[-1])[-1].startswith("it's/run#")
    rows = [line for line in plain.splitlines() if re.match(r" *\d+\*? .*±", line)]
    assert len(rows) == min(15, len(front.candidates))
    for line, candidate in zip(rows[:1], front.candidates[:1], strict=True):
        assert f"{candidate.accuracy:.2f}" in line
        assert candidate.arch.describe() not in line
    assert front.candidates[0].arch.describe() in plain


def test_within_a_budget_the_most_accurate_is_named_with_its_margin(capsys):
    front = a_front()
    best = front.candidates[-1]
    limit = {"max_latency_ms": best.latency_ms + 0.001}
    print_front(a_result(front, interrupted=True, **limit))
    shown = capsys.readouterr().out
    assert f"#{len(front.candidates) - 1}, " in shown
    assert shown.strip().endswith(f"'run#{len(front.candidates) - 1}'")
    assert "--max-latency-ms" in shown  # 10 % of error do not fit into 0.001 ms
    assert "go on: python -m nas.search --resume run" in shown
    print_front(a_result(front, max_latency_ms=2 * best.latency_ms))
    assert "--max-latency-ms" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["candidates"][0].update(latency_ms="3"),
        lambda d: d["candidates"][0].update(latency_ms=None),
        lambda d: d["candidates"][0].update(latency_ms=-1),
        lambda d: d["candidates"][0].update(accuracy=float("nan")),
        lambda d: d["candidates"][0].update(latency_extrapolated="no"),
        lambda d: d.update(candidates=[]),
        lambda d: d.update(trials=[1]),
        lambda d: d.pop("metric"),
    ],
)
def test_a_damaged_front_is_refused(runs, fails, damage):
    path = runs[0] / "front.json"
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    assert "damaged" in fails(Plot, "nas.plot", runs[0])


def edited(run, change):
    """Give front.json another text; return it."""
    path = run / "front.json"
    path.write_text(change(path.read_text()))
    return path.read_bytes()


FIRST_MS = re.compile(r'"latency_ms": [0-9.e+-]+')


OF_NUMBERS = [  # and of titles: the networks beside them can be read
    lambda text: FIRST_MS.sub('"latency_ms": 1e-320', text, count=1),
    lambda text: FIRST_MS.sub('"latency_ms": 1' + "0" * 400, text, count=1),
    lambda text: FIRST_MS.sub('"latency_ms": 1e999', text, count=1),
    lambda text: FIRST_MS.sub('"latency_ms": true', text, count=1),
    lambda text: text.replace('"title": "Device a"', '"title": ["a", "b"]'),
    lambda text: text.replace('"trials": [', '"trials": [[1e308, 1], '),
    lambda text: text.replace('"trials": [', '"trials": [[1, 2, 3], '),
    lambda text: text.replace('"baselines": {', '"baselines": {"x": null, '),
]
OF_ALL = [
    lambda text: text.replace('"title": "Device a"', '"title": ' + "[" * 100_000),
    lambda text: text.replace('"metric": "', '"metric": {"a": "'),
    lambda text: text.replace('"family": "b"', '"family": 1e400', 1),
    lambda text: re.sub(r'"stages": \[', '"stages": [[], ', text, count=1),
    lambda text: text[:-20],
    lambda text: "[]",
    lambda text: "",
]


@pytest.mark.parametrize("change", OF_NUMBERS + OF_ALL)
def test_a_front_of_other_types_is_one_line(runs, fails, change):
    kept = edited(runs[0], change)
    for said in (
        fails(Plot, "nas.plot", runs[0]),
        fails(Plot, "nas.plot", *runs, "--out", runs[0].parent / "both"),
    ):
        assert "front.json" in said
        assert len(said) < 1300
    assert not (runs[0].parent / "both").exists()
    assert (runs[0] / "front.json").read_bytes() == kept


@pytest.mark.parametrize("change", OF_ALL)
def test_so_it_is_where_a_network_of_it_is_named(runs, fails, change):
    from nas.predict import Predict

    edited(runs[0], change)
    for name in (f"{runs[0]}#0", runs[0]):
        said = fails(Predict, "nas.predict", "--device", "orin", "--arch", name)
        assert "front.json" in said
        assert len(said) < 1300


@pytest.mark.parametrize("change", OF_NUMBERS)
def test_its_networks_can_be_named_where_other_parts_are_damaged(runs, capsys, change):
    from nas.predict import Predict

    edited(runs[0], change)
    Predict(device=("orin",), arch=f"{runs[0]}#0", json=True).run()
    assert json.loads(capsys.readouterr().out)["latency_ms"] > 0


def test_trials_at_the_bounds_are_drawn(runs):
    """A latency below half a nanosecond is written as 0; official networks may be far away."""
    edited(
        runs[0],
        lambda text: text.replace('"trials": [', '"trials": [[0, 0], [1e15, 1e15], [1e-320, 1], '),
    )
    Plot((runs[0],), quiet=True).run()
    assert size_of_png(runs[0] / "front.png") == (1350, 900)


def test_a_long_title_makes_no_larger_picture(runs):
    edited(runs[0], lambda text: text.replace('"Device a"', json.dumps("long title " * 900)))
    Plot((runs[0],), quiet=True).run()
    Plot(runs, out=runs[0].parent / "both", quiet=True).run()
    assert size_of_png(runs[0] / "front.png") == (1350, 900)


def test_a_run_of_another_command_has_no_front(tmp_path, fails):
    from nas.predict import Predict
    from nas.search import SearchCommand
    from results.files import write_json

    trained = tmp_path / "trained"
    write_json(trained / "run.json", {"command": "supernet.train", "settings": {"seed": 0}})
    said = fails(Plot, "nas.plot", trained)
    assert "is a run of supernet.train, which has no front" in said
    assert "supernet.train" in fails(
        Predict, "nas.predict", "--device", "orin", "--arch", f"{trained}#0"
    )
    said = fails(SearchCommand, "nas.search", "--resume", trained)
    assert "is a run of supernet.train, not of nas.search" in said
    assert f"python -m supernet.train --resume {trained}" in said
