"""The README's commands and its Python run as written, in order, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from statistics import median

import numpy as np
import pytest

from nas.verify import EXIT_BROKEN
from tests import small_build
from tests.conftest import ROOT, run_here
from tests.test_architecture import COMMANDS
from tests.test_public_tables import write_tables

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SHELL = [block for language, block in BLOCKS if language == "sh"]
LINES = [line for block in SHELL[2:] for line in block.splitlines() if line]


def test_it_opens_with_the_two_commands():
    main, tests = (block.strip() for block in SHELL[:2])
    assert "\n" not in main + tests
    setup = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert main == f"{setup}. && python -m nas.search --device snapdragon8gen1"
    assert tests == f'{setup}".[test]" && pytest'


def test_every_command_is_shown():
    shown = {line.split()[2] for line in LINES}
    assert shown == set(COMMANDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user has an official checkpoint and ImageNet; here random weights, grey pictures."""
    import torch
    from PIL import Image

    from supernet.model import create_model
    from supernet.weights.files import official_state_dict

    folder = tmp_path_factory.mktemp("readme")
    state = official_state_dict(create_model("efficientvit_b1"))
    torch.save({"state_dict": state}, folder / "efficientvit_b1_r224.pt")
    for number in range(1000):
        path = folder / "imagenet" / "val" / f"n{number:08d}"
        path.mkdir(parents=True)
        Image.new("RGB", (30, 20), (number % 256,) * 3).save(path / "picture.png")
    write_tables(folder / "tables")
    return folder


def shortened(arguments):
    """The same work on fewer pictures, steps and networks, but for one search."""
    least = {"--steps": "4", "--sample": "24", "--limit": "60"}
    if arguments[1].startswith("supernet."):
        pairs = zip([None, *arguments], arguments, strict=False)
        arguments = [least.get(before, word) for before, word in pairs]
        arguments = [word.replace("front#4", "front#0") for word in arguments]  # it may be short
    whole = {"--resume", "--sampler", "results/runs/orin"}
    if arguments[1] == "nas.search" and not whole & {*arguments}:
        return [*arguments, "--evaluations", "20000"]
    return [*arguments, "--limit", "60"] if arguments[1] == "supernet.train" else arguments


@pytest.mark.parametrize("line", LINES)
def test_every_command_runs(line, folder, monkeypatch):
    """One after the other in one folder: later ones use what earlier ones made."""
    program, *arguments = shlex.split(line)
    assert (program, arguments[0]) == ("python", "-m")
    arguments = shortened(arguments)
    small_build.patched(monkeypatch)
    done = run_here(*arguments[1:], cwd=folder)
    codes = (0, EXIT_BROKEN) if arguments[1] == "nas.verify" else (0,)  # the machine's verdict
    assert done.returncode in codes, done.stdout + done.stderr
    assert done.stdout
    if "--out" in arguments and "nas.search" in arguments:
        assert (folder / arguments[arguments.index("--out") + 1] / "front.png").exists()


def test_its_python_runs_and_prints(run):
    (code,) = [block for language, block in BLOCKS if language == "python"]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    latency, macs = done.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ ms, [\d.]+ ± [\d.]+ %", latency)
    assert macs == "2614475776"  # results/published/efficientvit_reference_counts.csv


def test_its_models_run(folder, monkeypatch):
    """The Python that names no output, in order, on a picture; with few networks and clicks."""
    assert (folder / "results" / "runs" / "orin").is_dir()  # the commands above made it
    code = "\n".join(block for language, block in BLOCKS if language == "py")
    assert code.count("create_model(") == 5
    assert code.count("points_per_side=8") == code.count("generate_masks(sam") == 1
    code = code.replace("points_per_side=8", "points_per_side=2")
    monkeypatch.setattr("nas.options.EVALUATIONS", 20_000)
    monkeypatch.chdir(folder)
    exec(code, {"picture": np.zeros((90, 120, 3), np.uint8)})


