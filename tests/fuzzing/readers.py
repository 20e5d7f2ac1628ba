"""All readers, one row each in `of_tables`, `of_runs`, `of_data` and `of_models`.

Left out, as nobody else writes it: what is shipped in the package (its tables, devices, points and
published figures, which are read by the same functions), what the kernel tells (/proc, /sys),
`models.json` and the blocks beside it, which a command writes for its own timer, and flags, which
are the user's own.
"""

from tests.fuzzing import of_data, of_models, of_runs, of_tables

READERS = {
    reader.name: reader
    for module in (of_tables, of_runs, of_data, of_models)
    for reader in module.READERS
}
