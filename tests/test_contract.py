"""What every mixer and local block must have, and that a stranger can add one."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lut.builders import onnx_mixers, tflite_mixers
from lut.builders.network import build_network
from lut.builders.weights import StateWeights
from lut.calibration import transfer
from lut.measuring.context import group_of
from results.errors import ArchError
from supernet import cost
from supernet.arch import HEADED, LOCAL_KINDS, MIXER_KINDS, MIXERS, UNEXPANDED
from supernet.blocks import Block
from supernet.cost import cost_of
from supernet.layers import mixers
from supernet.model import module_of
from supernet.sharing.extremes import smallest_of
from supernet.sharing.slices import slices_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from tests import toy_local_block
from tests.seeded import seeded_state
from tests.toy_mixer import EDITS, KIND, ROOT, tree_with_toy
from tests.zeroing import calibrate, zeroed

TABLES: dict[str, dict[str, Any]] = {
    "supernet/layers/mixers.py": mixers.MIXERS,
    "lut/builders/onnx_mixers.py": onnx_mixers.MIXERS,
    "lut/builders/tflite_mixers.py": tflite_mixers.MIXERS,
}
COUNTED_WHOLE = ("relu_linear", "softmax")  # the others' scans and transforms PyTorch counts not
EPS, TOLERANCE = 1e-5, 1e-5
WIDTHS = ("16", "32", "64,96", "128,192")  # of the stages of a small supernet
every_mixer = pytest.mark.parametrize("kind", MIXER_KINDS)
every_local_block = pytest.mark.parametrize("kind", LOCAL_KINDS)


def mixer_block(kind, height=14, width=11):
    """32 channels, and what else a mixer of that kind has."""
    heads, dim = (2, 16) if kind in HEADED else (0, 0)
    scales = (5,) if kind == "relu_linear" else ()
    block = Block(kind, 32, 32, height, width, num_heads=heads, head_dim=dim, scales=scales)
    return replace(block, residual=True, name="block")


def local_block(kind, height=14, width=11):
    """A downsampling block from 24 to 32 channels; its hidden width is four times the input's."""
    mid = 24 if kind in UNEXPANDED else 96
    block = Block(kind, 24, 32, height, width, mid_channels=mid, kernel_size=5, stride=2)
    return replace(block, activation="hswish", name="block")


def seeded_module(block):
    """A module in float64 of numbers that float32 holds, and the same for a builder."""
    module = module_of(block, EPS)
    shapes = [(name, tensor.shape) for name, tensor in module.state_dict().items()]
    state = {name: tensor.float() for name, tensor in seeded_state(shapes).items()}
    module.load_state_dict(state)
    weights = StateWeights({f"block.{name}": tensor.numpy() for name, tensor in state.items()})
    return module.double().eval(), weights


def picture_for(block):
    shape = (1, block.in_channels, block.height, block.width)
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def difference(output, reference):
    return np.abs(output - reference).max() / np.abs(reference).max()


def run_onnx(file, picture):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: picture})
    return output


def run_tflite(file, picture):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_content=file, num_threads=1
    )
    interpreter.allocate_tensors()
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(entry["index"], np.ascontiguousarray(np.moveaxis(picture, 1, -1)))
    interpreter.invoke()
    return np.moveaxis(interpreter.get_tensor(out["index"]), -1, 1)


RUN = {"onnx": run_onnx, "tflite": run_tflite}


@every_mixer
def test_the_largest_spaces_offer_it(kind):
    for task in ("classification", "segmentation"):
        for part in get_space("all", task=task).parts:
            assert kind in part.dimensions["stage4.mixer"]
            assert part.dimensions["stage4.mixer"] == MIXERS


