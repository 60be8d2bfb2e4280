"""Memory and time that a recipe is expected to take, by arithmetic: nothing is run.

What is counted, a device (bytes a number in brackets):

* weights: trained ones in their type with gradient and both moments of AdamW, in float32 [4 + 4 + 8], over the devices
  if sharded; adapters are float32 always. Frozen ones in their type.
* a reference for the KL term: the weights once more, without adapters.
* playing: sharded, all weights of the language model gathered in bfloat16 [2], and given back before the update. Visual
  tokens of all images of the step, kept for the update, since the tower is frozen. Keys and values of as many groups as
  fit into 70 % of the rest (``infogap.policy.memory.SHARE``), which makes the waves.
* update: with checkpointing the input of every layer of a row, and inside one layer some ``10 * width + 6 * inner``
  numbers a token while it is computed again; without, these of every layer. Three float32 copies of a slice of logits.
  Sharded, the gathered embeddings and head [2] and two gathered layers.
* a checkpoint: weights and moments of what is trained [12], and the frozen weights as they are.
* memory of the machine: every process loads the whole policy in the type of its weights before it is sharded, and holds
  the patches of the step's images, 18,816 bytes a visual token.

Time of a step: the update computes ``6 * weights * tokens`` (forward 2, backward 4; adapters need no gradient of the
weights below them: 4), and 2 more with checkpointing. Playing reads weights and the cache once for each token of a
wave's longest episode, and encodes prompts and crops. Where an operation costs time however small it is, the operations
of all passes are counted, see ``OPERATIONS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from infogap.doctor.hardware import Hardware
from infogap.doctor.sizes import Sizes
from infogap.policy.logprobs import SLICE_LOGITS
from infogap.policy.memory import SHARE

PATCH_BYTES = 18816
"""Patches of one visual token: 4 of 1,176 float32 numbers."""

OPERATIONS = 60
"""Operations of one layer's forward pass over one token, views of tensors included."""


@dataclass(frozen=True)
class Recipe:
    """How the weights are held.

    Attributes:
        devices: how many there are.
        sharded: whether weights and states are shared out over them.
        lora: whether the language model has adapters instead of being trained itself.
        tower: "frozen", "full" or "lora".
        weight_bytes: of a number of the trained part, or of the part under adapters.
        frozen_bytes: of a number of the frozen tower.
        compute_bytes: of a number in the passes, and in the values of attention.
        key_bytes: of a number in the keys; under autocast over float32 weights they are float32.
        checkpointing: whether activations are computed again.
        reference: whether a frozen copy of the whole policy is held for the KL term; with adapters none is needed.
    """

    devices: int
    sharded: bool
    lora: bool
    tower: str = "frozen"
    weight_bytes: int = 4
    frozen_bytes: int = 4
    compute_bytes: int = 2
    key_bytes: int = 2
    checkpointing: bool = True
    reference: bool = False


@dataclass(frozen=True)
class Workload:
    """What one step plays and learns from, in tokens; over all devices.

    Attributes:
        prompts: groups.
        group: episodes of a group.
        prompt: tokens of a prompt, its view included.
        view: visual tokens of its view.
        written: tokens that an episode writes, in the mean.
        longest: tokens of the longest episode of a wave.
        crops: crops of an episode, in the mean.
        crop: visual tokens of a crop.
        slot: tokens that there is room for after a prompt.
        row: most tokens of a packed row.
        updates: updates on the same episodes.
    """

    prompts: int
    group: int
    prompt: float
    view: float
    written: float
    longest: int
    crops: float
    crop: float
    slot: int
    row: int
    updates: int = 1

    @property
    def images(self) -> float:
        """Visual tokens of a step."""
        return self.prompts * (self.view + self.group * self.crops * self.crop)

    @property
    def tokens(self) -> float:
        """All tokens of a step, every prompt counted once."""
        return self.prompts * (self.prompt + self.group * (self.written + self.crops * self.crop))


@dataclass(frozen=True)
class Memory:
    """Bytes a device, by what for; of a checkpoint; and of a machine with at most eight devices.

    Attributes:
        states: weights, gradients and moments.
        gathered: weights while episodes are played.
        images: visual tokens of the step.
        cache: keys and values that there is room for.
        group_cache: keys and values of one group.
        update: activations and logits of a row.
        checkpoint: a checkpoint.
        machine: memory of the machine.
    """

    states: float
    gathered: float
    images: float
    cache: float
    group_cache: float
    update: float
    checkpoint: float
    machine: float


