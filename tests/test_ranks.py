"""Two processes train as one does: replicated and sharded, full and LoRA, uneven batches, a rank without a group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import SCENARIOS, SIZES
from tiny_policy import SCENES, write_tiny_policy

from infogap.data.needle_shards import write_needle_shards

TOLERANCE = 1e-5


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(folder: Path, out: Path, rank: int, world_size: int, port: int) -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "ranks.py"
    arguments = [str(part) for part in (script, folder, out, rank, world_size, port, *SCENARIOS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / f"{world_size}_{rank}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, env=environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every scenario in one process, and in two."""
    folder = tmp_path_factory.mktemp("ranks")
    write_tiny_policy(folder / "policy")
    write_needle_shards(SCENES, folder / "train", count=16, seed=0)
    port = free_port()
    running = [
        start(folder, folder / "one.pt", 0, 1, port),
        start(folder, folder / "two.pt", 0, 2, port),
        start(folder, folder / "two.pt", 1, 2, port),
    ]
    try:
        statuses = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
    assert statuses == [0, 0, 0], logs
    one, two = (torch.load(folder / name, weights_only=True) for name in ("one.pt", "two.pt"))
    return one, two


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_end_with_the_weights_of_one(runs: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    one, two = (run[name]["weights"] for run in runs)
    assert set(one) == set(two)
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < TOLERANCE


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_log_what_one_does(runs: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    one, two = (run[name]["steps"] for run in runs)
    assert [set(step) for step in two] == [set(step) for step in one]
    assert len(one) == len(SIZES)
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=TOLERANCE, rel=TOLERANCE)
    assert all(step["optim/grad_norm"] > 0 for step in one)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_shard_is_half_of_weights_and_optimiser_states(
    runs: tuple[dict[str, Any], dict[str, Any]], name: str
) -> None:
    found = runs[1][name]
    share = found["numbers_here"] / found["numbers"]
    assert share == (1.0 if "replicated" in name else pytest.approx(0.5, abs=0.02))


@pytest.mark.parametrize("name", SCENARIOS)
def test_playing_needs_no_collective(runs: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    assert runs[1][name]["collectives_while_playing"] == 0


def test_computing_in_bfloat16_leaves_what_rotates_exact(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert runs[1]["in_bfloat16"] == [[], []]


def test_a_sharded_run_goes_on_bit_for_bit(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert runs[1]["resumed"] == dict.fromkeys(("clocks", "weights", "moments", "trained"), True)
