"""Memory and time that the recipes in configs/ are expected to take, by arithmetic: nothing is run.

    python tests/benchmarks/recipe_budget.py

prints the table of the README. The arithmetic is that of ``infogap doctor``, see ``infogap/doctor/budget.py``; what is
assumed of the episodes stands below. The time of the vision tower is part of the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

from infogap.doctor.budget import Recipe, Workload, memory, step_time
from infogap.doctor.hardware import TABLE
from infogap.doctor.shapes import published_config
from infogap.doctor.sizes import count

GIB = 1 << 30
H100 = TABLE["h100"]


@dataclass(frozen=True)
class Row:
    """One way to train a model: a row of the table."""

    name: str
    shape: str
    devices: int
    sharded: bool
    lora: bool
    prompt: int = 1100
    row: int = 16384

    @property
    def recipe(self) -> Recipe:
        """How the weights are held."""
        width = 2 if self.lora else 4  # as configs/model/lora.yaml and the models' overlays load them
        return Recipe(self.devices, self.sharded, self.lora, weight_bytes=width, frozen_bytes=width)

    @property
    def work(self) -> Workload:
        """256 prompts x 16 episodes of 300 policy tokens and one crop of 600; the longest of a wave writes 1,024."""
        return Workload(
            prompts=256,
            group=16,
            prompt=self.prompt,
            view=self.prompt,
            written=300,
            longest=1024,
            crops=1,
            crop=600,
            slot=2048 + 4 * (1024 + 64),
            row=self.row,
        )


ROWS = (
    Row("3b + fsdp", "3b", 1, sharded=True, lora=False),
    Row("3b + lora", "3b", 1, sharded=False, lora=True),
    Row("3b + fsdp", "3b", 8, sharded=True, lora=False),
    Row("7b + lora", "7b", 1, sharded=False, lora=True),
    Row("7b + lora + ddp", "7b", 8, sharded=False, lora=True),
    Row("7b + lora + fsdp", "7b", 8, sharded=True, lora=True),
    Row("7b + fsdp", "7b", 8, sharded=True, lora=False),
    Row("7b + fsdp, paper/control", "7b", 8, sharded=True, lora=False, prompt=16460, row=32768),
    Row("7b + fsdp, 4 machines", "7b", 32, sharded=True, lora=False),
)


def main() -> None:
    """Print the table."""
    print(
        "| recipe | GPUs | weights, states | playing: gathered, images, cache | update | waves | rollout | update | "
        "a step | a checkpoint | a machine's memory |"
    )
    print("|---" * 11 + "|")
    for row in ROWS:
        sizes = count(published_config(row.shape))
        held = memory(row.recipe, row.work, sizes, H100.memory)
        seconds = step_time(row.recipe, row.work, sizes, held.cache, H100)
        cells = [row.name, f"{row.devices}", f"{held.states / GIB:.0f} GiB"]
        cells += [f"{held.gathered / GIB:.0f} + {held.images / GIB:.0f} + {held.cache / GIB:.0f} GiB"]
        cells += [f"{held.update / GIB:.0f} GiB", f"{seconds.waves}"]
        cells += [f"{seconds.rollout + seconds.vision:.0f} s", f"{seconds.update:.0f} s"]
        cells += [f"{seconds.step / 60:.1f} min"]
        print(f"| {' | '.join([*cells, f'{held.checkpoint / GIB:.0f} GiB', f'{held.machine / GIB:.0f} GiB'])} |")


if __name__ == "__main__":
    main()