def test_the_weights_of_the_docs_run(tmp_path):
    import torch

    from supernet.model import create_model
    from supernet.weights.files import official_state_dict

    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
    torch.save(official_state_dict(create_model("efficientvit_b1")), tmp_path / "b1.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "for-the-official-code.pt").exists()


def test_files_and_links_exist():
    for target in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_errors_it_quotes_are_the_tables_own():
    from lut.device import find_table, get_device
    from lut.table import load_table

    for name, quoted in re.findall(r"^\| `([\w-]+)`.*?\| ([\d.]+) % \|", TEXT, re.MULTILINE):
        device = get_device(name)
        table = load_table(find_table(device, device.batch_for("imagenet")))
        assert f"{table.sidecar.error.mape_percent:.1f}" == quoted
    assert TEXT.count(" rows, ") >= 3


def test_the_accuracy_error_it_quotes_is_the_priors_own():
    from predictors.accuracy import load_prior

    (points, figures, networks) = re.findall(
        r"\(ImageNet\): error ([\d.]+) points on networks left out, (\d+) figures of (\d+)",
        TEXT,
    )[0]
    prior = load_prior("imagenet")
    assert points == f"{prior.arch_mae:.2f}"
    assert int(figures) == len(prior.residuals)
    assert int(networks) == len({row.name for row in prior.residuals})


def test_the_timings_it_quotes_are_those_of_the_record():
    record = json.loads((ROOT / "results" / "benchmarks" / "search.json").read_text())
    text = " ".join(TEXT.split())
    commands = dict(record["whole_commands"])
    help_s = median(commands.pop("--help")["wall_s"]["now"])
    wall_s = [median(command["wall_s"]["now"]) for command in commands.values()]
    ratios = [command["wall_s"]["ratio"] for command in commands.values()]
    peak_mb = max(command["peak_mb"] for command in commands.values())
    took = (
        f"took {min(wall_s):.1f} to {max(wall_s):.1f} s as a whole process and at most {peak_mb} MB"
    )
    assert f"{took}, `--help` {help_s:.2f} s" in text
    assert f"{min(ratios):.2f} to {max(ratios):.2f} of what 3,000 trials of NSGA-II took" in text
    assert f"{record['machine']}; {record['date'][:10]}" in text
    fronts = [command["front"] for command in commands.values()]
    assert all(front["proof"]["kind"] == "exact" for front in fronts)
    unmarked = [front["unmarked_percent"] for front in fronts]
    assert f"{min(unmarked):.0f} to {max(unmarked):.0f} % of their rows" in text
    per_s = record["evaluations_per_s"].values()
    assert f"{min(per_s) / 1e6:.1f} to {max(per_s) / 1e6:.1f} million networks a second" in text


def test_what_sharing_costs_is_quoted_from_the_record():
    record = json.loads((ROOT / "results" / "benchmarks" / "sharing.json").read_text())
    text = " ".join(TEXT.split())
    found = record["pairs"]["snapdragon8gen1 and orin"]["near"]
    taken_over = found["taken_over"]
    assert f"{found['regret_percent']['mean']:.0f} % of latency on the one that loses more" in text
    assert f"lose {100 * taken_over['snapdragon8gen1']['orin']:.0f} % on Orin" in text
    assert f"{100 * taken_over['orin']['snapdragon8gen1']:.0f} % on the phone" in text
    gap = found["gap_percent"]
    faster = f"is {gap['mean']:.1f} % faster there on average and {gap['worst']:.1f} % at worst"
    assert faster in text
    assert f"takes {record['whole_commands']['ratio']:.1f} times the time of one" in text


def test_the_errors_of_measured_tables_it_quotes_are_those_of_the_records():
    folder = ROOT / "results" / "benchmarks"
    names = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}
    records = {r: json.loads((folder / f"tables-{r}.json").read_text()) for r in names}
    for runtime, record in records.items():
        for build, label in (("full", "all blocks"), ("budget_3min", "`--budget 3min`")):
            minutes = record["builds"][build]["wall_seconds"] / 60
            found = record["validations"][build]
            raw, scaled = found["raw"], found["scaled"]
            row = f"| {names[runtime]}, {label} | {minutes:.1f} min | {raw['mape_percent']:.1f} % "
            row += f"| {scaled['mape_percent']:.1f} % | {scaled['within_5_percent']:.0f} % "
            assert row + f"| {scaled['kendall_tau']:.3f} |" in TEXT
            assert f"and {found['num_networks']} random\nnetworks" in TEXT
    text = " ".join(TEXT.split())

    def mape(runtime, scheme):
        return f"{records[runtime]['schemes'][scheme]['scaled']['mape_percent']:.1f}"

    hot, profiler = "isolated block, hot loop", "profiler, summed operators"
    macs, ours = "MACs, line fitted on these networks", ", with our regression"
    onnx, lite = "onnxruntime", "litert"
    said = f"were {mape(onnx, hot)} % (ONNX Runtime) and {mape(lite, hot)} % (LiteRT) off"
    assert f"{said}, ONNX Runtime's own profiler {mape(onnx, profiler)} %" in text
    assert f"very networks {mape(onnx, macs)} and {mape(lite, macs)} %" in text
    said = f"the hot loop of ONNX Runtime is {mape(onnx, hot + ours)} % off"
    assert f"{said}, its profiler {mape(onnx, profiler + ours)} %" in text
    for runtime, record in records.items():
        two = record["two_builds"]
        said = f"{two['mean_percent']:.1f} % on average and {two['worst_percent']:.1f} % at worst"
        assert f"{names[runtime]} {said}" in text
        assert record["date"][:10] in text


