"""Which tensors of a checkpoint are a network's, wherever a training put them.

A checkpoint is a tree: keys of dicts (`state_dict_ema`, `ema` then `0.9998`), then what stands
before the names of tensors (`module.`, `_orig_mod.model.`). A part of it is a network where names
begin as a network's do; what leads there is told by its words alone, in whichever order they
nest.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from results.errors import shown

State = dict[str, Tensor]
# How names of a network's tensors begin: officially, in timm, here.
NETWORK = re.compile(
    r"(?:^|\.)((?:image_encoder\.)?(?:backbone\.input_stem|backbone\.stages\.\d+\.op_list"
    r"|stem\.in_conv|stem\.res\d+|stages\.\d+\.blocks|stem\.\d+|stage\d+\.\d+)\.)"
)
# What the last word that is in one of these rows says of the weights it leads to.
WORDS = {
    "averaged": "ema average averaged averaging avg swa polyak shadow shadows",
    "raw": "raw online current live student",
    "other": "teacher discriminator critic",
    "no weights": "optimizer optimizers optimiser optimisers optim opt sgd momentum momenta moment "
    "moments velocity scheduler grad grads gradient gradients adam adamw adamax nadam radam "
    "adafactor adadelta adagrad rmsprop rprop asgd lbfgs lion lamb lars muon novograd adabelief "
    "sophia shampoo",
}
# What an optimiser keeps of each tensor: some are averages, but of gradients. Not so those that
# are said to be a model's.
MOMENTS = re.compile(
    r"(?<![a-z])(?:exp_?(?:avg|inf)|square_?avg|grad_?avg|avg_?(?:sq|grad)|acc_?delta"
    r"|momentum_?buffer|rms_?prop)(?![a-z])(?!.*(?:model|module|net|weights|params))",
    re.IGNORECASE,
)
# Words that say nothing more, so that what they lead to is the network itself.
PLAIN = (
    "state states dict model models module modules net nets network networks weights params "
    "parameters generator g orig mod backbone encoder checkpoint callbacks algo"
)
INSIDE = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}  # names
# An average beside each tensor, in one state_dict: ema_backbone.x, or ema_backbone_x.
BESIDE = re.compile(
    r"(?:^|(?<=\.))({0})_|_({0})(?=\.|$)".format(WORDS["averaged"].replace(" ", "|")), re.I
)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix")  # their ends
COUNTERS = ("total_ops", "total_params", "n_averaged")  # profilers' and averages', at any depth
FIRST = ("", "state_dict", "model")  # of several parts that nothing else tells apart
MOST_DEPTH, MOST_NETWORKS, MOST_NAMED = 6, 50, 6


class NoNetworkError(Exception):
    """Says what a checkpoint holds instead of one network."""


@dataclass(frozen=True)
class Part:
    """The tensors at one place of a checkpoint, by the names that follow it."""

    place: str  # "" for the checkpoint itself, else as in ema/0.9998/module
    state: State

    @property
    def kind(self) -> str:
        """Return a row of WORDS, "plain", or "unknown" for words that nobody listed."""
        steps = [_words(step) for step in self.place.split("/")]
        words = [word for step in steps for word in step]
        lower = re.findall(r"[a-z]+", self.place.lower())  # AdaFactor is one word here
        if any(word in WORDS["no weights"].split() for word in (*words, *lower)) or any(
            _is_moment(step) for step in self.place.split("/")
        ):
            return "no weights"
        for step in reversed(steps):
            kinds = [k for word in reversed(step) for k in WORDS if word in WORDS[k].split()]
            if kinds:  # an ema_teacher is an average before it is a teacher
                return "averaged" if {"averaged", "other"} <= set(kinds) else kinds[0]
        return "plain" if set(words) <= set(PLAIN.split()) else "unknown"


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]


def _is_moment(name: str) -> bool:
    return any(MOMENTS.search(_snake(part)) for part in name.split("."))


def _snake(text: str) -> str:
    """Return a key in lower case, with `_` where it changes: exp_avg for expAvg."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()


