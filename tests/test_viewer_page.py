"""The page of the viewer in a browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewer_runs import make_record, write_run

from infogap.cli import main
from infogap.data.needle import NeedleConfig, make_samples
from infogap.geometry import Box, coverage
from infogap.pictures.panels import crop_as_shown, turn_colour, view_as_shown
from infogap.pictures.record import EpisodeRecord
from infogap.pictures.record_file import read_records, record_line
from infogap.types import StopReason

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NASTY = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"><!-- \u2028 & <b>bold</b>'

SAMPLES = list(make_samples(NeedleConfig(), 0, 7))
NASTY_SAMPLE = 6


def special_records() -> list[EpisodeRecord]:
    """A group of episodes with every kind of trouble, about the last scene."""
    sample = SAMPLES[NASTY_SAMPLE]
    plain = replace(
        make_record(sample, [Box(40, 50, 140, 170)], "7", 3), question=f"What? {NASTY}", options=(NASTY, "b")
    )
    first, last = plain.turns
    return [
        replace(
            plain,
            answer=NASTY,
            turns=(replace(first, text=NASTY, observation=NASTY), replace(last, text=NASTY, error=NASTY)),
        ),
        replace(
            plain, episode=1, answer=None, stop_reason=StopReason.MAX_TOKENS, rewards={"accuracy": None}, total=None
        ),
        replace(plain, episode=2, turns=(last,), stop_reason=None, evidence=(), view_size=None, visual_tokens=0),
        replace(plain, episode=3, turns=(replace(first, shown=None, observation=None),), visual_tokens=25),
        replace(plain, episode=4, turns=(replace(first, shown=None),)),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("viewer"), scenes=6)
    with (run / "episodes" / "rank_0.jsonl").open("a") as file:
        file.writelines(map(record_line, special_records()))
    main(["view", str(run)])
    return run


@pytest.fixture(scope="module")
def records(run: Path) -> list[EpisodeRecord]:
    return read_records(run / "episodes" / "rank_0.jsonl")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install infogap[dev]")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on this machine: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    """The page, which must neither complain nor ask for anything."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url[:100]) if request.url[:5] != "data:" else None)
    address = (run / "episodes.html").as_uri()
    page.goto(address)  # until the pictures are read as well
    yield page
    page.close()
    assert [text for text in complaints if not text.startswith(address)] == []


def count(page: Any) -> int:
    shown, _, everything, _ = page.text_content("#count").split()
    assert int(everything) == 29
    return int(shown)


def go(page: Any, name: str) -> None:
    page.evaluate("name => { location.hash = name; }", name)
    page.evaluate("() => new Promise(requestAnimationFrame)")


def place(page: Any) -> str:
    return str(page.evaluate("location.hash.slice(1)"))


def name_of(record: EpisodeRecord) -> str:
    return f"{record.rollout_step}-0-{record.group}-{record.episode}"


