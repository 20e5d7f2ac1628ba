"""States that a training goes on from: its own whole ones, in its own folder, and nothing else."""

import json
import struct

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from results.errors import RunError
from supernet.sharing.supernet import Supernet
from supernet.training.run import load_state
from supernet.training.sandwich import SandwichRule
from supernet.training.snapshots import FOLDER, Facts, load_snapshot, save_snapshot, snapshots
from supernet.training.trainer import Recipe, Trainer
from tests.blobs import SIZE, Blobs, small_space

STEPS = 6
SPACE = small_space()


def trainer():
    torch.manual_seed(0)
    rule = SandwichRule(SPACE, 1, 0, STEPS, resolutions=(SIZE,))
    return Trainer(Supernet(SPACE), Blobs(), rule, Recipe(STEPS, ema=0.9))


@pytest.fixture(scope="module")
def taken():
    """A state after some steps: moments of what subnets used."""
    found = trainer()
    for parameter in list(found.model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    found.optimizer.step()
    found.done = 2
    for _ in range(2):
        found.average.update(found.model)
    return found.state()


@pytest.fixture(scope="module")
def fresh():
    return trainer()


def test_a_state_comes_back(taken, fresh, tmp_path):
    path = save_snapshot(tmp_path, *taken)
    load_state(fresh, path)
    tensors, facts = fresh.state()
    assert facts == taken[1]
    assert tensors.keys() == taken[0].keys()
    assert all(torch.equal(tensor, taken[0][name]) for name, tensor in tensors.items())


def changed(tensors, change):
    tensors = dict(tensors)
    change(tensors)
    return tensors


def first(tensors, prefix):
    return next(name for name in sorted(tensors) if name.startswith(prefix))


def rename(tensors):
    tensors["model.other"] = tensors.pop(first(tensors, "model."))


def reshape(tensors):
    name = first(tensors, "ema.")
    tensors[name] = tensors[name].reshape(1, *tensors[name].shape)


def retype(tensors):
    name = first(tensors, "adamw.")
    tensors[name] = tensors[name].half()


def lack(tensors):
    del tensors[next(name for name in tensors if name.endswith(".exp_avg_sq"))]


def late(tensors):
    tensors[next(n for n in tensors if n.startswith("adamw.") and n.endswith(".step"))] += 10**6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename, "is missing"),
        (reshape, "not ("),
        (retype, "of torch.float16, not"),
        (lack, "exp_avg_sq is missing"),
        (late, "is 1e+06 after 2 steps"),
        (lambda t: t.update({"model.more": torch.zeros(1)}), "model.more has no place"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("ema.")], "is missing"),
    ],
)
def test_tensors_of_another_training_are_named(taken, fresh, tmp_path, change, says):
    tensors = {name: tensor.clone() for name, tensor in taken[0].items()}
    path = save_snapshot(tmp_path, changed(tensors, change), taken[1])
    before = {name: tensor.clone() for name, tensor in fresh.state()[0].items()}
    with pytest.raises(RunError) as caught:
        load_state(fresh, path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("delete it, --resume then goes on from the one before")
    after = fresh.state()[0]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def write_facts(path, text):
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header["__metadata__"]["facts"] = text
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + data[end:])


@pytest.mark.parametrize(
    "facts",
    [
        "{}", "[]", "{", "null", '{"step": -1}', '{"step": "2"}', '{"step": 1e400}',
        '{"step": 1000000}', '{"step": 2, "ema_updates": 1000000}', '{"step": 2.5}',
        '{"step": true}', '{"step": 2, "scaler": []}', '{"step": 2, "scaler": {"scale": "x"}}',
        "[" * 100_000, "9" * 5000, '{"step": 7}', '{"step": 2, "ema_updates": 1}', '{"step": 2}',
    ],
)  # fmt: skip
def test_facts_that_cannot_be_are_named(taken, fresh, tmp_path, facts):
    path = save_snapshot(tmp_path, *taken)
    write_facts(path, facts)
    with pytest.raises(RunError, match=r"step-00000002.safetensors is damaged.*the one before"):
        load_state(fresh, path)