def network_in(loaded: Any) -> tuple[State, str]:
    """Return the tensors of the network in a checkpoint, and what was chosen, "" if nothing was.

    Averaged weights (of EMA or SWA) are taken before raw ones, as they are what a training is
    evaluated by; statistics that they lack are the raw ones'. Those that lack parameters which the
    raw ones have are left: nobody trained a mixture.

    Raises NoNetworkError for what holds no tensors by name, or several networks that nothing
    tells apart.
    """
    if not isinstance(loaded, Mapping) or not loaded:
        raise NoNetworkError(f"holds no state_dict but a {type(loaded).__name__}")
    tables, lists = _tables(loaded)
    parts = [part for place, table in tables.items() for part in _networks(place, table)]
    parts = [part for part in parts if part.kind != "no weights"]
    if not parts:
        return _of_another_kind(loaded, tables), ""
    partial = [part for part in parts if _is_partial(part, parts)]
    parts = [part for part in parts if not _is_partial(part, parts)]
    order = ("averaged", "plain", "raw", "unknown", "other")
    parts.sort(key=lambda part: (order.index(part.kind), *_preference(part)))
    first, rest = parts[0], parts[1:]
    rivals = [part for part in rest if part.kind == first.kind]
    if rivals and not (first.kind == "plain" and _preference(first)[0] < len(FIRST)):
        raise NoNetworkError(
            f"holds several networks, under {_named([first, *rivals])}; save one part alone"
        )
    unread = [] if first.kind == "averaged" else _unread(tables, lists)
    lacked = _lacked(first, rest)
    told = _told(first, rest, partial, lacked, unread)
    return lacked | first.state, told


def _preference(part: Part) -> tuple[int, int]:
    key = part.place.partition("/")[0]
    return (FIRST.index(key) if key in FIRST else len(FIRST), len(part.place))


def _is_partial(average: Part, parts: Sequence[Part]) -> bool:
    """Tell whether it is an average that lacks parameters which raw weights of its names have."""
    return average.kind == "averaged" and any(
        average.state.keys() & part.state.keys()
        and any(not name.endswith(BUFFERS) for name in part.state.keys() - average.state.keys())
        for part in parts
        if part.kind in ("plain", "raw")
    )


def _lacked(first: Part, rest: Sequence[Part]) -> State:
    """Return statistics that an average lacks, from the raw weights that have them."""
    if first.kind == "averaged":
        for part in rest:
            lacked = {n: t for n, t in part.state.items() if n not in first.state}
            alike = first.state.keys() & part.state.keys() and part.kind != "other"
            if alike and lacked and all(name.endswith(BUFFERS) for name in lacked):
                return lacked
    return {}


def _told(
    first: Part, rest: Sequence[Part], partial: Sequence[Part], lacked: State, unread: Sequence[str]
) -> str:
    """Return what was chosen of a checkpoint, in words; "" where nothing was to choose."""
    kind = "averaged weights" if first.kind == "averaged" else "weights"
    told = f"took the {kind} under {first.place}" if first.place else f"took the {kind} at the top"
    if rest:
        raw = {part.kind for part in rest} <= {"plain", "raw"} and first.kind == "averaged"
        what = "the raw ones are" if raw else "others are"
        told += f"; {what} under {_named(rest)}, save that part alone to use it"
    if lacked:
        told += "; the statistics that the average lacks are from there"
    if partial:
        told += f"; averaged ones under {_named(partial)} lack parameters, and were left"
        unread = []
    if unread:
        listed = ", ".join(unread[:MOST_NAMED])
        told += f"; averaged ones under {listed} have no names to be told by, and were left"
    is_told = rest or partial or unread or first.kind not in ("plain", "raw")
    return told if is_told else ""


def _named(parts: Sequence[Part]) -> str:
    more = ", …" if len(parts) > MOST_NAMED else ""
    return ", ".join(part.place or "the top" for part in parts[:MOST_NAMED]) + more


def _tables(loaded: Mapping[Any, Any]) -> tuple[dict[tuple[str, ...], State], list[str]]:
    """Return all that holds tensors by name, by the keys that lead there; and places without names.

    The latter are lists, and averages beside each tensor.
    """
    tables: dict[tuple[str, ...], State] = {}
    lists: list[str] = []
    seen: set[int] = set()  # a damaged file may hold one dict at a million places
    todo: deque[tuple[tuple[str, ...], Mapping[Any, Any]]] = deque([((), loaded)])
    while todo:
        keys, table = todo.popleft()
        if id(table) in seen or len(keys) > MOST_DEPTH:
            continue
        seen.add(id(table))
        tensors = {n: t for n, t in table.items() if isinstance(n, str) and isinstance(t, Tensor)}
        if tensors:
            apart, left = _without_averages(_without_wrappers(tensors))
            tables |= {(*keys, *inner): part for inner, part in apart.items()}
            lists += ["/".join((*keys, name)) for name in left]
        for key, value in table.items():
            inner = (*keys, key if isinstance(key, str) else shown(key))
            if isinstance(value, Mapping):
                todo.append((inner, value))
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
                lists.append("/".join(inner))
    return tables, lists