def test_the_comparisons_in_the_docs_are_those_of_the_records():
    text = (ROOT / "docs" / "models.md").read_text()
    folder = ROOT / "results" / "benchmarks"
    for row in json.loads((folder / "models.json").read_text())["comparisons"]:
        low, high = row["time_ratio_to_fastest"]["interval_95"]
        ratio = f"{row['time_ratio_to_fastest']['median']:.3f} ({low:.3f} to {high:.3f})"
        kind = "training step" if row["mode"] == "train" else "forward"
        line = f"| {row['network'].upper()}, batch {row['batch']}, {kind} | "
        line += f"{row['median_ms']['ours']:.0f} | {row['fastest_rival']} | {ratio} | "
        assert line + f"{row['memory_ratio_to_smallest']:.2f} |" in text
    mixers = json.loads((folder / "mixers.json").read_text())
    growth = [mixers["growth"][k] for k in ("relu_linear", "rwkv", "hyena", "retention", "softmax")]
    longer = " | ".join(f"{kind['over_smallest']['128']:.0f}" for kind in growth)
    assert f"| times longer | {longer} |" in text
    exponents = " | ".join(f"{kind['exponent_of_the_larger_half']:.2f}" for kind in growth)
    assert f"64 to 128 a side | {exponents} |" in text
    ratios = [row["ratio"] for row in mixers["softmax_over_relu_linear"].values()]
    assert ", ".join(f"{ratio:.1f}" for ratio in ratios) + " here" in text


