"""The networks that `nas.export` is asked for, and what their runs predict of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lut.exporting.options import Prediction, Wanted
from nas.picks import check_pick, pick
from results.errors import ArchError, RunError
from results.fronts import FRONT_ALL, CandidateRecord, FrontRecord, read_front_record
from results.runs import read_record
from results.sheets import read_sheet
from supernet.official import known_name
from supernet.resolve import is_file, is_folder, is_weights, resolve_arch


def wanted_networks(texts: tuple[str, ...], picked: str | None) -> tuple[Wanted, ...]:
    """Return the networks that a user names: a name, a file, RUN#ID, or RUN with a pick.

    Raises UserError for what names none; ArchError for a run without a pick and a pick without.
    """
    if picked is not None:
        check_pick(picked)
    return tuple(_wanted(text, picked) for text in texts)


def _wanted(text: str, picked: str | None) -> Wanted:
    named = known_name(text)
    if picked is not None:
        if named or "#" in text or not is_folder(text):
            raise ArchError(f"--pick chooses a network of a run, and {text} is no run folder")
        run = Path(text)
        front = read_front_record(run, FrontRecord)
        places = {
            number: (own.latency_ms, own.accuracy)
            for number, own in zip(front.ids, front.candidates, strict=True)
        }
        text = f"{text}#{pick(places, picked, text)}"
    if named:
        return Wanted(text, named[0])
    if text.lstrip().startswith("{"):
        return Wanted(text, "arch")
    if is_weights(text) or is_file(text):
        return Wanted(text, _plain(Path(text).stem))
    run_name, hash_, number = text.rpartition("#")
    if hash_ and is_folder(run_name):
        name = _plain(f"{Path(run_name).resolve().name}-{number}")
        return Wanted(text, name, resolve_arch(text), _predictions(Path(run_name), number))
    if is_folder(text):
        raise ArchError(
            f"{text} is a run; name a network of it as {text}#ID, or by --pick knee, fastest, best "
            'or "<=20ms"'
        )
    resolve_arch(text)  # which says what is wrong with it
    raise ArchError(f"{text} names no network")


def _plain(name: str) -> str:
    """Return a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-") or "arch"


def _predictions(run: Path, number: str) -> tuple[Prediction, ...]:
    """Return what a run predicts a network of it to take, on each of its devices."""
    front = read_front_record(run, FrontRecord)
    own = dict(zip(front.ids, front.candidates, strict=True)).get(int(number))
    sources = sources_of(run)
    devices = list(front.devices) or list(sources)[:1] or [front.title]
    latencies = _of_candidate(own) if own else _of_row(run, number, front.devices)
    return tuple(
        _prediction(device, latency, sources.get(device, {}), front.latency_source)
        for device, latency in zip(devices, latencies, strict=False)
    )


def _prediction(
    device: str, latency: tuple[float, float], source: Mapping[str, Any], text: str
) -> Prediction:
    runtime, precision = (
        value if isinstance(value := source.get(name), str) else None
        for name in ("runtime", "precision")
    )
    batch = source.get("batch")
    return Prediction(
        device, *latency, text, runtime, precision, batch if isinstance(batch, int) else None
    )


def _of_candidate(own: CandidateRecord) -> list[tuple[float, float]]:
    others = [(other.latency_ms, other.latency_std_ms) for other in own.others]
    return [(own.latency_ms, own.latency_std_ms), *others]


def _of_row(run: Path, number: str, devices: tuple[str, ...]) -> list[tuple[float, float]]:
    """Return the latencies of a network that was thinned out of the front, from its sheet."""
    middles = [f"_{device}" for device in devices] if len(devices) > 1 else [""]
    columns = [(f"latency{own}_ms", f"latency{own}_std_ms") for own in middles]
    for line, row in read_sheet(run / FRONT_ALL, ("id",)):
        if row.get("id") == str(int(number)):
            try:
                return [(float(row[ms]), float(row[std])) for ms, std in columns]
            except (KeyError, ValueError):
                where = f"{run / FRONT_ALL}, line {line}"
                raise RunError(f"{where} is damaged: it has no latency") from None
    return []


def sources_of(run: Path) -> dict[str, dict[str, Any]]:
    """Return what a run says of its devices' tables, by device; empty where it does not.

    Raises RunError where `run` is none.
    """
    latency = read_record(run).get("sources")
    latency = latency.get("latency") if isinstance(latency, dict) else None
    if not isinstance(latency, dict):
        return {}
    if isinstance(latency.get("device"), str):
        return {latency["device"]: latency}
    return {name: own for name, own in latency.items() if isinstance(own, dict)}
