"""Teach a multimodal language model to crop: an information gap first, then grounding.

The policy sees a global view that is just too small to answer from, may ask for crops of the full-resolution original,
and is trained with group-relative policy optimisation. Data flows one way:

    shard bytes -> Sample -> prompt -> episode (text <-> crops) -> reward columns -> advantages -> packed rows
    -> loss sums -> step -> metrics

Each room may import only the rooms above it:

    arguments, types, geometry  words of a command; plain data; boxes and their frames
    data                        images, shards, synthetic scenes, the datamodule
    episode                     what an episode is, in text and images
    policy                      the model in tensors: packing, attention, sampling (imports no other room)
    rollout                     the multi-turn loop
    pictures                    what is kept of an episode, and drawings of it (TensorBoard, viewer, ask)
    grpo                        advantages, losses, the LightningModule
    evaluation                  benchmarks, probes, metrics, reports (does not use grpo)
    callbacks                   stage switch, trajectory log, probes during training
    resolution                  which view each sample is shown
    ask, data_commands, doctor, export, lightning_cli, parser, viewer, cli      entry points: the commands
"""

from __future__ import annotations

__version__ = "0.1.0"
