"""What a reader of a front must know of the space that was searched."""

from collections.abc import Iterator

from nas.objectives.sources import AccuracySource
from predictors.shape import UNPUBLISHED, is_judged
from supernet.space import Space, Value


def notes_on(space: Space, source: AccuracySource, num_broken: int) -> list[str]:
    """Return what was searched and what was not, a line each.

    `num_broken` networks have no accuracy, as `source.is_broken` tells.
    """
    size = f"space: {space.size:,} archs of {space.name}"
    if source.provenance != "published":
        varied = {kind for kind, _, count in _unpublished(space) if count > 1}
        searched = f"{', '.join(sorted(varied)) or 'no kernels or mixers'} searched too"
        left_out = f"{num_broken} networks have outputs that are not finite: left out"
        return [f"{size}; {searched}", *([left_out] if num_broken else []), *source.notes]
    asked = {kind for kind, choices, _ in _unpublished(space) if choices}
    fixed = "kernels of 3x3, 5x5 where depthwise; local blocks, mixers, scales EfficientViT's own"
    if space.name == "all" and not asked:
        fixed += " (--freeze stage4.mixer=softmax,none and the like search them)"
    if asked:
        fixed = f"{', '.join(sorted(asked))} as asked for: the accuracy says nothing of them"
    head = "head and head dim, unless frozen, those of the nearest official network"
    return [f"{size}; {fixed}; {head}"]


def _unpublished(space: Space) -> Iterator[tuple[str, list[Value], int]]:
    """Yield dimensions that EfficientViT's own figures do not tell of.

    As kind, the choices that no other figures tell of either, and the number of all choices.
    """
    for part in space.parts:
        for name, choices in part.dimensions.items():
            kind = name.partition(".")[2]
            if kind in UNPUBLISHED:
                own = part.official(name)
                blind = [c for c in choices if c != own and not is_judged(part, name, c)]
                yield kind, blind, len(choices)
