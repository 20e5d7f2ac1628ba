"""The imports run one way, commands start fast and light, names stay what users rely on."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "results": set(),
    "supernet": {"results"},
    "lut": {"supernet", "results"},
    "predictors": {"lut", "supernet", "results"},
    "nas": {"predictors", "lut", "supernet", "results"},
}
COMMANDS = [
    "nas.search",
    "nas.predict",
    "nas.plot",
    "nas.devices",
    "lut.build",
    "lut.calibrate",
    "lut.validate",
    "supernet.evaluate",
    "supernet.extract",
    "supernet.train",
]


def imports(source):
    """Top-level packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def violations(root):
    return [
        f"{path.relative_to(root)} imports {name}"
        for package, allowed in MAY_IMPORT.items()
        for path in sorted((root / package).rglob("*.py"))
        for name in imports(path.read_text())
        if name in (set(MAY_IMPORT) | {"tests"}) - allowed - {package}
    ]


def test_imports_run_one_way():
    assert violations(ROOT) == []


def test_a_broken_import_rule_is_named(tmp_path):
    for package in MAY_IMPORT:
        (tmp_path / package).mkdir()
    (tmp_path / "supernet" / "cost.py").write_text("def f():\n    from lut.table import Table\n")
    assert violations(tmp_path) == ["supernet/cost.py imports lut"]


def test_init_files_are_empty():
    found = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("__init__.py")]
    assert ROOT / "supernet" / "tasks" / "__init__.py" in found
    assert not any(path.read_text() for path in found)


def module_names(code):
    """Modules that are loaded after `code` ran in a fresh process."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module({command!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""
    loaded = module_names(code)
    heavy = {"torch", "optuna", "numpy", "scipy", "matplotlib", "plotly", "PIL", "safetensors"}
    heavy |= {"sklearn", "onnx", "onnxruntime", "ai_edge_litert"}
    assert loaded & heavy == set()


def test_a_whole_search_loads_no_pytorch(tmp_path):
    code = f"""
from pathlib import Path
from nas.search import SearchCommand
SearchCommand(device=("orin",), trials=60, out=Path({str(tmp_path / "run")!r}), quiet=True).run()
"""
    loaded = module_names(code)
    assert "optuna" in loaded
    assert "torch" not in loaded


def test_the_search_itself_knows_neither_tables_nor_predictors():
    loaded = module_names("import nas.engine.study")
    assert not {name for name in loaded if name.split(".")[0] in ("lut", "predictors", "torch")}


@pytest.mark.parametrize("name", ["arch", "resolve", "space", "blocks", "cost", "official"])
def test_descriptions_of_networks_need_no_packages(name):
    loaded = module_names(f"import supernet.{name}")
    assert loaded & {"torch", "numpy", "pandas"} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_main_and_help(command):
    assert callable(importlib.import_module(command).main)
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"python -m {command}" in done.stdout


def test_every_module_with_a_main_is_listed_here():
    found = {
        f"{path.parent.name}.{path.stem}"
        for package in MAY_IMPORT
        for path in (ROOT / package).glob("*.py")
        if "\ndef main() -> None:" in path.read_text()
    }
    assert found == set(COMMANDS)


def test_a_misspelt_flag_names_the_nearest():
    done = subprocess.run(
        [sys.executable, "-m", "nas.search", "--devise", "orin"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "nas.devices"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "Broken" not in said