def test_the_costs_of_sharing_in_the_docs_are_those_of_the_record():
    text = (ROOT / "docs" / "training.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "sandwich.json").read_text())

    for row in record["comparisons"]:
        line = f", batch {row['batch']}, {row['side']} px | {row['median_ms']['alone']:.0f} | "
        line += f"{_ratio(row['ratio'], 3)} | "
        if "null_ratio" in row:
            line = row["supernet"].upper() + line
            line += f"{_ratio(row['null_ratio'], 3)} | {_ratio(row['whole_step_ratio'], 3)} | "
            line += f"{row['memory_ratio']:.2f} |"
        assert f"| {line}" in text or f"Once-for-All, MobileNetV3{line}" in text


def test_what_compiling_gains_in_the_docs_is_that_of_the_record():
    text = (ROOT / "docs" / "training.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "compiling.json").read_text())

    names = {"b0": "B0 alone", "b1": "B1 alone", "tiny": "`tiny`, a supernet"}
    for row in record["comparisons"]:
        line = f"| {names[row['network']]}, batch {row['batch']}, {row['side']} px | "
        line += f"{row['median_ms']['plain']:.0f} | "
        line += f"{_ratio(row['ratio'], 2)} | {_ratio(row['null_ratio'], 2)} | "
        line += f"{row['first_step_seconds']:.0f} |"
        assert line in text
        assert row["ratio"]["interval_95"][1] > 1  # nowhere faster for certain


def test_the_ranking_by_shared_weights_in_the_docs_is_that_of_the_record():
    text = (ROOT / "docs" / "training.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "weight_sharing.json").read_text())
    ceiling = record["ceiling"]
    assert record["num_archs"] == 24
    assert f"{record['space']['size']:,} networks" in text
    assert f"(the ceiling) | {_tau(ceiling['kendall_tau'], ceiling['interval_95'])} |" in text
    rows = {"MACs": record["by MACs"], "parameters": record["by parameters"]}
    for name, row in record["supernets"].items():
        count = row["num_supernets"]
        rows[f"{count} supernet{'s' * (count > 1)}: {name}"] = row
    for name, row in rows.items():
        line = f"| {name} | {_tau(row['kendall_tau'], row['interval_95'])} "
        line += f"| {_tau(row['share_of_ceiling'], row['share_interval_95'])} "
        line += f"| {row['top5_overlap'] * 5:.1f} |"
        if gain := row.get("gain"):
            line += f" +{_tau(gain['tau'], gain['interval_95'])} |".replace("+-", "-")
        elif "gain" in row:
            line += " |"
        if "gain" in row:
            line += f" {row['mean_inherited']:.1f} |"
        assert line in text


def _ratio(found, digits):
    low, high = found["interval_95"]
    return f"{found['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _tau(value, interval):
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def test_what_pretraining_gains_in_the_docs_is_that_of_the_record():
    text = (ROOT / "docs" / "training.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "pretraining.json").read_text())
    for row in record["segmentation"]:
        scratch, pretrained = (
            sum(row["miou"][name]) / len(row["miou"][name])
            for name in ("from scratch", "pre-trained")
        )
        line = f"| {row['labels']} | {scratch:.1f} | {pretrained:.1f} "
        assert f"{line}| {row['gain']:+.1f} ± {row['gain_stderr']:.1f} |" in text


def test_what_real_pictures_teach_in_the_docs_is_that_of_the_record():
    text = (ROOT / "docs" / "data.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "real_pictures.json").read_text())
    assert {*record["tasks"]} == {"classification", "segmentation", "super_resolution"}
    for row in record["tasks"].values():
        line = f" | {row['no learning']:.1f} |"
        for name in ("embedded", "real", "embedded, then real"):
            found = row.get(name)
            line += f" {found['value']:.1f} ± {found['stderr']:.1f} |" if found else " |"
        assert line in text


def test_how_fast_pictures_load_in_the_docs_is_that_of_the_record():
    text = (ROOT / "docs" / "data.md").read_text()
    record = json.loads((ROOT / "results" / "benchmarks" / "loading.json").read_text())
    for name, row in record["rows"].items():
        line = f"| {name} | {row['loading_ms']:.2f} | "
        if row["step_ms"] is not None:
            line += f"{row['step_ms']:.2f} | {row['loading_over_step']:.2f} | "
        else:
            line += "| | "
        assert f"{line}{row['pictures_per_second_all_cores']:.0f} |" in text


def test_the_whole_way_it_quotes_is_that_of_the_record():
    record = json.loads((ROOT / "results" / "benchmarks" / "whole_way.json").read_text())
    assert [row["command"] for row in record["commands"]] == [
        line for line in LINES if line in {row["command"] for row in record["commands"]}
    ]
    text = " ".join(TEXT.split())
    wall, cpu = (record["seconds"][kind] / 60 for kind in ("wall", "cpu"))
    training = record["commands"][1]["seconds"]["cpu"] / 60
    assert f"took {wall:.0f} minutes ({cpu:.0f} of CPU, {training:.0f} of them to train" in text
    largest, smallest = (row["value"] for row in record["supernet"])
    assert f"network reach {largest:.1f} and {smallest:.1f} % top-1" in text
    inside = record["winner_in_the_supernet"]["rows"][0]["value"]
    assert record["winner_taken_out"]["metrics"]["top1"] == inside
    tuned, named = (record[k][0]["value"] for k in ("winner_fine_tuned", "named_network"))
    said = f"taken out {inside:.1f} % as inside the supernet, {tuned:.1f} % fine-tuned, B0 trained"
    assert f"{said} alone {named:.1f} %" in text
