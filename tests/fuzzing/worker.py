"""The process that mutants run in: `python -m tests.fuzzing.worker ROOT SEED READER:FIRST:END...`.

It tells each mutant before it is read and after; where one ends the process, or hangs it in C,
whoever started it knows which.
"""

import faulthandler
import json
import os
import sys
from pathlib import Path

from tests.fuzzing.check import Fuzzer


def main() -> None:
    root, seed, *parts = sys.argv[1:]
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print
    faulthandler.enable()
    from tests.fuzzing.readers import READERS

    fuzzer = Fuzzer(Path(root), int(seed))
    for part in parts:
        name, first, end = part.rsplit(":", 2)
        if first == "0" and (unsound := fuzzer.check_sound(READERS[name])):
            print(json.dumps(unsound.to_dict()), file=lines)
            continue
        for number in range(int(first), int(end)):
            print(json.dumps({"begun": [name, number]}), file=lines)
            print(json.dumps(fuzzer.run(READERS[name], number).to_dict()), file=lines)
    lines.flush()
    os._exit(0)  # not through threads that a reader left


if __name__ == "__main__":
    main()
