"""Miniatures of published training sets, in the formats in which their authors ship them, with their usual faults."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark_files import encoded, write_json_lines, write_parquet

RED = encoded("red", size=(96, 64))
BLUE = encoded("blue", size=(64, 128))
GREEN = encoded("green", size=(80, 80), kind="PNG")
WHITE = encoded("white", size=(64, 64), kind="WEBP")
TINY = encoded("red", size=(20, 90))
"""Narrower than a visual token, as some charts are."""
CUT_OFF = RED[: len(RED) // 2]

TOOL_REQUEST = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
    "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)
COF_REQUEST = (
    "\nThink in the mind first, and then decide whether to call tools one or more times OR provide final answer. "
    "Format strictly as: <think>...</think> <tool_call>...</tool_call> <tool_call>...</tool_call> (if any tools "
    "needed) OR <answer>...</answer> (if no tools needed)."
)
SYSTEM = "You are a helpful assistant.\n\n# Tools\nYou may call one or more functions to assist with the user query."


def verl_row(image: bytes | None, question: str | None, truth: str | None, **changes: Any) -> dict[str, Any]:
    """A row of DeepEyes: the prompt holds the question and the request for a format, `changes` replace columns."""
    user = f"<image>\n{question or 'What is left of the dog?'}{TOOL_REQUEST}"
    return {
        "data_source": "vstar",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
        "images": [{"bytes": image, "path": None}],
        "ability": "vl_agent",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": truth, "style": "model"},
        "extra_info": {"question": question, "answer": truth, "id": "sa_1", "index": 4},
        **changes,
    }


def deepeyes(root: Path) -> Path:
    photographs = [
        verl_row(RED, "What is the color of the glove?", "The color of the glove is red."),
        verl_row(BLUE, None, "", extra_info={"question": None, "answer": "a cat", "id": "sa_2", "index": 5}),
        verl_row(RED, "Which?", "x", images=[{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}]),
        verl_row(RED, "What is <|image_pad|>?", "x"),
        verl_row(CUT_OFF, "What is cut off?", "x"),
        verl_row(RED, "What is missing?", "x", images=[]),
        verl_row(b"GIF89a" + bytes(80), "What moves?", "x"),
        verl_row(RED, "What is the answer?", " "),
    ]
    chart = "Which line is highest?\nA. the red one\nB. the blue one\nC. the green one"
    charts = [
        verl_row(GREEN, "Which line is highest?", "B", prompt=[{"role": "user", "content": chart + TOOL_REQUEST}]),
        verl_row(GREEN, chart, "C. the green one", extra_info={"question": chart, "id": None, "index": None}),
        verl_row(GREEN, chart, "The red one, since it rises most."),
    ]
    write_parquet(root / "data_0.1.2_visual_toolbox_v2.parquet", photographs)
    write_parquet(root / "data_v0.8_visual_toolbox_v2.parquet", charts)
    return root


def mini_o3(root: Path, name: str = "VisualProbe_train") -> Path:
    """A list of rows, and photographs in a folder of their own; the paths begin with the name of the data set."""
    photograph = f"{name}/data/visual_probe_train_7.jpg"
    rows: list[Any] = [
        {"images": [photograph], "problem": "<image>\nWhat is on the sign?", "solution": "EXIT"},
        {"images": ["data/visual_probe_train_8.jpg"], "problem": "How many dogs?", "solution": 3},
        {"images": [f"{name}/data/gone.jpg"], "problem": "<image>\nWhat is gone?", "solution": "x"},
        {"images": [photograph], "problem": "<image>\n", "solution": "x"},
        {"images": [photograph], "problem": ["What?"], "solution": "x"},
        {"images": [f"{name}/../../secret.jpg"], "problem": "<image>\nWhat?", "solution": "x"},
        {"images": 5, "problem": "<image>\nWhat?", "solution": "x"},
        {"images": [photograph], "problem": "<image>\nWhat is torn? \ud83d", "solution": "x"},
        ["no object"],
        {"images": [photograph], "problem": "<image>\nWhich? (A) red (B) blue", "solution": "B"},
    ]
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            row |= {"doc_id": f"visual_probe_train_{number}", "data_source": "visual_probe_train"}
    (root / "data").mkdir(parents=True)
    (root / "data/visual_probe_train_7.jpg").write_bytes(RED)
    (root / "data/visual_probe_train_8.jpg").write_bytes(BLUE)
    (root / "train.json").write_text(json.dumps(rows))
    return root


def search_session(name: str, image: int, question: str, boxes: Any, **evaluation: Any) -> dict[str, Any]:
    return {
        "id": name,
        "sample_id": f"visual_probe_train_{image}",
        "image": f"visual_probe_train_{image}.jpg",
        "question": f"<image> {question}",
        "answer": "EXIT",
        "final_bboxes_pixels": boxes,
        "events": [{"type": "hover_move", "t": 110.5, "v": 21498.48, "a": 0, "category": "hover", "x": 17, "y": 19}],
        "annotation_time": 17.56,
        "task_evaluation": {
            "difficulty_score": 0.5,
            "difficulty_level": "medium",
            "is_ambiguous": False,
            "confidence_score": 1.0,
            **evaluation,
        },
        "source_format": "standard",
        "source_dataset": "visualprobe_train",
    }


def search_sessions() -> list[dict[str, Any]]:
    """Sessions on the photographs of `mini_o3`: 96x64 and 64x128 pixels."""
    return [
        search_session("s_0_unsure", 7, "What is on the sign?", [[1, 1, 9, 9]], confidence_score=0.5),
        search_session("s_2", 7, "What is  on the SIGN?", [[10, 12, 30, 40]]),
        search_session("s_1", 7, "What is on the sign?", [[60, 20, 99, 50], [4, 5, 6, 7]]),
        search_session("s_ambiguous", 8, "How many dogs?", [[0, 0, 20, 20]], is_ambiguous=True),
        search_session("s_other", 7, "What is on the wall?", [[1, 2, 3, 4]]),
        search_session("s_empty", 8, "How many dogs?", []),
        search_session("s_short", 8, "How many dogs?", [[1, 2, 3]]),
    ]


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def pixelreasoner(root: Path, folder_in_zip: str = "") -> Path:
    """The table and the archive; the names in the archive may begin with the folder or not."""
    choices = "What is it?\nchoices:\nA: a cat\nB: a dog"
    rows = [
        {"question": "What is the total?", "answer": ["\\boxed{42}"], "image": ["info/a.jpg"], "is_video": False},
        {"question": choices, "answer": ["\\boxed{B}"], "image": ["images/b.jpg"], "is_video": None},
        {"question": "What happens?", "answer": ["\\boxed{A}"], "image": ["v/0.jpg", "v/1.jpg"], "is_video": True},
        {"question": "What happens?", "answer": ["\\boxed{A}"], "image": ["v/clip.mp4"], "is_video": None},
        {"question": "Which two?", "answer": ["\\boxed{x}"], "image": ["info/a.jpg", "b.jpg"], "is_video": False},
        {"question": "Who?", "answer": ["\\boxed{['Ann', 'Ann']}"], "image": ["b.jpg"], "is_video": False},
        {"question": "Who?", "answer": ["\\boxed{['Ann', 'Bob']}"], "image": ["b.jpg"], "is_video": False},
        {"question": "How much?", "answer": ["\\boxed{\\frac{1}{2}}"], "image": ["b.jpg"], "is_video": False},
        {"question": "How much?", "answer": ["\\boxed{}"], "image": ["b.jpg"], "is_video": False},
        {"question": "What is gone?", "answer": ["\\boxed{x}"], "image": ["gone.jpg"], "is_video": False},
    ]
    write_parquet(root / "release.parquet", [{**row, "qid": f"q-{number}"} for number, row in enumerate(rows)])
    write_zip(root / "images.zip", {f"{folder_in_zip}info/a.jpg": RED, f"{folder_in_zip}b.jpg": BLUE})
    write_zip(root / "videos.zip", {"v/0.jpg": RED, "v/1.jpg": RED})
    return root


def cof(root: Path) -> Path:
    def row(question: str, image: str, truth: str) -> dict[str, Any]:
        user = f"<image>\n{question}{COF_REQUEST}"
        return {
            "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
            "images": [{"image": f"./images/{image}"}],
            "groundtruth_complete": f"It is {truth}.",
            "reward_model": {"ground_truth": truth, "style": "rule"},
            "data_source": "cof_rl",
            "agent_name": "cof_tool_agent",
            "ability": "visual_search",
            "extra_info": {"index": 11, "split": "train"},
        }

    rows = [
        row("What is the color of the car?", "foo.jpg", "red"),
        row("Which is it?\n(A) a car\n(B) a bus\nAnswer with the option's letter.", "foo.jpg", "A"),
        row("What is broken?", "broken.jpg", "x"),
        row("What is gone?", "gone.jpg", "x"),
    ]
    write_parquet(root / "train.parquet", rows)
    write_zip(root / "images.zip", {"images/foo.jpg": GREEN, "images/broken.jpg": b"\xff\xd8\xff no image"})
    return root


def thinklite(root: Path, *, as_struct: bool = False) -> Path:
    """Images as bytes in one version, as Hugging Face's datasets write them in another, which has choices."""
    rows: list[dict[str, Any]] = [
        {"image": RED, "problem": "<image>How many?", "answer": "4"},
        {"image": TINY, "problem": "<image>How high?", "answer": "\\boxed{12}"},
        {"image": WHITE, "problem": "<image>Which?\nChoices:\n(A) 30\n(B) 40", "answer": "B"},
        {"image": CUT_OFF, "problem": "<image>How many?", "answer": "4"},
        {"image": None, "problem": "<image>How many?", "answer": "4"},
    ]
    choices: Sequence[Sequence[str] | None] = [None, None, ["30", "40"], ["(A) 1", "(B) 4"], []]
    for number, row in enumerate(rows):
        row["id"] = number + 100
        if as_struct:
            row["image"] = {"bytes": row["image"], "path": None}
            row["choices"] = choices[number]
    if as_struct:
        rows.append({**rows[0], "choices": ["(A) 3", "(B) 4"], "id": 105})
        rows.append({**rows[0], "choices": ["3", "5"], "id": 106})
    write_parquet(root / "ThinkLite-VL-hard-11k.parquet", rows)
    return root


