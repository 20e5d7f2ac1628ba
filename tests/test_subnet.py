"""A subnet against the supernet with all that it drops at zero, and against its extracted copy."""

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import supernet.layers.mixers
import supernet.sharing.slices
import supernet.sharing.supernet
from results.errors import SpaceError
from supernet import official as named
from supernet.model import build
from supernet.official import named_arch, params_at_head_dim_16
from supernet.sam.model import Sam
from supernet.sharing.extremes import largest_of, smallest_of
from supernet.sharing.supernet import Supernet, skeleton
from supernet.spaces import get_space
from tests.zeroing import calibrate, whole_network, widest, zeroed

SIZE = (64, 96)  # 24 and 6 tokens in stages 3 and 4: LiteMLA's two forms
NARROW = {
    "stem.width": (8, 16),
    "stage1.width": (16, 32),
    "stage2.width": (32, 48),
    "stage3.width": (32, 64),
    "stage4.width": (64, 96),
    "stage5.width": (64, 96),
    "head.widths": ((24, 40), (32, 48)),
}


def narrow(space):
    """`space` with small widths, heads and depths, but with every choice of all else."""
    parts = []
    for part in space.parts:
        dimensions = {
            name: NARROW.get(name, choices[:2] if name.endswith(".depth") else choices)
            for name, choices in part.dimensions.items()
        }
        parts.append(replace(part, dimensions=dimensions))
    return replace(space, parts=tuple(parts))


def classification(name):
    return narrow(get_space(name, nearest_head=False, num_classes=7))


SPACES = {
    "tiny": lambda: get_space("tiny", nearest_head=False, num_classes=7),
    "b": lambda: classification("b"),
    "l": lambda: classification("l"),
    "all, family b": lambda: classification("all").freeze(["family=b"]),
    "all, family l": lambda: classification("all").freeze(["family=l"]),
}


DRAWN = 30  # networks, the one with the most new choices of which comes next


def covering(space, seed=0):
    """Random archs with every choice of every dimension among them, and few more than needed.

    But for the resolution, which is that of the pictures whatever the Arch says.
    """
    rng = random.Random(seed)
    for part in space.parts:
        dimensions = {n: c for n, c in part.dimensions.items() if n != "resolution"}
        left = {(name, choice) for name, choices in dimensions.items() for choice in choices}
        while left:
            drawn = [space.sample(rng) for _ in range(DRAWN)]
            own = [arch for arch in drawn if space.part_of(arch)[1] == part]
            news = {arch: left & part.values(arch).items() for arch in own}
            arch = max(own, key=lambda arch: len(news[arch]), default=None)
            if arch is not None and news[arch]:
                left -= news[arch]
                yield arch


