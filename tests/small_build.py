"""`lut.build` held to networks as small as those of space tiny, as B1 and B2 take most of its time.

With `patched` in a test's own process, or `python -m tests.small_build` as a process that can be
killed. Everything else is the command's own; a build that is resumed must be resumed by this.
"""

from dataclasses import replace

import pytest

from lut.build import main
from lut.measuring.chunks import references_of
from supernet.official import named_arch


def references(space, count=6):
    """Return B0 at the resolutions of space tiny, and of any other what `references_of` does."""
    if space.name != "tiny":
        return references_of(space, count)
    sizes = sorted(space.parts[0].dimensions["resolution"])
    return tuple(replace(named_arch("b0"), resolution=size) for size in sizes)


def patched(patch):
    """Set small references, fewer networks beside them, and one attempt at a chunk.

    A busy machine would make three of each.
    """
    patch.setattr("lut.measuring.run.references_of", references)
    patch.setattr("lut.measuring.plan.SAMPLED", 500)
    patch.setattr("lut.measuring.schedule.FITTED_NETWORKS", 12)
    patch.setattr("lut.measuring.campaign.MOST_ATTEMPTS", 1)


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        main()
