"""Is a data set converted in bounded memory, and at half the speed of a plain copy?

    python tests/benchmarks/large_parquet.py /tmp/large.parquet
    python tests/benchmarks/convert_speed.py /tmp/large.parquet --json OUT

The file is copied (`shutil.copyfile`, then fsync), converted in a process of its own, which waits for the disk as well,
and copied once more, as often as asked, with nothing dropped from the page cache. The time of a conversion is that of
the command without Python's imports, which are given beside it; its peak memory is that of the whole process, imports
included. Writes beside the file, so that all is on one disk, and removes what it wrote. The exit status is 1 if the
conversion needs more than 1 GB, or is slower than half the speed of a copy (medians).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

MAX_MEMORY = 1e9
MIN_RATIO = 0.5

CONVERT = """
import json, resource, sys, time
started = time.perf_counter()
from infogap.cli import short_errors
from infogap.data.convert.command import main
imported = time.perf_counter()
baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with short_errors():
    main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
report = {"seconds": time.perf_counter() - imported, "import_seconds": imported - started}
report |= {"peak_bytes": used.ru_maxrss * 1024, "imported_bytes": baseline * 1024}
report |= {"cpu_seconds": used.ru_utime + used.ru_stime}
print(json.dumps(report))
"""
"""What data_scripts/convert.py does, with clocks."""


def copy(file: Path, target: Path) -> float:
    """Seconds of a copy."""
    started = time.perf_counter()
    shutil.copyfile(file, target)
    with target.open("rb+") as written:
        os.fsync(written.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def convert(source: str, file: Path, out: Path) -> dict[str, Any]:
    """What the process that converts says of itself."""
    command = [sys.executable, "-c", CONVERT, source, str(file), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    summary = json.loads((out / "summary.json").read_text())
    shutil.rmtree(out)
    return report | {name: summary[name] for name in ("rows", "kept", "image_bytes", "shards", "shard_bytes")}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and return the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a parquet file")
    parser.add_argument("--source", default="verl", help="which converter reads it (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="conversions (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the report")
    chosen = parser.parse_args(arguments)
    size = chosen.file.stat().st_size
    with tempfile.TemporaryDirectory(prefix="convert-speed-", dir=chosen.file.parent) as folder:
        place = Path(folder)
        copies = [copy(chosen.file, place / "copy")]
        conversions = []
        for _ in range(chosen.repeat):
            conversions.append(convert(chosen.source, chosen.file, place / "shards"))
            copies.append(copy(chosen.file, place / "copy"))
    copy_seconds = median(copies)
    seconds = median(conversion["seconds"] for conversion in conversions)
    report: dict[str, Any] = {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "bytes": size,
        "seconds": seconds,
        "gigabytes_per_second": size / seconds / 1e9,
        "peak_bytes": max(conversion["peak_bytes"] for conversion in conversions),
        "copy_seconds": copies,
        "copy_gigabytes_per_second": size / copy_seconds / 1e9,
        "speed_ratio": copy_seconds / seconds,
        "conversions": conversions,
    }
    print(json.dumps(report, indent=1))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    found = main()
    sys.exit(found["peak_bytes"] > MAX_MEMORY or found["speed_ratio"] < MIN_RATIO)
