"""Two processes train as one does; what they share is told by a third, plain computation."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from results.errors import DeviceError, RunError
from supernet.training.distributed import PATIENCE, Ranks, joined, meet
from tests.conftest import ROOT

WORK = """
import hashlib, json
import torch
import torch.distributed as dist
from torch import nn
from results.errors import RunError
from supernet.training.distributed import joined
from tests.test_trainer import run, supernet_trainer

torch.manual_seed(0)
x, wanted = torch.randn(6, 4, 3, 3).double() + 5, torch.randn(6, 4, 3, 3).double()
with joined("cpu") as ranks:
    mine = x.chunk(ranks.world)[ranks.rank].requires_grad_()
    norm = nn.BatchNorm2d(4).double()
    nn.init.uniform_(norm.weight)
    with ranks.synchronised():
        y = norm(mine)
        loss = ((y - wanted.chunk(ranks.world)[ranks.rank]) ** 2).mean()
        loss.backward()
    ranks.average_gradients(norm)
    gradients = mine.grad, norm.weight.grad, norm.bias.grad
    normed = [t.tolist() for t in (y, *gradients, norm.running_mean, norm.running_var)]
    ranks.check_together(7)
    waits = 0.0
    if ranks.world > 1:
        waits = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    apart = ""
    try:
        ranks.check_together(3 * ranks.rank)
    except RunError as error:
        apart = str(error)
    trainer, order = supernet_trainer(batch_size=16, steps=10, ema=0.9, lr=0.003, warmup=2)
    trainer.ranks = ranks
    losses = [[r.loss, r.distill, r.grad_norm] for r in run(trainer, order)]
    digest = hashlib.sha256()
    for tensor in trainer.state()[0].values():
        digest.update(tensor.contiguous().numpy().tobytes())
    found = {"normed": normed, "losses": losses, "digest": digest.hexdigest()}
    print(json.dumps(found | {"apart": apart, "waits": waits}))
"""


def processes(world):
    """What each of `world` processes prints, started as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORK],
            cwd=ROOT,
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    answers = []
    for process in started:
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        answers.append(json.loads(said.strip().splitlines()[-1]))
    return answers


@pytest.fixture(scope="module")
def answers():
    """Of one process, and of two."""
    return processes(1)[0], processes(2)


def test_statistics_are_those_of_all_ranks(answers):
    whole, parts = answers
    y, dx, *shared = map(torch.tensor, whole["normed"])
    ys, dxs, *_ = zip(*(part["normed"] for part in parts), strict=True)
    assert torch.allclose(torch.cat([*map(torch.tensor, ys)]), y, atol=1e-12)
    # each rank's loss is the mean over half of the pictures
    assert torch.allclose(torch.cat([*map(torch.tensor, dxs)]) / 2, dx, atol=1e-12)
    for part in parts:
        for found, expected in zip(part["normed"][2:], shared, strict=True):
            assert torch.allclose(torch.tensor(found), expected, atol=1e-12)


def test_two_processes_train_as_one(answers):
    whole, (first, second) = answers
    assert first["losses"] == second["losses"]
    assert first["digest"] == second["digest"]  # bit for bit: all that the next step depends on
    assert first["losses"][0] == pytest.approx(whole["losses"][0], rel=1e-5)
    assert first["losses"][9] == pytest.approx(whole["losses"][9], rel=1e-3)
    assert abs(whole["losses"][9][0] - whole["losses"][0][0]) > 0.05


def test_processes_at_different_steps_do_not_train(answers):
    whole, parts = answers
    assert whole["apart"] == ""
    assert all("processes are 0, 3 steps in; give" in part["apart"] for part in parts)


def test_processes_that_have_met_wait_for_long(answers):
    assert all(part["waits"] == PATIENCE.total_seconds() > 3600 for part in answers[1])


def test_one_process_alone_exchanges_nothing():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    with joined("cpu", {}) as ranks:
        assert ranks == Ranks()
        ranks.average_gradients(model)
    assert ranks.is_first


def test_a_missing_device_is_named(monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="leave --accelerator cuda out"), joined("cuda", {}):
            pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(DeviceError, match=r"too few for process 2; .* --nproc-per-node 2"),
        joined("cuda", {"LOCAL_RANK": "2", "WORLD_SIZE": "4"}),
    ):
        pass


def together(store, world):
    """What `meet` gives each of `world` processes, here threads, whose stores are clients."""

    def client(rank):
        limit = timedelta(seconds=20)
        mine = TCPStore("127.0.0.1", store.port, is_master=False, timeout=limit)
        return meet(PrefixStore("attempt", mine), rank, world)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(client, range(world)))


def test_processes_that_are_started_again_find_nothing_of_those_before(monkeypatch):
    monkeypatch.setattr("supernet.training.distributed.MEETING", timedelta(seconds=20))
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in range(5):
        stores = together(server, 3)
        assert not any(store.check(["address"]) for store in stores)
        stores[1].set("address", "of one that dies")
        assert [store.get("address") for store in stores] == [b"of one that dies"] * 3


def test_a_process_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr("supernet.training.distributed.MEETING", timedelta(seconds=0.2))
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(RunError, match="process 1 of 2 did not come"):
        meet(server, 0, 2)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_PORT": server.port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(RunError, match="the 2 processes did not meet: "), joined("cpu"):
        pass
