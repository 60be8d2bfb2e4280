"""Benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from infogap.evaluation.benchmarks.base import Benchmark
from infogap.evaluation.benchmarks.cvbench import CVBench
from infogap.evaluation.benchmarks.hrbench import HRBench4K, HRBench8K
from infogap.evaluation.benchmarks.mme_realworld import MMERealWorld, MMERealWorldLite
from infogap.evaluation.benchmarks.mmstar import MMStar
from infogap.evaluation.benchmarks.pope import POPE
from infogap.evaluation.benchmarks.shards import Shards
from infogap.evaluation.benchmarks.treebench import TreeBench
from infogap.evaluation.benchmarks.visualprobe import VisualProbeEasy, VisualProbeHard, VisualProbeMedium
from infogap.evaluation.benchmarks.vstar import VStar
from infogap.evaluation.benchmarks.xlrs import XLRSBenchLite
from infogap.evaluation.benchmarks.zoombench import ZoomBench
from infogap.evaluation.question import BenchmarkError

BENCHMARKS: Final[Mapping[str, type[Benchmark]]] = MappingProxyType(
    {
        benchmark.name: benchmark
        for benchmark in (
            VStar,
            HRBench4K,
            HRBench8K,
            MMERealWorld,
            MMERealWorldLite,
            XLRSBenchLite,
            VisualProbeEasy,
            VisualProbeMedium,
            VisualProbeHard,
            TreeBench,
            ZoomBench,
            MMStar,
            CVBench,
            POPE,
            Shards,
        )
    }
)
"""All benchmarks, by the names that configs use."""


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        BenchmarkError: if there is none; names the nearest, if one is near.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]()
    nearest = get_close_matches(name.lower(), BENCHMARKS, n=1)
    meant = f"did you mean {nearest[0]!r}? All are" if nearest else "give one of"
    raise BenchmarkError(f"There is no benchmark {name!r}: {meant} {', '.join(sorted(BENCHMARKS))}.")
