"""Steps of training: resumed, accumulated, clipped, averaged, against independent twins."""

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from results.errors import UserError
from supernet.model import build
from supernet.sharing.supernet import Supernet
from supernet.training.batches import PartDraws, PictureOrder, read_parts
from supernet.training.optimise import Average, adamw, learning_rate
from supernet.training.sandwich import OneArch, SandwichRule
from supernet.training.trainer import Recipe, SingleNetwork, Trainer, compiled
from tests.blobs import NUM_CLASSES, NUM_TRAIN, SIZE, Blobs, small_space


def supernet_trainer(seed=0, batch_size=4, steps=6, **recipe):
    torch.manual_seed(seed)
    space = small_space()
    rule = SandwichRule(space, 1, seed, steps, resolutions=(SIZE,))
    trainer = Trainer(Supernet(space), Blobs(), rule, Recipe(steps, seed=seed, **recipe))
    return trainer, PictureOrder(NUM_TRAIN, batch_size, seed)


def run(trainer, order, upto=None):
    """The reports of the steps that are left."""
    steps = range(trainer.done, upto or trainer.recipe.num_steps)
    draws = PartDraws(trainer.sampler, order, steps, trainer.parts, trainer.num_parts)
    batches = read_parts(trainer.task, draws, workers=0)
    return [trainer.step(batch) for batch in batches]


class Plain(SingleNetwork):
    """Without normalisation, so that a batch is the sum of its parts. Takes any arch."""

    def __init__(self):
        nn.Module.__init__(self)
        self.network: Any = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(NUM_CLASSES)
        )
        self.network(torch.zeros(1, 3, *SIZE))


def plain_trainer(**recipe):
    torch.manual_seed(0)
    rule = SandwichRule(small_space(), 1, 0, 4, resolutions=(SIZE,))
    return Trainer(Plain(), Blobs(), rule, Recipe(4, **recipe)), PictureOrder(NUM_TRAIN, 12, 0)


def state_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.state()[0].items()}


def test_a_loaded_state_goes_on_exactly():
    whole = run(*supernet_trainer(ema=0.99))
    begun, order = supernet_trainer(ema=0.99)
    first = run(begun, order, upto=3)
    tensors, facts = begun.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    run(begun, order)
    loaded, order = supernet_trainer(seed=1, ema=0.99)  # other weights, until it is loaded
    loaded.sampler = loaded.recipe = None
    fresh, _ = supernet_trainer(ema=0.99)
    loaded.sampler, loaded.recipe = fresh.sampler, fresh.recipe
    loaded.load(tensors, facts)
    torch.manual_seed(99)
    assert first + run(loaded, PictureOrder(NUM_TRAIN, 4, 0)) == whole
    final, expected = state_of(loaded), state_of(begun)
    assert final.keys() == expected.keys()
    assert all(torch.equal(final[name], expected[name]) for name in final)


def test_parts_of_a_batch_add_up_to_it():
    one, four = plain_trainer(), plain_trainer(accumulate=4)
    for whole, parts in zip(run(*one), run(*four), strict=True):
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
        assert parts.distill == pytest.approx(whole.distill, rel=1e-4, abs=1e-7)
        assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)


def test_a_step_is_what_plain_pytorch_does():
    trainer, order = plain_trainer(weight_decay=0.1, lr=0.01, warmup=2)
    twin = copy.deepcopy(trainer.model)
    task = Blobs()
    named = dict(twin.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n.endswith(kind)], "weight_decay": decay}
        for kind, decay in (("weight", 0.1), ("bias", 0.0))
    ]
    optimizer = torch.optim.AdamW(groups)
    reports = run(trainer, order)
    for report in reports:
        step = report.step - 1
        samples = [task.train_data()[draw] for draw in order.draws(step, SIZE)]
        x, labels = task.collate(samples)
        num_archs = len(trainer.sampler.draw(step).archs)
        output = twin(x, None)
        loss = functional.cross_entropy(output, labels)
        total = loss
        for _ in range(num_archs - 1):
            total = total + task.distill(twin(x, None), output.detach(), None)
        optimizer.zero_grad()
        total.backward()
        for group in optimizer.param_groups:
            group["lr"] = report.lr
        optimizer.step()
        assert report.loss == pytest.approx(loss.item(), rel=1e-4)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.allclose(tensor, twin.state_dict()[name], atol=1e-6), name


def test_tensors_that_no_subnet_uses_stay():
    trainer, order = supernet_trainer(steps=2)
    idle = nn.Parameter(torch.ones(3, 3))
    trainer.model.register_parameter("idle", idle)
    trainer.optimizer = adamw(trainer.model, lr=0.1, weight_decay=0.5)
    run(trainer, order)
    assert torch.equal(idle, torch.ones(3, 3))


def test_the_schedule():
    rates = [learning_rate(s, peak=2.0, warmup=4, num_steps=12) for s in range(12)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[8] == pytest.approx(1.0)  # half way down
    assert rates[11] == pytest.approx(1 + math.cos(math.pi * 7 / 8))
    assert learning_rate(0, peak=1.0, warmup=0, num_steps=1) == 1.0


def test_the_average_is_its_formula():
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, decay=0.7)
    expected = copy.deepcopy(model.state_dict())
    for n in range(1, 40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model[1].num_batches_tracked.add_(1)
        average.update(model)
        d = min(0.7, (1 + n) / (10 + n))
        for name, tensor in model.state_dict().items():
            old = expected[name]
            expected[name] = (
                d * old + (1 - d) * tensor if tensor.dtype.is_floating_point else tensor.clone()
            )
    for name, tensor in average.state.items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
    kept = copy.deepcopy(model.state_dict())
    average.swap(model)
    assert torch.allclose(model[0].weight, expected["0.weight"], atol=1e-6)
    average.swap(model)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


def norm_of_gradients(trainer):
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    return math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))