def own_rows() -> list[dict[str, Any]]:
    """Rows of a table that somebody wrote, of which the first three are sound."""
    chains = [[[10, 10, 20, 20], [5, 5, 40, 40]], [[50.5, 8, 60, 9]]]
    return [
        {"id": "a-1", "image": "images/a.jpg", "question": " What? ", "answer": "x", "boxes": chains},
        {"image": "images/b.png", "question": "Which?", "answer": "B", "options": ["(A) red", "blue"], "source": "own"},
        {"id": 3, "image": "images/a.jpg", "question": "Where?", "answer": "7", "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]},
        {"id": "a-1", "image": "images/a.jpg", "question": "What?", "answer": "x"},
        {"id": "a.2", "image": "images/a.jpg", "question": "What?", "answer": "x"},
        {"image": "/etc/passwd", "question": "What?", "answer": "x"},
        {"image": "images/a.jpg", "question": "What?", "answer": "C", "options": ["red", "blue"]},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "options": "red"},
        {"image": "images/a.jpg", "question": "What?", "answer": True},
        {"image": "images/a.jpg", "question": "What?", "answer": ""},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "boxes": [[1, 2, 3]]},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "boxes": [[1, 2, 300, 4]]},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "boxes": [[9, 2, 3, 4]]},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "metadata": [1]},
        {"image": "images/a.jpg", "question": "What?", "answer": "x", "metadata": {"share": float("nan")}},
    ]


def own_images(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "images/a.jpg").write_bytes(RED)
    (root / "images/b.png").write_bytes(GREEN)
    return root


def json_lines(root: Path) -> Path:
    write_json_lines(own_images(root) / "own.jsonl", own_rows())
    return root


def vstar_style(root: Path) -> Path:
    sound = {"question": "What colour is it?", "options": ["red", "blue", "green"], "target_object": ["glove"]}
    contents: dict[str, Any] = {
        "attributes/sa_1": {**sound, "bbox": [[10, 20, 5, 8], [90, 60, 20, 20]]},
        "attributes/sa_2": {**sound, "bbox": [[500, 20, 5, 8]]},
        "attributes/sa_3": {**sound, "options": ["red", "red"], "bbox": []},
        "attributes/sa_4": {**sound, "bbox": [[1, 2, 3]]},
        "positions/sa_5": {**sound, "bbox": []},
        "positions/sa_6": ["no object"],
    }
    for stem, content in contents.items():
        file = root / f"{stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        if stem != "positions/sa_5":
            file.with_suffix(".jpg").write_bytes(RED)
    return root