def image_of(page: Any, selector: str) -> np.ndarray:
    address = page.get_attribute(selector, "src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))).astype(int)


def test_the_page_opens_with_its_first_episode(page: Any, records: list[EpisodeRecord]) -> None:
    assert count(page) == len(records)
    assert page.text_content("h1") == "run"
    assert page.text_content("h2") == records[0].question
    assert page.get_attribute("#row-0", "aria-selected") == "true"
    assert page.text_content(".where") == f"step 0 · group 0 · episode 0 · sample {records[0].sample}"
    headings, values = page.locator("th").all_text_contents(), page.locator("td").all_text_contents()
    shown = dict(zip(headings, values, strict=True))
    assert float(shown["total"]) == pytest.approx(records[0].total, abs=6e-4)
    assert float(shown["advantage"]) == records[0].advantage
    assert shown["policy tokens"] == str(records[0].policy_tokens)


def best_coverage(record: EpisodeRecord) -> float | None:
    if not record.evidence:
        return None
    return max((coverage(record.evidence[0][0], crop) for crop in record.crops), default=0.0)


FILTERS: dict[str, tuple[dict[str, str], Any]] = {
    "steps": ({"#step-least": "1", "#step-most": "2"}, lambda r: 1 <= r.rollout_step <= 2),
    "one end": ({"#step-least": "2"}, lambda r: r.rollout_step >= 2),
    "right": ({"#right": "right"}, lambda r: (r.rewards["accuracy"] or 0) > 0),
    "wrong": ({"#right": "wrong"}, lambda r: r.rewards["accuracy"] == 0),
    "ending": ({"#stop": "max_tokens"}, lambda r: r.stop_reason is StopReason.MAX_TOKENS),
    "running": ({"#stop": "running"}, lambda r: r.stop_reason is None),
    "total": ({"#column-least": "0.5", "#column-most": "2.4"}, lambda r: r.total is not None and 0.5 <= r.total <= 2.4),
    "advantage": ({"#column": "advantage", "#column-most": "0"}, lambda r: r.advantage <= 0),
    "column": (
        {"#column": "grounding", "#column-least": "0.6"},
        lambda r: (r.rewards.get("grounding") or 0) >= 0.6,
    ),
    "text": ({"#text": "BLUE sign"}, lambda r: "blue sign" in r.question),
    "markup": ({"#text": "</SCRIPT>"}, lambda r: "</script>" in r.question),
    "answer": ({"#text": NASTY[-20:]}, lambda r: NASTY in (r.question, r.answer) or NASTY in r.question),
    "both": (
        {"#right": "wrong", "#step-most": "1", "#coverage-most": "0.5"},
        lambda r: r.rewards["accuracy"] == 0 and r.rollout_step <= 1 and best_coverage(r) <= 0.5,
    ),
    "nothing": ({"#text": "no such text"}, lambda r: False),
}


@pytest.mark.parametrize(("fields", "passes"), FILTERS.values(), ids=FILTERS)
def test_filters_leave_exactly_what_passes(
    page: Any, records: list[EpisodeRecord], fields: dict[str, str], passes: Any
) -> None:
    for selector, value in fields.items():
        if page.evaluate("selector => document.querySelector(selector).tagName", selector) == "SELECT":
            page.select_option(selector, value)
        else:
            page.fill(selector, value)
    expected = [number for number, record in enumerate(records) if passes(record)]
    assert count(page) == len(expected) < len(records)
    listed = page.evaluate("[...document.querySelectorAll('.row')].map(row => +row.id.slice(4))")
    assert listed == expected[: len(listed)]
    assert bool(listed) == bool(expected)
    page.click("button[type=reset]")
    page.locator("#count", has_text=f"{len(records)} of").wait_for()


def test_coverage_is_that_of_the_crop_with_the_best_grounding(page: Any, records: list[EpisodeRecord]) -> None:
    values = page.evaluate("JSON.parse(document.getElementById('run').textContent).episodes.map(e => e.coverage)")
    single = [(v, r) for v, r in zip(values, records, strict=True) if len(r.crops) == 1 and r.evidence]
    assert [v for v, _ in single] == pytest.approx([best_coverage(r) for _, r in single], abs=1e-4)
    page.fill("#coverage-least", "0.9")
    assert count(page) == sum(value is not None and value >= 0.9 for value in values) > 0
    assert {value for value, record in zip(values, records, strict=True) if not record.evidence} == {None}


@pytest.mark.parametrize("descending", [False, True])
def test_the_list_is_sorted_and_what_has_no_value_comes_last(
    page: Any, records: list[EpisodeRecord], descending: bool
) -> None:
    page.select_option("#sort", "total")
    page.set_checked("#descending", descending)
    listed = page.evaluate("[...document.querySelectorAll('.row')].map(row => +row.id.slice(4))")
    sign = -1 if descending else 1
    ranks = [(r.total is None, sign * (r.total or 0), number) for number, r in enumerate(records)]
    assert listed == [number for *_, number in sorted(ranks)][: len(listed)]


def test_only_rows_in_sight_exist(page: Any) -> None:
    assert page.locator(".row").count() < 25
    page.evaluate("document.getElementById('list').scrollTop = 1e6")
    page.wait_for_selector("#row-28")
    assert page.get_attribute("#row-28", "aria-posinset") == "29"
    assert page.get_attribute("#row-28", "aria-setsize") == "29"


def test_keys_go_through_the_list_and_through_the_group(page: Any, records: list[EpisodeRecord]) -> None:
    for key, expected in (
        ("j", 1),
        ("ArrowDown", 2),
        ("j", 3),
        ("j", 4),
        ("ArrowRight", 5),
        ("k", 4),
        ("ArrowLeft", 4),
        ("ArrowUp", 3),
    ):
        page.keyboard.press(key)
        assert place(page) == name_of(records[expected]), key
    page.keyboard.press("/")
    page.keyboard.type("jk")
    assert page.input_value("#text") == "jk"
    assert place(page) == name_of(records[3])
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert place(page) == name_of(records[3])  # nothing passes the filter


def test_the_address_names_the_episode(page: Any, browser: Any, run: Path, records: list[EpisodeRecord]) -> None:
    page.click("#row-5")
    address = page.url
    assert address.endswith(f"#{name_of(records[5])}")
    page.click("#row-6")
    page.go_back()
    assert f"episode {records[5].episode} " in page.text_content(".where")
    other = browser.new_page()
    other.goto(address)
    assert f"episode {records[5].episode} · sample {records[5].sample}" in other.text_content(".where")
    assert other.text_content("#row-5[aria-selected=true] .label")
    other.goto((run / "episodes.html").as_uri() + "#99-0-0-0")
    other.reload()
    assert "no such episode" in other.text_content("#episode")
    other.close()


def test_the_group_stands_side_by_side(page: Any, records: list[EpisodeRecord]) -> None:
    go(page, name_of(records[5]))
    names = page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.name)")
    assert names == [name_of(record) for record in records[4:8]]
    assert page.locator(".card[aria-current=true]").get_attribute("data-name") == name_of(records[5])
    for number, record in enumerate(records[4:8]):
        text = page.locator(".card").nth(number).text_content()
        assert record.answer in text
        assert ("✓ right" in text) == (record.rewards["accuracy"] == 1)
        assert page.locator(".card").nth(number).locator("rect.box:not(.truth)").count() == len(record.crops)
    page.locator(".card").nth(3).click()
    assert place(page) == name_of(records[7])
    assert page.locator(".card[aria-current=true]").get_attribute("data-name") == name_of(records[7])


