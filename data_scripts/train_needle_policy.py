"""Train the small policy that ships with the package, from scratch, by plain supervised episodes.

    python data_scripts/train_needle_policy.py --out infogap/assets/needle_policy

First the vision tower learns what stands where (data_scripts/needle_vision.py), then, on its tokens, the language
model learns to speak (data_scripts/needle_lessons.py). It reads digits in crops and legible views, points at signs
and knows the tool's format; it never sees a crop that helps. The last line holds teacher-forced skills;
data_scripts/measure_needle_policy.py measures those of the model card in real episodes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from needle_lessons import CANVAS, VIEW_SIDES, Bank, Kind, Lesson, Teacher, render_bank
from needle_model import build_config, build_model, build_tokenizer, needle_protocol, save_policy
from needle_vision import BindingReadout, CellReadout, label_cells, stack_labels
from torch import Tensor, nn
from torch.nn import functional

from infogap.geometry import Box
from infogap.policy.patches import Patchifier
from infogap.policy.vision import batch_vision_tower, encode_images


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
    embeds = model.get_input_embeddings()(lesson.token_ids)
    features = torch.cat([tokens for tokens, _ in lesson.images], 1).flatten(0, 1).to(embeds.dtype)
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


SHARES = {
    "crops": {"canvas": 1.0, "native": 2.0, "view": 1.0, "window": 5.0},
    "canvases": {"canvas": 1.5, "native": 5.0, "view": 0.8, "window": 2.5},
}
"""How often the vision tower sees each kind of image. "native" is a crop-sized piece of a canvas, not resized."""
NATIVE = 112


def see(
    model: nn.Module, bank: Bank, patchifier: Patchifier, minutes: float, emphasis: str, rng: np.random.Generator
) -> dict[str, float]:
    """Train the vision tower; returns its read-outs' skills."""
    readout = CellReadout(model.config.text_config.hidden_size)
    tower = model.model.visual
    rate = 2e-3
    optimizer = torch.optim.AdamW([*tower.parameters(), *readout.parameters()], lr=rate, betas=(0.9, 0.98), fused=True)
    kinds: list[Kind] = [("native", (NATIVE, NATIVE)), *(kind for kind in bank.kinds if kind[0] != "blank")]
    wanted, same = SHARES[emphasis], Counter(kind[0] for kind in kinds)
    shares = np.array([wanted[kind[0]] / same[kind[0]] for kind in kinds])
    averages: dict[str, float] = {}
    started, step = time.perf_counter(), 0
    while (progress := (time.perf_counter() - started) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * max(0.02, min(1.0, 2 * (1 - progress)))
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        count = max(4, 48 * NATIVE**2 // (kind[1][0] * kind[1][1]))
        images, regions, scenes = pick_images(bank, kind, count, rng)
        values, grid = stack_images(images, patchifier)
        whole, cells = kind[0] in ("canvas", "view"), (kind[1][0] // 28, kind[1][1] // 28)
        labels = [label_cells(bank.signs[s], region, *cells, whole) for s, region in zip(scenes, regions, strict=True)]
        loss, skill = readout(encode_images(tower, values.flatten(0, 1), [grid] * count), stack_labels(labels))
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        for name, value in skill.items():
            key = f"{kind[0]}{kind[1][0] if whole else ''}/{name}"
            averages[key] = averages.get(key, value) * 0.95 + value * 0.05
        if step % 100 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in sorted(averages.items()))
            print(f"see {step} {time.perf_counter() - started:.0f} s {shown}", flush=True)
    return averages


def pick_images(
    bank: Bank, kind: Kind, count: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[Box], list[int]]:
    """Images of a kind at random, the regions of the canvas that they show, and their scenes."""
    if kind[0] == "window":
        windows = [bank.windows[kind[1]][row] for row in rng.integers(len(bank.windows[kind[1]]), size=count)]
        return [w.pixels for w in windows], [w.region for w in windows], [w.scene for w in windows]
    source = bank.canvases if kind[0] == "native" else bank.pixels(kind)
    scenes = rng.integers(len(source), size=count).tolist()
    if kind[0] != "native":
        return [source[scene] for scene in scenes], [Box(0, 0, CANVAS, CANVAS)] * count, scenes
    images, regions = [], []
    for scene in scenes:
        box = bank.signs[scene][rng.integers(len(bank.signs[scene]))].boxes[1]
        # anywhere that shows at least a part of the sign
        x, y = (
            int(np.clip(rng.integers(low - NATIVE + 30, high - 29), 0, CANVAS - NATIVE))
            for low, high in ((box.x1, box.x2), (box.y1, box.y2))
        )
        images.append(bank.canvases[scene][y : y + NATIVE, x : x + NATIVE])
        regions.append(Box(x, y, x + NATIVE, y + NATIVE))
    return images, regions, scenes


@torch.no_grad()
def encode_bank(model: nn.Module, bank: Bank, patchifier: Patchifier) -> dict[Kind, Tensor]:
    """Visual tokens of every image of the bank, ``[images, tokens, width]`` by kind."""
    features: dict[Kind, Tensor] = {}
    for kind in bank.kinds:
        pieces, images = [], bank.pixels(kind)
        for start in range(0, len(images), 32):
            values, grid = stack_images(images[start : start + 32], patchifier)
            tokens = encode_images(model.model.visual, values.flatten(0, 1), [grid] * len(values))
            pieces.append(tokens.view(len(values), -1, tokens.shape[-1]).half())
        features[kind] = torch.cat(pieces)
    return features


def stack_images(images: list[np.ndarray], patchifier: Patchifier) -> tuple[Tensor, tuple[int, int]]:
    """Patches ``[B, patches, 1176]`` of images of one size, and their grid."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return patchifier.cut(pixels), (pixels.shape[2] // 14, pixels.shape[3] // 14)


def lessons(teacher: Teacher, batch: int, progress: float, step: int) -> list[tuple[str, Lesson]]:
    """Name and batch of each lesson of one step: crops and pointing first, then views that can be read.

    The last fifth is for pointing, the slowest skill: the other lessons, whose rows are long, come every fourth step.
    """
    if progress > 0.8 and step % 4:
        return [("look", teacher.look(batch)) for _ in range(3)]
    made = [("read_crop", teacher.read_crop(batch // 2))]
    made += [("look", teacher.look(batch)) for _ in range(2)]  # of two sizes of view, as a rule
    if progress > 0.2:
        side = VIEW_SIDES[teacher.rng.integers(len(VIEW_SIDES))]
        made.append((f"read_{side}", teacher.read_view(batch // 4, side)))
    if progress > 0.45:
        # to answer after a crop is the rarest skill: it is taught at the whole canvas, whose rows are long
        made.append(("zoom", teacher.zoom(batch // 3)))
        made.append(("read_448", teacher.read_view(batch // 8, CANVAS)))
    return made


def speak(model: nn.Module, teacher: Teacher, args: argparse.Namespace) -> tuple[dict[str, float], dict[str, int]]:
    """Train the language model on the tower's tokens; returns teacher-forced skills and rows by lesson."""
    layers = model.model.language_model.layers
    readout, kept = BindingReadout(model.config.text_config.hidden_size), {}
    layers[1].register_forward_hook(lambda _, __, out: kept.update(lower=out))
    layers[len(layers) - 2].register_forward_hook(lambda _, __, out: kept.update(upper=out))
    parameters = [p for name, p in model.named_parameters() if ".visual." not in name] + list(readout.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    averages: dict[str, float] = {}
    samples: dict[str, int] = {}
    started, step = time.perf_counter(), 0
    while (done := (time.perf_counter() - started) / (args.minutes * 60)) < 1:
        progress = args.begin_at + (1 - args.begin_at) * done
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 1.6 * (1 - progress)))
        for name, lesson in lessons(teacher, args.batch, progress, step):
            loss, right = lesson_loss(model, lesson, teacher.image_pad)
            extra, bound = readout(kept["lower"], kept["upper"], lesson, teacher.image_pad)
            (loss + extra).backward()
            samples[name] = samples.get(name, 0) + len(lesson.token_ids)
            for key, value in (skills(lesson, loss, right) | bound).items():
                averages[f"{name}/{key}"] = averages.get(f"{name}/{key}", value) * 0.96 + value * 0.04
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 100 == 0:
            shown = " ".join(f"{name} {value:.3f}" for name, value in sorted(averages.items()))
            print(f"speak {step} {time.perf_counter() - started:.0f} s {shown}", flush=True)
            save_policy(model, teacher.tokenizer, args.out)
    return averages, samples


def train(args: argparse.Namespace) -> None:
    """Train and save."""
    torch.manual_seed(args.seed)
    protocol = needle_protocol()
    tokenizer = build_tokenizer(protocol)
    model = build_model(build_config(tokenizer, args.width, args.layers))
    if args.start_from is not None:
        model.load_state_dict(type(model).from_pretrained(args.start_from, dtype=torch.float32).state_dict())
    batch_vision_tower(model)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters", flush=True)
    started = time.perf_counter()
    bank = render_bank(args.scenes, 1_000_000 + args.seed, args.workers)
    print(f"{args.scenes} scenes in {time.perf_counter() - started:.0f} s", flush=True)
    patchifier = Patchifier((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    rng = np.random.default_rng(args.seed)
    seen: dict[str, float] = {}
    for emphasis, minutes in zip(SHARES, args.vision_minutes, strict=True):
        seen |= see(model, bank, patchifier, minutes, emphasis, rng)
    save_policy(model, tokenizer, args.out)
    features = encode_bank(model, bank, patchifier)
    print(f"encoded after {time.perf_counter() - started:.0f} s", flush=True)
    spoken, samples = speak(model, Teacher(bank, features, tokenizer, protocol, args.seed), args)
    save_policy(model, tokenizer, args.out)
    report = {"parameters": parameters, "samples": samples, "seconds": round(time.perf_counter() - started)}
    report |= {"seed": args.seed, "scenes": args.scenes}
    report |= {"teacher_forced": {name: round(value, 4) for name, value in (seen | spoken).items()}}
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
    parser.add_argument("--minutes", type=float, default=17.0, help="training time of the language model")
    parser.add_argument(
        "--vision-minutes",
        type=float,
        nargs=2,
        default=[12.0, 7.0],
        metavar=("CROPS", "CANVASES"),
        help="training time of the vision tower before that, mostly on crops and then mostly on canvases",
    )
    parser.add_argument("--begin-at", type=float, default=0.0, help="part of the language model's lessons to leave out")
    parser.add_argument("--start-from", type=Path, default=None, help="folder of a policy to go on from")
    parser.add_argument("--batch", type=int, default=64, help="episodes of a lesson at crop size")
    parser.add_argument("--scenes", type=int, default=6_000, help="rendered scenes")
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--width", type=int, default=128, help="hidden width of the language model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4, help="layers of the language model")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
