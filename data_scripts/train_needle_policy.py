"""Train the small policy that ships with the package, from scratch, by plain supervised episodes.

    python data_scripts/train_needle_policy.py --out infogap/assets/needle_policy --minutes 45 --bf16

It reads digits in crops and legible views, points at signs and knows the tool's format; it never sees a crop that helps
(data_scripts/needle_lessons.py). The last line holds teacher-forced skills; data_scripts/measure_needle_policy.py measures
those of the model card in real episodes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import yaml
from needle_lessons import Lesson, Teacher, render_bank
from needle_model import build_config, build_model, build_tokenizer, save_policy
from torch import Tensor, nn
from torch.nn import functional

from infogap.episode.protocol import Protocol, ProtocolConfig
from infogap.geometry import Frame
from infogap.policy.patches import Patchifier
from infogap.policy.vision import batch_vision_tower, encode_images

ROOT = Path(__file__).resolve().parents[1]


def load_protocol(path: Path) -> Protocol:
    """The protocol of a YAML file such as configs/protocol/needle.yaml."""
    values = yaml.safe_load(path.read_text())
    return Protocol(ProtocolConfig(**{**values, "frame": Frame(values["frame"])}))


def positions(token_ids: Tensor, image_pad: int, grids: list[tuple[int, int]]) -> Tensor:
    """M-RoPE positions ``[3, B, L]`` of rows that all hold images of the same grids, without a loop over rows."""
    is_image = token_ids == image_pad
    rank = is_image.cumsum(1) - 1
    advance = (~is_image).long()
    offsets = torch.zeros(2, *token_ids.shape, dtype=torch.long, device=token_ids.device)
    start = 0
    for height, width in ((h // 2, w // 2) for h, w in grids):
        local = rank - start
        inside = is_image & (local >= 0) & (local < height * width)
        offsets[0] += torch.where(inside, local // width, 0)
        offsets[1] += torch.where(inside, local % width, 0)
        advance += (inside & (local == height * width - 1)).long() * max(height, width)
        start += height * width
    base = advance.cumsum(1) - advance
    return torch.stack([base, base + offsets[0], base + offsets[1]])


def lesson_loss(model: nn.Module, lesson: Lesson, image_pad: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the taught tokens ``[B, L]`` and whether each was predicted right."""
    grids = [grid for _, grid in lesson.images]
    width = model.config.text_config.hidden_size
    encoded = [
        encode_images(model.model.visual, values.flatten(0, 1), [grid] * len(values)).view(len(values), -1, width)[rows]
        for (values, grid), rows in zip(lesson.images, lesson.image_rows, strict=True)
    ]
    embeds = model.get_input_embeddings()(lesson.token_ids)
    features = torch.cat(encoded, 1).flatten(0, 1).to(embeds.dtype)
    embeds = embeds.masked_scatter((lesson.token_ids == image_pad)[..., None], features)
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=positions(lesson.token_ids, image_pad, grids),
        attention_mask={"full_attention": None},
        use_cache=False,
    ).last_hidden_state
    taught = lesson.targets >= 0
    logits = model.lm_head(hidden[taught]).float()
    wanted = lesson.targets[taught]
    loss = functional.cross_entropy(logits, wanted, reduction="mean")
    right = torch.ones_like(lesson.targets, dtype=torch.bool)
    right[taught] = logits.argmax(-1) == wanted
    return loss, right


def lessons(teacher: Teacher, batch: int, progress: float) -> list[tuple[str, float, Lesson]]:
    """Name, weight and batch of each lesson of one step: crops and pointing first, then ever larger readable views."""
    made = [("read_crop", 1.0, teacher.read_crop(batch)), ("look", 1.0, teacher.look(batch))]
    if progress > 0.25:
        made.append(("read_224", 0.5, teacher.read_native(batch // 4, 224)))
    if progress > 0.5:
        full = teacher.zoom(batch // 8) if teacher.rng.random() < 0.5 else teacher.read_native(batch // 8, 448)
        made.append(("zoom" if len(full.images) > 1 else "read_448", 0.5, full))
    return made


def train(args: argparse.Namespace) -> None:
    """Train and save."""
    torch.manual_seed(args.seed)
    protocol = load_protocol(ROOT / "configs/protocol/needle.yaml")
    tokenizer = build_tokenizer(protocol)
    model = build_model(build_config(tokenizer, args.width, args.layers))
    batch_vision_tower(model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters", flush=True)
    started = time.perf_counter()
    bank = render_bank(args.scenes, 1_000_000 + args.seed, args.workers)
    print(f"{args.scenes} scenes in {time.perf_counter() - started:.0f} s", flush=True)
    patchifier = Patchifier((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    teacher = Teacher(bank, tokenizer, protocol, patchifier, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    averages: dict[str, float] = {}
    samples: dict[str, int] = {}
    started, step = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < args.minutes * 60 and step < args.max_steps:
        progress = max(elapsed / (args.minutes * 60), step / args.max_steps)
        rate = args.lr * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 1.6 * (1 - progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, weight, lesson in lessons(teacher, args.batch, progress):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss, right = lesson_loss(model, lesson, teacher.image_pad)
            (loss * weight).backward()
            samples[name] = samples.get(name, 0) + len(lesson.token_ids)
            for key, value in skills(lesson, loss, right).items():
                averages[f"{name}/{key}"] = averages.get(f"{name}/{key}", value) * 0.98 + value * 0.02
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % args.log_every == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in sorted(averages.items()))
            print(f"step {step} {time.perf_counter() - started:.0f} s lr {rate:.1e} {shown}", flush=True)
            save_policy(model, tokenizer, args.out)
    save_policy(model, tokenizer, args.out)
    report = {"parameters": parameters, "steps": step, "samples": samples, "seconds": round(elapsed), "seed": args.seed}
    report |= {"scenes": args.scenes, "teacher_forced": {name: round(value, 4) for name, value in averages.items()}}
    (args.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


def skills(lesson: Lesson, loss: Tensor, right: Tensor) -> dict[str, float]:
    """Loss, and how often the answer's token, the second taught one of a row, and a call's coordinates were right."""
    taught = lesson.targets >= 0
    order = taught.cumsum(1)
    count = taught.sum(1, keepdim=True)
    short = (count <= 4) & taught & (order == 2)
    values = {"loss": loss.item()}
    if short.any():
        values["answer"] = right[short].float().mean().item()
    if len(lesson.images) > 1:
        values["after_crop"] = right[taught & (order == count - 2)].float().mean().item()
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--minutes", type=float, default=45.0, help="training time after rendering")
    parser.add_argument("--max-steps", type=int, default=1_000_000, help="largest number of optimiser steps")
    parser.add_argument("--batch", type=int, default=64, help="episodes of a lesson at crop size")
    parser.add_argument("--scenes", type=int, default=6_000, help="rendered scenes")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=128, help="hidden width of the language model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4, help="layers of the language model")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, for processors that have it")
    parser.add_argument("--log-every", type=int, default=200, help="steps between lines of the log")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