def test_a_card_keeps_the_keyboard(page: Any, records: list[EpisodeRecord]) -> None:
    page.locator(".card").nth(2).focus()
    page.keyboard.press("Enter")
    assert place(page) == name_of(records[2])
    assert page.evaluate("document.activeElement.dataset.name") == name_of(records[2])
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.name") == name_of(records[1])


def test_in_one_column_an_episode_comes_into_sight(browser: Any, run: Path, records: list[EpisodeRecord]) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 700})
    top = "document.getElementById('episode').getBoundingClientRect().top"
    page.goto((run / "episodes.html").as_uri())
    assert page.evaluate(top) > 350  # the list comes first
    page.click("#row-1")
    assert place(page) == name_of(records[1])
    assert abs(page.evaluate(top)) < 5
    page.goto("about:blank")
    page.goto((run / "episodes.html").as_uri() + f"#{name_of(records[2])}")
    assert abs(page.evaluate(top)) < 5
    page.close()


class Slow(BaseHTTPRequestHandler):
    """Sends a page up to the middle of the second scene's pictures, and the rest when it is told to."""

    content, cut, go_on = b"", 0, threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.cut])
        self.wfile.flush()
        self.go_on.wait(20)
        self.wfile.write(self.content[self.cut :])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow(run: Path) -> Iterator[str]:
    Slow.content, Slow.go_on = (run / "episodes.html").read_bytes(), threading.Event()
    start = Slow.content.index(b'id="pictures-1"')
    Slow.cut = (start + Slow.content.index(b"</script>", start)) // 2
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    Slow.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_pictures_are_drawn_as_they_come(browser: Any, slow: str, records: list[EpisodeRecord]) -> None:
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(slow, wait_until="commit")
    page.wait_for_selector("#view img")  # the first episode's, while the others' are under way
    assert page.evaluate("document.readyState") == "loading"
    page.wait_for_function("document.getElementById('pictures-1') !== null")
    go(page, name_of(records[4]))  # of the scene whose pictures are half there
    assert "reading pictures" in page.text_content("#view")
    Slow.go_on.set()
    page.wait_for_selector("#view img")
    page.close()
    assert errors == []