def _without_wrappers(table: State) -> State:
    """Return names without what torch.compile, data parallelism and the like put in them."""
    named = {
        ".".join(p for p in name.split(".") if p not in INSIDE): t for name, t in table.items()
    }
    return named if len(named) == len(table) else table


def _without_averages(table: State) -> tuple[dict[tuple[str, ...], State], list[str]]:
    """Return a table apart from the averages that stand beside each tensor.

    At () it is without them; at `ema_*` they are by the names of what they average. Beside it,
    the places of those whose names cannot be told.

    Such are MMCV's, ema_backbone_x; it swaps both as it saves: its averages have the plain names.
    """
    starts = {name[: mark.start(1)] for name in table if (mark := NETWORK.search(name))}
    networks = tuple(  # averages that are told by what leads to them
        s for s in starts if BESIDE.search(s) and not BESIDE.sub("", s).endswith("image_encoder.")
    )
    plain: dict[str, dict[str, str]] = {}  # names without the word, by the word
    places = {}
    for name in table:
        mark = BESIDE.search(name)
        is_other = name.endswith(COUNTERS) or _is_moment(name)
        if mark and not name.startswith(networks) and not is_other:
            word = f"{mark[1]}_*" if mark[1] else f"*_{mark[2]}"
            plain.setdefault(word, {})[name] = name[: mark.start()] + name[mark.end() :]
            places[name] = word if mark[1] else name[: mark.end()]
    rest = {name: tensor for name, tensor in table.items() if name not in places}
    apart: dict[tuple[str, ...], State] = {(): rest}
    for word, names in plain.items():
        if any(bare in rest or NETWORK.search(bare) for bare in names.values()):
            apart[(word,)] = {
                bare: table[name] for name, bare in names.items() if bare in rest or "." in bare
            }
            places = {name: place for name, place in places.items() if name not in names}
    if len(apart) == 1 and not any(map(NETWORK.search, rest)):
        return {(): table}, []
    return apart, list(dict.fromkeys(places.values()))


def _networks(keys: tuple[str, ...], table: State) -> list[Part]:
    """Return the networks that names of `table` tell by what stands before them, no counters."""
    begins = [(name, mark.start(1)) for name in table if (mark := NETWORK.search(name))]
    prefixes = list(dict.fromkeys(name[:start] for name, start in begins))
    parts = []
    for prefix in prefixes[:MOST_NETWORKS]:
        inner = tuple(p for p in prefixes if p.startswith(prefix) and p != prefix)
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in table.items()
            if name.startswith(prefix)
            and not name.startswith(inner)
            and name.rpartition(".")[2] not in COUNTERS
            and not _is_moment(name)
        }
        parts.append(Part("/".join((*keys, *prefix.split(".")[:-1])), state))
    return parts


def _of_another_kind(loaded: Mapping[Any, Any], tables: Mapping[tuple[str, ...], State]) -> State:
    """Return tensors of a checkpoint of no network here, whose names an error will list."""
    parts = [Part("/".join(keys), table) for keys, table in tables.items()]
    parts = [part for part in parts if part.kind in ("averaged", "plain", "raw")]
    if parts:
        return min(parts, key=_preference).state
    keys = ", ".join(shown(key, 40) for key in list(loaded)[:MOST_NAMED])
    more = ", …" if len(loaded) > MOST_NAMED else ""
    raise NoNetworkError(f"holds no state_dict of a network; its keys are {keys}{more}")


def _unread(tables: Mapping[tuple[str, ...], State], lists: Sequence[str]) -> list[str]:
    """Return places of averaged weights that are lists, or have other names than a network's."""
    places = dict.fromkeys(lists)
    for keys, table in tables.items():
        for name, tensor in table.items():
            is_counter = not tensor.dim() or name.rpartition(".")[2] in COUNTERS
            if not is_counter and not NETWORK.search(name):
                places["/".join((*keys, *name.split(".")[:1]))] = None
    return [place for place in places if Part(place, {}).kind == "averaged"]