def pictures(number=2, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 4, 6, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = torch.randn(number, 3, *size, generator=generator, dtype=torch.float64)
    return 4 * smooth - 2 + 0.3 * noise


def make(space, **options):
    torch.manual_seed(0)
    supernet = Supernet(space, **options).double().eval()
    with torch.no_grad():  # at first biases are 0 and scales 1: nothing of them would show
        for name, parameter in supernet.named_parameters():
            if parameter.dim() == 1 and "kernel_" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return supernet


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def run(supernet, arch, x):
    return supernet(x, arch)


def errors(supernet, x=None):
    """Of every covering Arch: error against the zeroed twin, effect of dropping and of pictures."""
    x = pictures() if x is None else x
    for arch in covering(supernet.space):
        calibrate(supernet, arch, pictures(4, tuple(x.shape[2:]), seed=1))
        found = run(supernet, arch, x)
        with torch.no_grad():
            at_size = replace(arch, resolution=tuple(x.shape[2:]))
            whole = whole_network(supernet, at_size).eval()(x)
        dropped = 1.0 if widest(supernet, arch) == arch else difference(found, whole)
        error = difference(found, zeroed(supernet, arch, x))
        yield arch, error, dropped, difference(found[:1], found[1:])


def check_zeroing(supernet, x=None):
    for arch, error, dropped, between in errors(supernet, x):
        assert error <= 1e-12, arch.describe()
        assert dropped > 1e-3, f"dropping does not show in {arch.describe()}"
        assert between > 1e-4, f"the picture does not show in {arch.describe()}"


@pytest.mark.parametrize("name", SPACES)
def test_a_subnet_is_the_supernet_with_what_it_drops_at_zero(name):
    check_zeroing(make(SPACES[name]()))


def at_small_sizes(monkeypatch, space):
    """Let heads change within the narrow `space`: as official networks' parameters its own."""
    for cached in ("_params_by_name", "_head_of"):  # of the official networks as they are
        monkeypatch.setattr(named, cached, getattr(named, cached).__wrapped__)
    for part in space.parts:
        own = [params_at_head_dim_16(space.sample(random.Random(seed))) for seed in range(40)]
        names = sorted(named.named_params(part.reference, space.dataset), key=named._named_params)
        step = (len(own) - 1) / (len(names) - 1)
        params = {name: sorted(own)[round(i * step)] for i, name in enumerate(names)}
        found = named._named_params
        monkeypatch.setattr(
            named, "_named_params", lambda name, p=params, f=found: p.get(name) or f(name)
        )


@pytest.mark.parametrize(
    ("family", "dataset"), [("b", "cityscapes"), ("b", "ade20k"), ("l", "cityscapes")]
)
def test_so_with_the_official_segmentation_heads(family, dataset, monkeypatch):
    """Whose heads differ in width (b), depth, and the layer before the classifier."""
    heads = {
        name: replace(head, width=32) if name.startswith("l") else head
        for name, head in named.SEGMENTATION_HEADS[dataset].items()
    }
    monkeypatch.setitem(named.SEGMENTATION_HEADS, dataset, heads)
    freeze = [f"family={family}"]
    space = get_space("family", task="segmentation", dataset=dataset, num_classes=5, freeze=freeze)
    space = narrow(space)
    at_small_sizes(monkeypatch, space)
    assert len({space.sample(random.Random(seed)).head for seed in range(40)}) > 1
    check_zeroing(make(space))


def test_so_with_the_heads_of_super_resolution(monkeypatch):
    found: dict[str, Any] = dict(named.SUPER_RESOLUTION)
    for name, arch in found.items():
        head = replace(arch.head, depth=2, width=arch.head.width // 4)
        found[name] = replace(arch, head=head)
    monkeypatch.setattr(named, "SUPER_RESOLUTION", found)
    space = narrow(get_space("family", task="super_resolution", dataset="x4"))
    at_small_sizes(monkeypatch, space)
    assert {space.sample(random.Random(n)).head.width for n in range(40)} == {12, 16}
    check_zeroing(make(space), pictures(2, (32, 48)))


def test_so_with_the_necks_of_segment_anything(monkeypatch):
    """Their size and widths narrowed: 64 x 64 positions of 256 channels take too long here."""
    heads = {
        name: replace(head, size=8, width=16, out_channels=24, depth=max(1, head.depth // 4))
        for name, head in named.PROMPTABLE_HEADS.items()
    }
    heads["sam_l0"] = replace(heads["sam_l0"], width=8)
    heads["sam_xl0"] = replace(heads["sam_xl0"], expand_ratio=2)
    monkeypatch.setattr(named, "PROMPTABLE_HEADS", heads)
    for family in ("l", "xl"):
        space = narrow(get_space("l", task="promptable")).freeze([f"family={family}"])
        with monkeypatch.context() as patch:
            at_small_sizes(patch, space)
            assert len({space.sample(random.Random(seed)).head for seed in range(40)}) > 1
            check_zeroing(make(space), pictures(2, (64, 64)))


MUTATIONS = {
    "corner of a kernel": lambda h, w, is_kernel: slice(0, w) if is_kernel else None,
    "trailing channels": lambda h, w, is_kernel: None if is_kernel else slice(h - w, h),
}


@pytest.mark.parametrize("mutation", [*MUTATIONS, "projection like any other"])
def test_a_wrong_slice_is_caught(mutation, monkeypatch):
    def wrong(have, want, *, is_kernel):
        found = None
        if isinstance(have, int) and mutation in MUTATIONS:
            found = MUTATIONS[mutation](have, want, is_kernel)
        return found or right(have, want, is_kernel=is_kernel)

    caches = (
        supernet.sharing.slices.slices_of,
        supernet.sharing.slices._axes_of,
        supernet.sharing.supernet._sources,
    )
    right = supernet.sharing.slices._part
    if mutation in MUTATIONS:
        monkeypatch.setattr(supernet.sharing.slices, "_part", wrong)
    else:
        monkeypatch.setattr(supernet.layers.mixers.LiteMLA, "axes", {})
    try:
        for cache in caches:
            cache.cache_clear()
        assert max(error for _, error, _, _ in errors(make(SPACES["tiny"]()))) > 1e-3
    finally:
        for cache in caches:
            cache.cache_clear()


def test_every_choice_shows():
    model = make(SPACES["all, family b"]())
    arch = next(a for a in covering(model.space) if a.stages[2].mixer == "relu_linear")
    calibrate(model, arch, pictures(4, seed=1))
    x = pictures(1)
    found = run(model, arch, x)
    shown = {}
    for neighbour in model.space.neighbours(arch):
        if neighbour.resolution == arch.resolution:
            shown[neighbour.describe()] = difference(run(model, neighbour, x), found)
    assert len(shown) > 40
    assert min(shown.values()) > 1e-6, min(shown, key=lambda name: shown[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPACES)
def test_an_extracted_network_is_the_subnet(name, dtype):
    model = make(SPACES[name]()).to(dtype)
    x = pictures().to(dtype)
    for arch in list(covering(model.space))[:4]:
        alone = model.extract(arch)
        assert not alone.training
        assert list(alone.state_dict()) == list(build(arch).state_dict())
        with torch.no_grad():
            assert difference(alone(x), run(model, arch, x)) <= 1e-6
        storages = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
        assert not storages & {t.untyped_storage().data_ptr() for t in alone.state_dict().values()}


@pytest.mark.parametrize("name", ["tiny", "b"])
def test_gradients_and_statistics_are_those_of_the_extracted_network_and_no_others(name):
    model = make(SPACES[name]()).train()
    x = pictures()
    for arch in list(covering(model.space))[:3]:
        model.zero_grad(set_to_none=True)
        before = copy.deepcopy(model.state_dict())
        alone = model.extract(arch)
        assert alone.training
        outputs = model(x, arch), alone(x)
        for output in outputs:
            output.square().sum().backward()
        expected = dict(alone.named_parameters())
        marked = copy.deepcopy(model)
        with torch.no_grad():
            for tensor in marked.state_dict().values():
                tensor.zero_()
        marked.put(arch, {name: torch.ones_like(t) for name, t in alone.state_dict().items()})
        used = {name: tensor > 0 for name, tensor in marked.state_dict().items()}
        collected = copy.deepcopy(model)
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
                assert not used[name].any()
            assert not gradient[~used[name]].any(), name
            with torch.no_grad():
                collected.get_parameter(name).copy_(gradient)
        for name, gradient in collected.weights(arch).items():
            if name in expected and expected[name].grad is not None:
                assert difference(gradient.detach(), expected[name].grad) < 1e-9, name
        statistics = model.weights(arch)
        for name, tensor in alone.named_buffers():
            assert torch.equal(statistics[name], tensor)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor[~used[name]], before[name][~used[name]]), name


def test_the_mode_of_the_supernet_is_that_of_its_subnets():
    model = make(SPACES["tiny"]())
    arch, x = model.largest[0], pictures()
    calm = run(model, arch, x)
    model.train()
    assert difference(run(model, arch, x), calm) > 1e-3
    model.eval()
    assert difference(run(model, arch, x), calm) > 0  # statistics moved
    assert torch.equal(run(model, arch, x), run(model, arch, x))


def test_copies_and_moved_supernets_read_their_own_tensors():
    model = make(SPACES["tiny"]())
    arch, x = model.space.sample(random.Random(3)), pictures()
    before = run(model, arch, x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.mul_(2)
    assert difference(run(model, arch, x), before) > 1e-3
    assert torch.equal(run(twin, arch, x), before)
    assert run(twin.float(), arch, x.float()).dtype == torch.float32
    assert difference(run(twin, arch, x.float()).double(), before) < 1e-4


def test_any_size_of_pictures():
    model = make(SPACES["tiny"]())
    arch = model.largest[0]
    for size in ((32, 32), (64, 160), (75, 53)):
        x = pictures(2, size)
        with torch.no_grad():
            assert torch.equal(run(model, arch, x), model.extract(arch)(x))
    other = replace(arch, resolution=(352, 352))  # outside the space
    assert torch.equal(run(model, other, x), run(model, arch, x))


def test_an_arch_outside_the_space_is_named_by_its_dimension():
    model = make(get_space("tiny", num_classes=7))
    x = pictures(1)
    with pytest.raises(SpaceError, match=r"stem.width=16 is not in space tiny"):
        model(x, named_arch("b1"))
    with pytest.raises(SpaceError, match="family l"):
        model(x, named_arch("l1"))
    arch = model.largest[0]
    with pytest.raises(SpaceError, match="fixed choice"):
        model(x, replace(arch, head=replace(arch.head, num_classes=8)))


def test_largest_and_smallest_are_the_ends_of_every_dimension():
    every = get_space("all", nearest_head=False)
    for space in (get_space("family"), every, get_space("all", task="promptable")):
        for part, large, small in zip(
            space.parts, largest_of(space), smallest_of(space), strict=True
        ):
            assert space.part_of(large)[1] == space.part_of(small)[1] == part
            high, low = part.values(large), part.values(small)
            for name, choices in part.dimensions.items():
                field = name.rpartition(".")[2]
                if field in ("local", "mixer"):
                    assert high[name] == low[name] == part.official(name)
                elif field not in ("head_dim", "scales"):
                    assert (low[name], high[name]) == (min(choices), max(choices))
                elif field == "scales":
                    assert (low[name], high[name]) == ((), choices[-1])


def test_a_supernet_holds_no_head_that_no_arch_has():
    b0: Any = Supernet(get_space("tiny")).nets["b"]
    assert [name for name, _ in b0.head.named_children()] == ["1024x1280"]
    with torch.device("meta"):
        b: Any = Supernet(get_space("b")).nets["b"]
    assert [name for name, _ in b.head.named_children()] == ["1024x1280", "1536x1600", "2304x2560"]


def test_caches_are_bounded():
    model = make(SPACES["tiny"]())
    model.max_plans = 4
    for arch in list(covering(model.space)) + list(model.space.neighbours(model.largest[0])):
        model.weights(arch)
    assert len(model._plans) <= 4
    assert skeleton.cache_info().maxsize is not None
    used = next(iter(model._plans))
    model.weights(used)  # the oldest, but the last one used
    for arch in list(covering(model.space))[:3]:
        model.weights(arch)
    assert used in model._plans


def test_a_promptable_supernet_shares_one_decoder():
    model: Any = Supernet(narrow(get_space("l", task="promptable")).freeze(["family=l"]))
    arch = smallest_of(model.space)[0]
    alone = model.extract(arch)
    assert isinstance(alone, Sam)
    assert list(alone.state_dict()) == list(Sam(build(arch)).state_dict())
    for name, tensor in model.decoder.state_dict().items():
        assert torch.equal(alone.state_dict()[name], tensor)
    for name, tensor in model.weights(arch).items():
        assert torch.equal(alone.image_encoder.state_dict()[name], tensor)


class TestKernelTransform:
    """OFA's: 7 to 5 to 3 by learned maps."""

    @pytest.fixture
    def model(self):
        return make(SPACES["b"](), kernel_transform=True)

    def test_at_first_it_is_the_centre(self, model):
        plain = make(SPACES["b"]())
        state = {n: t for n, t in model.state_dict().items() if "kernel_" not in n}
        plain.load_state_dict(state)
        for arch in list(covering(model.space))[:4]:
            assert difference(run(model, arch, pictures()), run(plain, arch, pictures())) < 1e-9

    def test_a_kernel_is_the_map_of_the_next_larger_ones_centre(self, model):
        block = model.nets["b"].stage1.get_submodule("0.mbconv.depth_conv.conv")
        with torch.no_grad():
            block.kernel_7to5.add_(torch.randn(25, 25))
            block.kernel_5to3.add_(torch.randn(9, 9))
        wide = block.weight[:16, 0]
        five = torch.einsum("ij,cj->ci", block.kernel_7to5, wide[:, 1:6, 1:6].reshape(16, 25))
        three = torch.einsum(
            "ij,cj->ci", block.kernel_5to3, five.view(16, 5, 5)[:, 1:4, 1:4].reshape(16, 9)
        )
        for size, expected in ((7, wide.reshape(16, 49)), (5, five), (3, three)):
            arch = smallest_of(model.space)[0]
            stages = (replace(arch.stages[0], kernel_size=size), *arch.stages[1:])
            weights = model.weights(replace(arch, stages=stages))
            found = weights["stage1.0.mbconv.depth_conv.conv.weight"]
            assert difference(found.flatten(1)[: len(expected)], expected[: len(found)]) < 1e-12

    def test_the_maps_learn_and_only_where_a_kernel_goes_through_them(self, model):
        arch = smallest_of(model.space)[0]
        stages = (replace(arch.stages[0], kernel_size=5), *arch.stages[1:])
        model(pictures(), replace(arch, stages=stages)).sum().backward()
        first, second = (
            model.nets["b"].get_submodule(f"stage{n}.0.mbconv.depth_conv.conv") for n in (1, 2)
        )
        assert first.kernel_7to5.grad.any()
        assert first.kernel_5to3.grad is None
        assert second.kernel_5to3.grad.any()
        with torch.no_grad():
            assert torch.equal(run(model, arch, pictures()), model.extract(arch)(pictures()))
