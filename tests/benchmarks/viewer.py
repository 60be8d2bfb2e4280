"""What `infogap view` costs: seconds to make a page, its size, and seconds until its list can be used in a browser.

    python tests/benchmarks/viewer.py --episodes 2000 --repeat 5 --json OUT

A run is made up: groups of 16 episodes on needle scenes of 448 pixels, with one or two crops each, pictures included.
Chromium opens the page without a window, every time with an empty cache. Measured from the start of the navigation:
`usable`, when the list stands and the first episode with its group is drawn; `painted`, the first frame after that;
`pictured`, the first frame with the pictures of that episode and its group, which is to come within `LIMIT`;
`complete`, when those of all episodes have been read. The program is run anew for every page, imports included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from viewer_runs import write_run

GROUP = 16
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT = 2.0
"""Seconds within which the list and the first episode with its pictures are to be in sight."""

MARKS = """async () => {
    const at = (name) => performance.getEntriesByName(name)[0].startTime / 1000;
    const painted = performance.getEntriesByName('first-contentful-paint')[0];
    return {usable: at('usable'), painted: painted ? painted.startTime / 1000 : null, pictured: at('pictured'),
            complete: at('complete'), episodes: document.getElementById('count').textContent,
            images: document.querySelectorAll('main img').length};
}"""

WATCH = """() => {
    const observer = new MutationObserver(async () => {
        const images = [...document.querySelectorAll('main img')];
        if (!images.length) return;
        observer.disconnect();
        await Promise.all(images.map((image) => image.decode()));
        requestAnimationFrame(() => setTimeout(() => performance.mark('pictured')));
    });
    observer.observe(document, {childList: true, subtree: true});
}"""
"""Marks the first frame with pictures in it, decoded; runs before the page does."""


def make(run: Path) -> dict[str, float]:
    """Seconds of the whole program, by the clock and of the processors: other work on the machine bends the first."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "infogap.cli", "view", str(run)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"made": time.perf_counter() - start, "made, CPU": spent}


def open_pages(page: Path, repeat: int) -> list[dict[str, Any]]:
    """Open the page in a new browser context again and again."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit(f"There is no browser: install one of {', '.join(BROWSERS)}.")
    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(repeat):
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            context.add_init_script(f"({WATCH})()")
            opened = context.new_page()
            opened.goto(page.as_uri())
            found.append(opened.evaluate(MARKS))
            context.close()
        browser.close()
    return found


def main() -> None:
    """Measure, and print the median and the worst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), scenes=chosen.episodes // GROUP, group_size=GROUP, groups_per_step=8)
        made = [make(run) for _ in range(chosen.repeat)]
        size = (run / "episodes.html").stat().st_size / 1e6
        opened = open_pages(run / "episodes.html", chosen.repeat)
    print(f"{platform.machine()}, Python {platform.python_version()}; {opened[0]['episodes']}, {size:.1f} MB")
    result: dict[str, Any] = {"episodes": chosen.episodes, "megabytes": size, "made_s": made, "opened": opened}
    marks = ("made", "made, CPU", "usable", "painted", "pictured", "complete")
    for name in marks:
        known = [found[name] for found in (*made, *opened) if found.get(name) is not None]
        print(f"{name:10} median {statistics.median(known):.2f} s, worst {max(known):.2f} s, of {len(known)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if max(found["pictured"] for found in opened) > LIMIT:
        sys.exit(f"The list and the first pictures were not in sight within {LIMIT} s.")


if __name__ == "__main__":
    main()
