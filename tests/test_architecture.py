"""The imports run one way, commands start fast and light, names stay what users rely on."""

import ast
import importlib
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
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
    "nas.sample",
    "nas.plot",
    "nas.devices",
    "nas.export",
    "nas.verify",
    "lut.build",
    "lut.calibrate",
    "lut.validate",
    "predictors.fit",
    "predictors.transfer",
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


FLOORS = {"supernet": 16, "lut": 12}  # modules beside the wings, at most
MOST_LINES = 400  # of a module
NOT_YET = {"lut/runtimes/timer.py"}  # one script, as it is pushed to targets as one file
MOST_STATEMENT_LINES, MOST_PARAMETERS = 60, 6  # of a function


def sources():
    for package in MAY_IMPORT:
        yield from sorted((ROOT / package).rglob("*.py"))


def import_graph(root):
    """{module: modules of ours that it imports}, late imports and TYPE_CHECKING counted."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for package in MAY_IMPORT
        for path in (root / package).rglob("*.py")
    }
    graph = {}
    for module, path in paths.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[module] = (names & paths.keys()) - {module}
    return graph


def circle_in(graph):
    """Modules that import each other in a circle; [] if there are none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    assert circle_in(import_graph(ROOT)) == []


def test_a_circle_is_found_however_it_is_hidden(tmp_path):
    for package in MAY_IMPORT:
        (tmp_path / package).mkdir()
    (tmp_path / "lut" / "a.py").write_text("def f():\n    from lut import b\n")
    (tmp_path / "lut" / "b.py").write_text("if TYPE_CHECKING:\n    import lut.c\n")
    (tmp_path / "lut" / "c.py").write_text("x = 1\n")
    assert circle_in(import_graph(tmp_path)) == []
    (tmp_path / "lut" / "c.py").write_text("from lut.a import f\n")
    assert set(circle_in(import_graph(tmp_path))) == {"lut.a", "lut.b", "lut.c"}


@pytest.mark.parametrize("package", FLOORS)
def test_ground_floors_are_small(package):
    modules = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= FLOORS[package], sorted(modules)


def test_modules_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := path.read_text().count("\n")) > MOST_LINES
    }
    assert long.keys() <= NOT_YET, long


def long_functions(text):
    """Functions of too many lines or parameters, `self` not counted, that no comment excuses."""
    lines, tree = text.splitlines(), ast.parse(text)
    methods = {
        id(function)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if not any(
            "staticmethod" in ast.dump(mark) for mark in getattr(function, "decorator_list", ())
        )
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = node.args
        parameters = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
        parameters -= id(node) in methods
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length <= MOST_STATEMENT_LINES and parameters <= MOST_PARAMETERS:
            continue
        first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
        head = lines[first - 2 : node.body[0].lineno]
        if not any("#" in line for line in head):
            yield node.name


def test_functions_are_short():
    assert {
        str(path.relative_to(ROOT)): names
        for path in sources()
        if (names := list(long_functions(path.read_text())))
    } == {}


def test_a_long_function_is_named():
    many = ", ".join("abcdefg")
    assert list(long_functions(f"def f({many}):\n    pass\n")) == ["f"]
    assert list(long_functions(f"# as the paper lists them\ndef f({many}):\n    pass\n")) == []
    assert list(long_functions(f"class A:\n    def f(self, {many[3:]}):\n        pass\n")) == []
    assert list(long_functions("def f():\n" + "    pass\n" * 60)) == ["f"]


# What docstrings of functions begin with; a new verb in the imperative is added here.
VERBS = """
    Accept Add Allow Append Apply Attend Average Begin Bring Build Call Capture Check Choose
    Compare Compile Compute Convert Convolve Copy Count Cut Declare Decode Do Draw Embed Encode
    End Enlarge Evaluate Exchange Fill Find Fit Fix Give Go Hand Hide Hold Join Judge Keep Learn
    Leave Let Limit List Load Log Look Make Map Measure Mix Move Multiply Name Normalise Open
    Order Pad Parse Prepare Print Put Raise Read Relate Remove Replace Resize Retain Return
    Round Run Say Scale Search Segment Send Set Show Sort Split Stack Start Store Sum Swap Take
    Tell Time Train Try Turn Undo Wait Write Yield
"""


def functions_without_a_verb(text):
    """Lines and names of functions whose docstring begins with none of VERBS.

    Those of `__init__` and its like may begin with arguments or errors: what they do is known.
    """
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if not docstring or (node.name.startswith("__") and node.name.endswith("__")):
            continue
        if docstring.split()[0].rstrip(".,:;") not in VERBS.split():
            yield f"{node.lineno} {node.name}"


def test_docstrings_of_functions_begin_with_a_verb():
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in sources()
        if (names := list(functions_without_a_verb(path.read_text())))
    }
    assert wrong == {}


def test_a_docstring_without_a_verb_is_named():
    for begin in ("The mean", "Pixels", "(B, C) -> (B,)", "Returns the mean", "Millijoules of it"):
        function = f'def f():\n    """{begin}."""\n'
        assert list(functions_without_a_verb(function)) == ["1 f"]
    assert list(functions_without_a_verb('def f():\n    """Return the mean."""\n')) == []
    assert list(functions_without_a_verb('def __init__():\n    """Raises ValueError."""\n')) == []


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
out = Path({str(tmp_path / "run")!r})
SearchCommand(device=("orin",), trials=60, evaluations=9000, out=out, quiet=True).run()
"""
    loaded = module_names(code)
    heavy = {"torch", "optuna", "scipy", "sklearn", "onnx", "onnxruntime", "ai_edge_litert"}
    assert loaded & heavy == set()
    assert "matplotlib" in loaded


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