@every_mixer
def test_its_module_has_the_parameters_and_products_that_are_counted(kind):
    block = mixer_block(kind)
    with torch.device("meta"):
        module, picture = module_of(block, EPS).eval(), torch.empty(1, 32, 14, 11)
        with FlopCounterMode(display=False) as counter:
            assert module(picture).shape == picture.shape
    counted = cost_of(block)
    assert sum(p.numel() for p in module.parameters()) == counted.params
    if kind in COUNTED_WHOLE:
        assert counter.get_total_flops() == 2 * counted.macs
    else:
        convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
        assert convolutions == 2 * (counted.macs - counted.attention_macs)


@every_local_block
def test_a_local_block_has_the_parameters_and_products_that_are_counted(kind):
    block = local_block(kind)
    with torch.device("meta"):
        module, picture = module_of(block, EPS).eval(), torch.empty(1, 24, 14, 11)
        with FlopCounterMode(display=False) as counter:
            assert module(picture).shape == (1, 32, 7, 6)
    counted = cost_of(block)
    assert sum(p.numel() for p in module.parameters()) == counted.params
    assert counter.get_total_flops() == 2 * counted.macs


BLOCKS = [*map(mixer_block, MIXER_KINDS), *map(local_block, LOCAL_KINDS)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_its_file_equals_its_module(block, format):
    module, weights = seeded_module(block)
    picture = picture_for(block)
    file = build_network(format, [block], weights=weights, eps=EPS)
    with torch.no_grad():
        reference = module(torch.from_numpy(picture).double()).numpy()
    assert difference(RUN[format](file, picture), reference) < TOLERANCE
    for precision in ("fp16", "int8"):  # of the latter the results mean nothing
        file = build_network(format, [block], weights=weights, eps=EPS, precision=precision)
        assert np.isfinite(RUN[format](file, picture)).all()


@every_mixer
def test_it_is_among_the_mixers_where_blocks_are_grouped(kind):
    block = mixer_block(kind)
    assert group_of(block) == "mixers"
    assert transfer.GROUPS[kind] == "mixer_blocks"


CHOSEN = [("mixer", kind) for kind in MIXER_KINDS] + [("local", kind) for kind in LOCAL_KINDS]


@pytest.mark.parametrize(("field", "kind"), CHOSEN)
def test_a_slice_of_a_supernet_is_the_network_alone(field, kind):
    """And that is the supernet with what is dropped at zero, which knows nothing of slices."""
    local = kind if field == "local" else "mbconv"
    plain = ("depth=1", "expand_ratio=4", "kernel_size=3", f"local={local}")
    fixed = [f"stage{n}.{choice}" for n in range(1, 5) for choice in plain]
    fixed += [f"stage{n}.width={width}" for n, width in enumerate(WIDTHS, start=1)]
    fixed += [f"stage{n}.mixer={kind if field == 'mixer' else 'relu_linear'}" for n in (3, 4)]
    space = get_space("all", freeze=["family=b", "resolution=128", "stem.width=8", *fixed])
    torch.manual_seed(0)
    supernet = Supernet(space).double().eval()
    with torch.no_grad():  # at first biases are 0 and scales 1: nothing of them would show
        for parameter in supernet.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        pictures = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        (arch,) = smallest_of(space)
        calibrate(supernet, arch, pictures)
        output = supernet(pictures, arch)
        assert torch.equal(supernet.extract(arch)(pictures), output)
        expected = zeroed(supernet, arch, pictures)
    assert difference(output.numpy(), expected.numpy()) < 1e-12


def test_tensors_that_are_no_parts_of_wider_ones_are_told():
    narrow, wide = (replace(mixer_block("softmax"), num_heads=heads) for heads in (1, 2))
    assert slices_of(wide, narrow)
    with pytest.raises(ArchError, match="tells its `axes`, as LiteMLA does in supernet/layers/mix"):
        slices_of(narrow, wide)


@pytest.mark.parametrize("file", TABLES)
def test_tables_have_the_kinds_of_mixers_that_there_are(file):
    for kind in TABLES[file]:
        assert kind in MIXER_KINDS, f"{file} has {kind}, which supernet/arch.py lacks"
    assert set(TABLES[file]) == set(MIXER_KINDS), f"{file} lacks a mixer"


def test_costs_have_every_kind():
    assert {*MIXER_KINDS, *LOCAL_KINDS} < set(cost.OPERATORS)


# A stranger adds a mixer, by the page alone.


def run_in(tree, *command):
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_page_lists_the_edits():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    page = text.partition("## Add a mixer")[2].partition("\n## ")[0]
    assert re.findall(r"^\d\. `([\w/.]+)`", page, re.MULTILINE) == list(EDITS)


def test_a_mixer_is_added_by_the_page_alone(tmp_path):
    tree = tree_with_toy(tmp_path / "tree", EDITS)
    contract = run_in(tree, "-m", "pytest", "-q", "-n", "0", "tests/test_contract.py", "-k", KIND)
    assert contract.returncode == 0, contract.stdout
    assert re.search(r"^6 passed", contract.stdout, re.MULTILINE), contract.stdout
    freezes = ["family=b", f"stage3.mixer={KIND}", f"stage4.mixer={KIND}"]
    flags = [part for freeze in freezes for part in ("--freeze", freeze)]
    search = run_in(
        tree, "-m", "nas.search", "--device", "orin", "--space", "all", *flags,
        "--trials", "40", "--evaluations", "9000", "--quiet", "--out", "run",
    )  # fmt: skip
    assert search.returncode == 0, search.stderr
    front = json.loads((tree / "run" / "front.json").read_text())
    assert {c["arch"]["stages"][3]["mixer"] for c in front["candidates"]} == {KIND}


def test_a_local_block_is_added_by_the_page_alone(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sentence = text.partition("- **A local block**:")[2].partition("\n- ")[0]
    assert re.findall(r"`([\w/]+\.py)`", sentence) == list(toy_local_block.EDITS)
    tree = tree_with_toy(tmp_path / "tree", toy_local_block.EDITS)
    kind = toy_local_block.KIND
    tests = ("-m", "pytest", "-q", "-n", "0", "tests/test_contract.py", "-k", kind)
    contract = run_in(tree, *tests)
    assert contract.returncode == 0, contract.stdout
    assert re.search(r"^4 passed", contract.stdout, re.MULTILINE), contract.stdout
    freezes = [f"stage{n}.local={kind}" for n in range(1, 5)]
    flags = [part for freeze in ("family=b", *freezes) for part in ("--freeze", freeze)]
    search = run_in(
        tree, "-m", "nas.search", "--device", "orin", "--space", "all", *flags,
        "--trials", "40", "--evaluations", "9000", "--quiet", "--out", "run",
    )  # fmt: skip
    assert search.returncode == 0, search.stderr
    front = json.loads((tree / "run" / "front.json").read_text())
    assert {stage["local"] for c in front["candidates"] for stage in c["arch"]["stages"]} == {kind}


STEPS = f"""
from supernet.blocks import Block
from supernet.cost import cost_of
block = Block("{KIND}", 8, 8, 6, 5, residual=True, name="block")
cost_of(block)
from lut.builders.network import build_network
for format in ("onnx", "tflite"):
    build_network(format, [block])
from supernet.model import module_of
module_of(block, 1e-5)
"""


@pytest.mark.parametrize("file", EDITS)
def test_a_forgotten_edit_is_told_by_its_file(tmp_path, file):
    tree = tree_with_toy(tmp_path / "tree", EDITS, without=file)
    if file == "supernet/arch.py":  # no network can be asked for, so that nothing else fails
        tests = ("-m", "pytest", "-q", "-n", "0", "tests/test_contract.py", "-k", "tables")
        done = run_in(tree, *tests)
        assert f"has {KIND}, which {file} lacks" in done.stdout
    else:
        done = run_in(tree, "-c", STEPS)
        assert f"{file} has nothing for {KIND}; see CONTRIBUTING.md, Add a mixer" in done.stderr
        assert re.search(r"(ArchError|DeviceError): ", done.stderr)
    assert done.returncode == 1
