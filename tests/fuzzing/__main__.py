"""Reads damaged files and says what came of it: `python -m tests.fuzzing`.

python -m tests.fuzzing --count 300                     every reader
python -m tests.fuzzing --reader "front.json" --count 1000 --seed 7
python -m tests.fuzzing --reader "front.json" --only 17 one mutant, here, with its traceback
python -m tests.fuzzing --count 300 --record results/benchmarks/fuzzing.json
"""

import argparse
import contextlib
import logging
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results.files import write_json
from results.record import commit, now, versions
from tests.conftest import ROOT
from tests.fuzzing.batch import SEED, kinds, outcomes, summary, table
from tests.fuzzing.check import Fuzzer, Outcome
from tests.fuzzing.readers import READERS

DOCS = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- fuzzing: written by `python -m tests.fuzzing --record` -->"
END = "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    add = parser.add_argument
    add("--reader", action="append", help="one of them; repeatable", choices=READERS)
    parser.add_argument("--count", type=int, default=300, help="mutants of each reader")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, help="this mutant, in this process")
    parser.add_argument("--record", type=Path, help="a JSON file for the result")
    parser.add_argument("--list", action="store_true", help="names of the readers")
    options = parser.parse_args()
    chosen = options.reader or list(READERS)
    if options.list:
        print("\n".join(READERS))
        return
    if options.only is not None:
        _show(chosen[0], options.only, options.seed)
        return
    started = time.monotonic()
    found: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt):
        for one in outcomes(dict.fromkeys(chosen, options.count), options.seed):
            found.append(one)
            if one.is_finding:
                print(f"{one.reader} {one.number}: {one.kind} at {one.place}", file=sys.stderr)
    rows = summary(found)
    print(table(rows))
    for line in kinds(found):
        print(line)
    if options.record:
        record = {
            "command": shlex.join(["python", "-m", "tests.fuzzing", *sys.argv[1:]]),
            "date": now().isoformat(timespec="seconds"),
            "commit": commit(),
            "seed": options.seed,
            "versions": versions(),
            "wall_seconds": round(time.monotonic() - started),
            "mutants": len(found),
            "findings": [one.to_dict() for one in found if one.is_finding],
            "readers": rows,
        }
        write_json(options.record, record)
        write_docs(record)
    sys.exit(any(one.is_finding for one in found))


def write_docs(record: dict[str, Any], path: Path = DOCS) -> None:
    """Put the table of a record where the docs quote it."""
    text = path.read_text()
    begin, rest = text.split(BEGIN)
    _, end = rest.split(END)
    path.write_text(f"{begin}{BEGIN}\n{quoted(record)}\n{END}{end}")


def quoted(record: dict[str, Any]) -> str:
    """What the docs say of a record."""
    rows = record["readers"]
    said = (
        f"{record['mutants']:,} mutants of {len(rows)} readers, seed {record['seed']}, "
        f"{len(record['findings'])} findings, on {record['date'][:10]}"
    )
    return f"{said}:\n\n{table(rows)}"


def _show(name: str, number: int, seed: int) -> None:
    """The mutant stays where it is, and its reader raises what it raises."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    fuzzer = Fuzzer(root, seed)
    path, _ = fuzzer.mutant(READERS[name], number)
    print(path, file=sys.stderr)
    logging.captureWarnings(False)
    print(READERS[name].use(path))


if __name__ == "__main__":
    main()