def test_a_page_that_was_cut_off_lacks_its_last_pictures(
    browser: Any, run: Path, tmp_path: Path, records: list[EpisodeRecord]
) -> None:
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    content = (run / "episodes.html").read_bytes()
    (tmp_path / "cut.html").write_bytes(content[: content.index(b'id="pictures-1"') + 1000])
    page.goto((tmp_path / "cut.html").as_uri())
    assert page.locator("#view img").count() == 1
    go(page, name_of(records[4]))
    assert "no picture" in page.text_content("#view")
    page.close()
    assert errors == []


def test_a_reward_may_have_any_name(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, scenes=1, group_size=2)
    path = run / "episodes" / "rank_0.jsonl"
    first, second = read_records(path)
    first = replace(first, rewards={"total": 7.0, "constructor": 3.0}, total=1.0)
    path.write_text(record_line(first) + record_line(replace(second, rewards={}, total=0.0)))
    main(["view", str(run)])
    page = browser.new_page()
    page.goto((run / "episodes.html").as_uri())
    for name, least, passing in (("reward total", "6", "1 of"), ("total", "0", "2 of"), ("constructor", "0", "1 of")):
        page.select_option("#column", name)
        page.fill("#column-least", least)
        assert page.text_content("#count").startswith(passing), name
    page.click("button[type=reset]")
    page.keyboard.press("j")
    shown = dict(zip(page.locator("th").all_text_contents(), page.locator("td").all_text_contents(), strict=True))
    assert shown["constructor"] == "\N{EN DASH}"
    page.close()


@pytest.mark.parametrize("panel", ["view", "original"])
def test_boxes_lie_where_they_lie_in_the_image(page: Any, records: list[EpisodeRecord], panel: str) -> None:
    for record in records[:8]:
        go(page, name_of(record))
        image, *found = page.evaluate(
            """panel => [...document.querySelectorAll(`#${panel} img, #${panel} rect.box`)].map(element => {
                const box = element.getBoundingClientRect();
                return [box.left, box.top, box.right, box.bottom, element.getAttribute('stroke')];
            })""",
            panel,
        )
        left, top, right, bottom, _ = image
        across = (right - left) / record.original_size.width
        down = (bottom - top) / record.original_size.height
        green, red, orange = "#00d750", *("#{:02x}{:02x}{:02x}".format(*turn_colour(turn)) for turn in range(2))
        expected = [(box, green) for box in itertools.chain(*record.evidence)]
        expected += list(zip(record.crops, (red, orange), strict=False))
        assert [colour for *_, colour in found] == [colour for _, colour in expected]
        for corners, (box, _) in zip(found, expected, strict=True):
            x1, y1, x2, y2 = box.as_tuple()
            wanted = (left + x1 * across, top + y1 * down, left + x2 * across, top + y2 * down)
            assert corners[:4] == pytest.approx(wanted, abs=0.05)


def test_boxes_can_be_switched_off(page: Any, records: list[EpisodeRecord]) -> None:
    visible = "kind => getComputedStyle(document.querySelector(`#view rect.box.${kind}`)).display !== 'none'"
    for kind, other in (("truth", "crop-0"), ("crop-0", "truth")):
        page.uncheck(f"[data-kind={kind}]")
        assert not page.evaluate(visible, kind)
        assert page.evaluate(visible, other)
        page.keyboard.press("j")  # stays off for the next episode
        assert not page.evaluate(visible, kind)
        page.check(f"[data-kind={kind}]")
        assert page.evaluate(visible, kind)