def test_a_scaler_lacking_a_number_is_named(taken, tmp_path):
    found = trainer()
    found.scaler = torch.amp.GradScaler("cpu", enabled=True)
    facts = msgspec.structs.replace(taken[1], scaler={"scale": 3.0})
    path = save_snapshot(tmp_path, taken[0], facts)
    with pytest.raises(RunError, match="its scaler has scale"):
        load_state(found, path)
    facts = msgspec.structs.replace(taken[1], scaler=found.scaler.state_dict() | {"scale": 8.0})
    load_state(found, save_snapshot(tmp_path, taken[0], facts))
    assert found.scaler.get_scale() == 8.0


def test_facts_of_earlier_versions_are_read(taken, fresh, tmp_path):
    path = save_snapshot(tmp_path, *taken)
    write_facts(path, json.dumps({"step": 2, "scaler": {}, "ema_updates": 2}))
    load_state(fresh, path)
    assert fresh.done == 2


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutants_give_a_state_or_one_line(data, taken, fresh, tmp_path):
    path = save_snapshot(tmp_path, *taken)
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    names = sorted(set(header) - {"__metadata__"})
    name = data.draw(st.sampled_from(names))
    value = data.draw(
        st.sampled_from([0, -1, 2**63, 10**400, "x", None, [], {}, 1.5, [0, 4], [10**9] * 4])
    )
    kind = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "facts", "name", "cut"]))
    if kind == "facts":
        fact = data.draw(st.sampled_from(["step", "ema_updates", "scaler", "other"]))
        facts = json.loads(header["__metadata__"]["facts"]) | {fact: value}
        header["__metadata__"]["facts"] = json.dumps(facts)
    elif kind == "name":
        header[str(value)] = header.pop(name)
    elif kind != "cut":
        header[name] = header[name] | {kind: value}
    text = json.dumps(header).encode()
    body = content[end : len(content) - 5 if kind == "cut" else None]
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    try:
        load_state(fresh, path)
    except RunError as error:
        said = str(error)
    else:
        assert kind in ("facts", "dtype", "shape", "data_offsets")
        return
    assert str(path) in said


# --- Folders -----------------------------------------------------------------------------------

STATE = {"x": torch.zeros(1)}


def test_the_last_two_are_kept_and_other_files_left_alone(tmp_path):
    (tmp_path / FOLDER).mkdir()
    others = ["step-1.safetensors", "step-abc.safetensors", "step-00000009.txt", "mine"]
    for name in others:
        (tmp_path / FOLDER / name).write_text("mine")
    for step in (1, 2, 10**8, 3):
        save_snapshot(tmp_path, STATE, Facts(step=step))
    assert [path.stem for path in snapshots(tmp_path)] == ["step-00000003", "step-100000000"]
    assert all((tmp_path / FOLDER / name).read_text() == "mine" for name in others)


@pytest.mark.parametrize("step", [1, 5])
def test_nothing_is_written_or_deleted_through_a_link_out(tmp_path, step):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    for number in (1, 2, 3):
        save_snapshot(elsewhere, STATE, Facts(step=number))
    before = sorted(path.name for path in (elsewhere / FOLDER).iterdir())
    (run / FOLDER).symlink_to(elsewhere / FOLDER)
    with pytest.raises(RunError, match="is a link out of the run folder"):
        save_snapshot(run, STATE, Facts(step=step))
    assert sorted(path.name for path in (elsewhere / FOLDER).iterdir()) == before


def test_a_linked_run_is_one_s_own(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    save_snapshot(tmp_path / "run", STATE, Facts(step=1))
    assert len(snapshots(tmp_path / "disk")) == 1
    assert load_snapshot(snapshots(tmp_path / "run")[0])[1] == Facts(step=1)
