"""What a validation scales a session by."""

from dataclasses import replace

from lut.chunks import references_of, wide_references_of
from lut.device import find_table, get_device
from lut.plan import stratified
from lut.table import load_table
from lut.validate import _alike
from supernet.blocks import blocks_of
from supernet.space import get_space

SPACE = get_space("b", freeze=["resolution=128,160,192,224,256,288"])


def test_references_are_no_smaller_and_no_larger_than_what_they_scale():
    table = load_table(find_table(get_device("example-cpu:litert"), 1))

    def ms(arch):
        return table.network_ms(blocks_of(arch))

    official = list(dict.fromkeys((*references_of(SPACE), *wide_references_of(SPACE))))
    chosen = stratified(SPACE, ms, 40, 1000, exclude=official)
    alike = _alike(table, official, chosen)
    low, high = min(map(ms, chosen)), max(map(ms, chosen))
    assert alike == tuple(arch for arch in official if low <= ms(arch) <= high)
    assert 4 <= len(alike) < len(official)
    tiny = [arch for arch in chosen if ms(arch) < 5]
    assert len(_alike(table, official, tiny)) == len(official)  # fewer than four are alike
    known = {
        b: e for arch in references_of(SPACE) for b in blocks_of(arch) if (e := table.entry(b))
    }
    narrow = replace(table, entries=known)
    assert set(_alike(narrow, official, tiny)) <= set(official)
    assert set(references_of(SPACE)) <= set(_alike(narrow, official, tiny))