def test_the_images_are_those_that_the_policy_saw(page: Any, records: list[EpisodeRecord]) -> None:
    for record in (records[0], records[9], records[23]):
        go(page, name_of(record))
        sample = next(sample for sample in SAMPLES if sample.key == record.sample)
        view = image_of(page, "#view img")
        assert np.abs(view - np.asarray(view_as_shown(sample.image, record.view_size))).mean() < 3
        turns = [turn for turn in record.turns if turn.crop is not None]
        for number, turn in enumerate(turns):
            crop = image_of(page, f".turn:nth-of-type({number + 1}) figure img")
            assert crop.shape[:2] == (turn.shown.height, turn.shown.width)
            assert np.abs(crop - np.asarray(crop_as_shown(sample.image, turn.crop, turn.shown))).mean() < 3
            assert f"{turn.shown.width} \N{MULTIPLICATION SIGN} {turn.shown.height} pixels" in page.text_content(
                f".turn:nth-of-type({number + 1}) figcaption"
            )


def test_what_the_policy_wrote_and_what_came_back_are_told_apart_without_colour(
    page: Any, records: list[EpisodeRecord]
) -> None:
    record = records[0]
    for number, turn in enumerate(record.turns):
        section = page.locator(".turn").nth(number)
        assert section.locator(".sampled pre").all_text_contents() == [turn.text]
        observed = [] if turn.observation is None else [turn.observation]
        assert section.locator(".observed pre").all_text_contents() == observed
    assert page.text_content(".sampled b") == "▶ policy wrote"
    assert page.text_content(".observed b") == "◀ came back"
    style = "kind => getComputedStyle(document.querySelector(kind)).borderLeftStyle"
    assert page.evaluate(style, ".sampled") == "solid"
    assert page.evaluate(style, ".observed") == "double"


def test_text_stays_text(page: Any) -> None:
    go(page, "3-0-0-0")
    assert page.text_content("h2") == f"What? {NASTY}"
    for kind in ("sampled", "observed", "error"):
        assert NASTY in page.locator(f".{kind} pre").all_text_contents()
    assert f"answered “{NASTY}”" in page.text_content(".outcome")
    assert NASTY in page.text_content(".options")
    page.fill("#text", "hacked")
    assert count(page) == 5
    assert NASTY in page.text_content(".row")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main b").count() == page.locator(".said b").count()
    assert page.evaluate("document.scripts.length") == 2 + 6  # the data, the script, the pictures of the scenes


def test_what_is_not_there_is_said(page: Any) -> None:
    go(page, "3-0-0-0")
    assert "no picture" in page.text_content("#view")  # no scene of the shards asks this
    go(page, "3-0-0-1")
    assert "no answer" in page.text_content(".outcome")
    assert "max tokens" in page.text_content(".outcome")
    assert page.locator("td.sum").first.text_content() == "\N{EN DASH}"
    go(page, "3-0-0-2")
    assert "No view" in page.text_content(".panels")
    assert "running" in page.text_content(".outcome")
    go(page, "3-0-0-3")
    assert "not shown to the policy" in page.text_content(".turn figcaption")
    go(page, "3-0-0-4")
    assert "not recorded" in page.text_content(".turn figcaption")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_scheme_of_the_system(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, *_ = json.loads(paper.replace("rgb(", "[").replace(")", "]"))
    assert (red > 128) == (scheme == "light")


def test_everything_has_a_name_for_those_who_listen(page: Any) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, img')].filter(element =>
            !(element.getAttribute('aria-label') || element.textContent.trim() || element.alt ||
              (element.labels && element.labels.length) || element.closest('.card'))).map(found => found.outerHTML)"""
    )
    assert nameless == []
