"""What a table's provenance says of the machine that was measured, and how warm it is.

One portable shell script each: a single connection, whatever the host, and what a machine does
not tell is left out.
"""

import re
from typing import Any

from results.errors import printable

# Prints `name=value`, lists as several lines of one name. /proc and /sys are Linux and Android,
# getprop and dumpsys Android, sysctl macOS, nvpmodel and jetson_clocks Jetson.
FACTS = r"""
say() { [ -n "$2" ] && printf '%s=%s\n' "$1" "$2"; }
one() { [ -r "$2" ] && say "$1" "$(head -n 1 "$2" 2>/dev/null | tr -d '\000')"; }
has() { command -v "$1" >/dev/null 2>&1; }
quick() { if has timeout; then timeout 10 "$@"; else "$@"; fi 2>/dev/null; }
say kernel "$(uname -sr)"
say machine "$(uname -m)"
say num_cpus "$(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null)"
say memory_mb "$(sed -n 's/^MemTotal: *\([0-9]*\)[0-9]\{3\} kB/\1/p' /proc/meminfo 2>/dev/null)"
[ -r /etc/os-release ] && say os "$(. /etc/os-release; printf %s "$PRETTY_NAME")"
field() { sed -n "s/^$1[[:space:]]*:[[:space:]]*//p" /proc/cpuinfo 2>/dev/null | sort -u; }
field 'model name' | while read -r v; do say cpu "$v"; done
field Hardware | while read -r v; do say soc "$v"; done
if [ -z "$(field 'model name')" ] && has lscpu; then
    lscpu 2>/dev/null | sed -n 's/^Model name:[[:space:]]*//p' |
        while read -r v; do say cpu "$v"; done
fi
has sysctl && say cpu "$(sysctl -n machdep.cpu.brand_string 2>/dev/null)"
one model /proc/device-tree/model
one model /sys/class/dmi/id/product_name
one soc /sys/devices/soc0/soc_id
if has getprop; then
    say os "Android $(getprop ro.build.version.release)"
    say model "$(getprop ro.product.manufacturer) $(getprop ro.product.model)"
    say soc "$(getprop ro.soc.manufacturer) $(getprop ro.soc.model)"
    say soc "$(getprop ro.board.platform)"
    say build "$(getprop ro.build.fingerprint)"
fi
for cpu in /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do
    [ -d "$cpu" ] || continue
    id=${cpu%/cpufreq}; id=${id##*cpu}
    f() { head -n 1 "$cpu/$1" 2>/dev/null; }
    say frequency "cpu$id $(f scaling_governor) $(f scaling_min_freq)-$(f scaling_max_freq) kHz"
    say governor "$(f scaling_governor)"
done
has nvpmodel && quick nvpmodel -q | while read -r v; do say nvpmodel "$v"; done
has jetson_clocks && quick jetson_clocks --show | while read -r v; do say jetson_clocks "$v"; done
has nvidia-smi && quick nvidia-smi --format=csv,noheader \
    --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit |
    while read -r v; do say gpu "$v"; done
if has dumpsys; then
    quick dumpsys battery | sed -n 's/^ *level: */battery_percent=/p'
    quick dumpsys thermalservice | sed -n 's/^Thermal Status: */thermal_status=/p'
fi
exit 0
"""

TEMPERATURES = r"""
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] && printf 'zone %s %s\n' "$(cat "$zone/temp" 2>/dev/null)" \
        "$(cat "$zone/type" 2>/dev/null)"
done
if command -v dumpsys >/dev/null 2>&1; then dumpsys thermalservice 2>/dev/null; fi
exit 0
"""

_WHOLE_NUMBERS = ("num_cpus", "memory_mb", "battery_percent", "thermal_status")
_LISTS = ("frequency", "nvpmodel", "jetson_clocks", "gpu")
_PROCESSOR_ZONE = re.compile(r"cpu|gpu|soc|pkg|tj|core|cluster|tsens|big|little|mid", re.IGNORECASE)
_HAL = re.compile(r"Temperature\{mValue=(-?\d{1,9}(?:\.\d{1,9})?), mType=(\d{1,9})\b")
MOST_LINES = 2000  # of facts; 200 CPUs have 400
MOST_CHARACTERS = 500  # of a fact
MOST_VALUES = 300  # of one name
_PROCESSOR_TYPES = ("0", "1")  # of Android's Temperature: CPU and GPU; 2 battery, 3 skin


def parse_facts(text: str) -> dict[str, Any]:
    """Return facts by name: a string, a whole number, or a list where there may be several."""
    by_name: dict[str, list[str]] = {}
    for line in text.splitlines()[:MOST_LINES]:
        name, sign, value = line[: 4 * MOST_CHARACTERS].partition("=")
        value = printable(value)[:MOST_CHARACTERS]
        if not (sign and re.fullmatch(r"\w{1,40}", name) and re.search(r"\w", value)):
            continue
        values = by_name.setdefault(name, [])
        if value not in values and len(values) < MOST_VALUES:
            values.append(value)
    facts: dict[str, Any] = {}
    for name, values in by_name.items():
        if name in _WHOLE_NUMBERS:
            if values and values[0].isdecimal() and len(values[0]) < 16:
                facts[name] = int(values[0])
        elif values:
            facts[name] = values if name in _LISTS else ", ".join(values)
    return facts


def parse_temperature_c(text: str) -> float | None:
    """Return the warmest of the processor's sensors; of any where none is called so; None without.

    Phones report dead sensors as -274 °C or 0, and currents among the temperatures.
    """
    processor: list[float] = []
    other: list[float] = []
    for line in text.partition("Cached temperatures:")[0].splitlines():
        if line.startswith("zone ") and (parts := line.split(maxsplit=2))[1:2]:
            with_type = parts[2] if len(parts) == 3 else ""
            try:
                celsius = float(parts[1][:20])
            except ValueError:
                continue
            celsius = celsius / 1000 if abs(celsius) >= 1000 else celsius
            (processor if _PROCESSOR_ZONE.search(with_type) else other).append(celsius)
    # The cached ones are the last that were sent to listeners, maybe hours ago.
    for value, kind in _HAL.findall(text.partition("Current temperatures from HAL:")[2]):
        (processor if kind in _PROCESSOR_TYPES else other).append(float(value))
    for sensors in (processor, other):
        if sane := [celsius for celsius in sensors if 1 < celsius < 150]:
            return max(sane)
    return None


def parse_thermal_status(text: str) -> int | None:
    """Return Android's verdict, 0 where nothing is throttled; None where it does not tell."""
    match = re.search(r"^[ \t]*Thermal Status: (\d{1,3})\b", text, re.MULTILINE)
    return int(match[1]) if match else None