def test_clipping_bounds_the_norm_and_reports_that_before():
    trainers, reports = [], []
    for most in (None, 1e6, 0.01):
        trainer, order = supernet_trainer(clip=most)
        reports += run(trainer, order, upto=1)
        trainers.append(trainer)
    free, below, above = trainers
    norm = norm_of_gradients(free)
    assert norm > 0.02
    assert [report.grad_norm for report in reports] == [pytest.approx(norm, rel=1e-5)] * 3
    assert norm_of_gradients(below) == norm
    assert norm_of_gradients(above) == pytest.approx(0.01, rel=1e-3)
    scaled = [p.grad for p in above.model.parameters() if p.grad is not None]
    gradients = [p.grad for p in free.model.parameters() if p.grad is not None]
    for gradient, one in zip(gradients, scaled, strict=True):
        assert torch.allclose(gradient * 0.01 / norm, one, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_stops_before_weights_move(clip, value):
    trainer, order = supernet_trainer(steps=3, clip=clip)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    first = next(trainer.model.parameters())
    first.register_hook(lambda gradient: gradient * value)
    with pytest.raises(UserError, match="gradient is not finite at step 1 of 3"):
        run(trainer, order)
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())


def test_norms_and_biases_do_not_decay():
    trainer, _ = supernet_trainer()
    decayed, free = (group["params"] for group in trainer.optimizer.param_groups)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    assert trainer.optimizer.param_groups[1]["weight_decay"] == 0
    assert all(names[id(p)].endswith(("norm.weight", "bias")) for p in free)
    assert not any("norm." in names[id(p)] for p in decayed)
    assert len(decayed) + len(free) == len(names)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(precision):
    trainer, order = supernet_trainer(steps=4, precision=precision)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    exact = run(*supernet_trainer(steps=4))
    reports = run(trainer, order)  # in fp16 the first may be skipped, until the scale fits
    assert reports[0].loss == pytest.approx(exact[0].loss, rel=0.02)
    assert reports[0].loss != exact[0].loss
    after = dict(trainer.model.named_parameters())  # statistics alone would change anyway
    assert {t.dtype for t in after.values()} == {torch.float32}
    assert any(not torch.equal(before[n], after[n]) for n in before)


def test_a_loss_that_is_not_finite_stops_before_weights_move():
    trainer, order = supernet_trainer(steps=3, clip=1.0)
    run(trainer, order, upto=1)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.task.loss = lambda output, target, decoder: output.sum() * float("nan")
    with pytest.raises(UserError, match=r"loss is not finite at step 2 of 3; try --lr 0\.0003"):
        run(trainer, order)
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())


def test_an_external_teacher_replaces_the_largest():
    trainer, order = plain_trainer()
    x, labels = trainer.task.collate([trainer.task.train_data()[d] for d in order.draws(0, SIZE)])
    teacher = Plain().network
    trainer.teacher = teacher.requires_grad_(False)
    with torch.no_grad():
        output, wanted = trainer.model(x, None), teacher(x)
        expected = trainer.task.distill(output, wanted, None)
    report = run(trainer, order, upto=1)[0]
    assert report.distill == pytest.approx(expected.item(), rel=1e-4)
    hard = functional.cross_entropy(output, labels).item()
    assert report.loss == pytest.approx(hard + expected.item(), rel=1e-4)


def test_one_arch_alone_has_one_loss():
    space = small_space()
    arch = next(space.extremes())
    trainer = Trainer(Plain(), Blobs(), OneArch(arch, 0, (SIZE,)), Recipe(2))
    reports = run(trainer, PictureOrder(NUM_TRAIN, 4, 0))
    assert [report.distill for report in reports] == [None, None]
    assert reports[0].resolution == SIZE


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_subnet_is_the_subnet(monkeypatch):
    eager = torch.compile
    monkeypatch.setattr(torch, "compile", partial(eager, backend="aot_eager", fullgraph=True))
    trainer, _ = supernet_trainer()
    twin = copy.deepcopy(trainer.model)
    arch = trainer.sampler.draw(0).archs[1]
    x = torch.randn(4, 3, *SIZE)
    expected = twin(x, arch)
    expected.square().sum().backward()
    output = compiled(trainer.model, arch)(x)
    output.square().sum().backward()
    assert torch.allclose(output, expected, atol=1e-5)
    for (name, parameter), other in zip(
        trainer.model.named_parameters(), twin.parameters(), strict=True
    ):
        if other.grad is not None:
            assert torch.allclose(parameter.grad, other.grad, atol=1e-3, rtol=1e-3), name
    for (name, buffer), other in zip(trainer.model.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(buffer.float(), other.float(), atol=1e-5), name


@pytest.mark.parametrize(
    ("alone", "num"), [(False, 3), pytest.param(True, 9, marks=pytest.mark.slow)]
)  # PyTorch keeps eight by itself
def test_every_resolution_is_compiled_once(alone, num, monkeypatch):
    shapes = []

    def backend(graph, inputs):
        shapes.append(next(tuple(x.shape) for x in inputs if x.shape[:2] == (2, 3)))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    trainer, _ = supernet_trainer()
    arch = next(small_space().extremes())
    model = SingleNetwork(build(arch)) if alone else trainer.model
    sizes = [(32, 32 * n) for n in range(1, num + 1)]
    forwards = {size: compiled(model, replace(arch, resolution=size)) for size in sizes}
    with torch.no_grad():
        for size in sizes + sizes:
            forwards[size](torch.randn(2, 3, *size))
    assert shapes == [(2, 3, *size) for size in sizes]
