"""What a reader of a front must know of the space that was searched."""

from collections.abc import Iterator

from nas.objectives.sources import AccuracySource
from supernet.space import UNPUBLISHED, Space, Value


def notes_on(space: Space, source: AccuracySource, num_broken: int) -> list[str]:
    """Return what was searched and what was not, a line each.

    `num_broken` networks have no accuracy, as `source.is_broken` tells.
    """
    size = f"space: {space.size:,} archs of {space.name}"
    if source.provenance != "published":
        varied = {kind for kind, choices, _ in _unpublished(space) if len(choices) > 1}
        searched = f"{', '.join(sorted(varied)) or 'no kernels or mixers'} searched too"
        left_out = f"{num_broken} networks have outputs that are not finite: left out"
        return [f"{size}; {searched}", *([left_out] if num_broken else []), *source.notes]
    asked = {kind for kind, choices, own in _unpublished(space) if choices != (own,)}
    fixed = "kernel sizes, local blocks, mixers and scales are EfficientViT's own"
    if space.name == "all" and not asked:
        fixed += " (--freeze stage4.mixer=softmax,none and the like search them)"
    if asked:
        fixed = f"{', '.join(sorted(asked))} as asked for: the accuracy says nothing of them"
    head = "head and head dim, unless frozen, those of the nearest official network"
    return [f"{size}; {fixed}; {head}"]


def _unpublished(space: Space) -> Iterator[tuple[str, tuple[Value, ...], Value]]:
    """Yield the choices that no published figure tells of: kind, choices, EfficientViT's own."""
    for part in space.parts:
        for name, choices in part.dimensions.items():
            kind = name.partition(".")[2]
            if kind in UNPUBLISHED:
                yield kind, choices, part.official(name)