@dataclass(frozen=True)
class Seconds:
    """Seconds of a step by what for, and the waves that its groups are played in.

    Attributes:
        waves: waves of a device.
        rollout: encoding prompts and crops, and decoding.
        vision: the vision tower over all images.
        update: the update.
    """

    waves: int
    rollout: float
    vision: float
    update: float

    @property
    def step(self) -> float:
        """All of them."""
        return self.rollout + self.vision + self.update


def trained_weights(recipe: Recipe, sizes: Sizes) -> int:
    """Numbers that are trained."""
    tower = {"full": sizes.tower, "lora": sizes.tower_adapters}.get(recipe.tower, 0)
    return (sizes.adapters if recipe.lora else sizes.language) + tower


def memory(recipe: Recipe, work: Workload, sizes: Sizes, device_bytes: float) -> Memory:
    """What a recipe takes; see the head of this file.

    Args:
        recipe: how the weights are held.
        work: what is played.
        sizes: the model.
        device_bytes: memory of a device.
    """
    share = recipe.devices if recipe.sharded else 1
    trained = trained_weights(recipe, sizes)
    held = recipe.frozen_bytes * sizes.tower if recipe.tower != "full" else 0
    beneath = recipe.weight_bytes * sizes.language if recipe.lora else 0
    states = (16 if recipe.lora else 4 * recipe.weight_bytes) * trained / share + held + beneath / share
    states += recipe.weight_bytes * (sizes.language + sizes.tower) / share if recipe.reference else 0
    gathered = 2 * sizes.language if recipe.sharded else 0
    visual = work.images / recipe.devices
    images = recipe.compute_bytes * sizes.width * visual
    inside = 10 * sizes.width + 6 * sizes.inner
    layers = sizes.layers * sizes.width + inside if recipe.checkpointing else sizes.layers * (sizes.width + inside)
    update = recipe.compute_bytes * work.row * layers
    update += 3 * 4 * min(SLICE_LOGITS, work.row * sizes.vocabulary)
    update += 2 * (sizes.ends + 2 * sizes.layer) if recipe.sharded else 0
    stored = recipe.weight_bytes * (sizes.language + sizes.tower)
    return Memory(
        states=states,
        gathered=gathered,
        images=images,
        cache=max(0.0, SHARE * (device_bytes - states - gathered - images)),
        group_cache=cache_bytes(recipe, sizes) * (work.prompt + work.group * work.slot),
        update=update,
        checkpoint=12 * trained + held + beneath,
        machine=min(recipe.devices, 8) * (stored + PATCH_BYTES * visual),
    )


def cache_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """Keys and values of one token in all layers, as ``infogap.policy.memory.token_bytes`` counts them."""
    return (recipe.key_bytes + recipe.compute_bytes) * sizes.layers * sizes.key_width


def step_time(recipe: Recipe, work: Workload, sizes: Sizes, cache: float, on: Hardware) -> Seconds:
    """Seconds of a step on devices of a kind.

    Args:
        recipe: how the weights are held.
        work: what is played.
        sizes: the model.
        cache: bytes for keys and values.
        on: the device.
    """
    token, width = cache_bytes(recipe, sizes), recipe.compute_bytes
    groups = work.prompts / recipe.devices
    in_wave = min(groups, max(1, cache // (token * (work.prompt + work.group * work.slot))))
    waves = math.ceil(groups / in_wave)
    multiplied, mine = sizes.language - sizes.ends, work.tokens / recipe.devices
    passes = (4 if recipe.lora else 6) + (2 if recipe.checkpointing else 0)
    update = work.updates * passes * multiplied * mine / on.matmul
    held = in_wave * (work.prompt + work.group * (work.written / 2 + work.crops * work.crop)) * token
    # slots are given up as their episodes end, so that the tail reads little but the weights
    read = work.written * (width * sizes.language + held) + (work.longest - work.written) * width * sizes.language
    encoded = (work.prompt + work.group * work.crops * work.crop) * groups
    # decoded tokens are multiplied as well, which counts where reading is fast
    written = 2 * multiplied * work.written * work.group * in_wave / on.matmul if on.measured else 0.0
    rollout = waves * (max(read / on.copy, written)) + 2 * multiplied * encoded / on.matmul
    vision = 2 * sizes.tower * 4 * work.images / recipe.devices / on.matmul
    # a trained tower encodes the images once more, and is gone back through
    update += 3 * work.updates * vision if recipe.tower != "frozen" else 0.0
    operations = OPERATIONS * sizes.layers * on.operation_s
    rows = math.ceil(mine / work.row)
    # a wave decodes its longest episode token by token; an update is three passes, and a fourth with checkpointing
    rollout += waves * work.longest * operations
    update += rows * work.updates * (4 if recipe.checkpointing else 3) * operations
    return Seconds(waves, rollout, vision, update)
