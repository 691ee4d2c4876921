"""What a person sees who opens TensorBoard: a real browser, against a TensorBoard on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT, PICTURES, result_of

from runner.__main__ import main

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromium-driver")

# Elements of a kind with their text, where they begin, and how wide a picture is; those inside of components, too.
FIND = """
const found = [], kind = arguments[0];
const walk = (node) => {
  for (const each of node.querySelectorAll('*')) {
    const left = each.getBoundingClientRect().left;
    if (each.tagName === kind) found.push([each.textContent.trim(), left, each.naturalWidth]);
    if (each.shadowRoot) walk(each.shadowRoot);
  }
};
walk(document);
return found;
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: digits in folders of pictures, with a name of a class that wants to be a script; and another rate."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_pictures(place / "pictures")
        shared = (*LIGHT, *PICTURES, "dataset=image_folder", "dataset.root=pictures", "dataset.cache=null")
        for number, rate in enumerate(("0.01", "0.001")):
            # Of one there are pictures, which take time, and of the other several points of the curves.
            pictures = f"tensorboard.pictures={'true' if number == 0 else 'false'}", f"trainer.max_epochs={number + 1}"
            assert main([*shared, *pictures, f"optimizer.lr={rate}", f"hydra.run.dir=runs/{number}"]) == 0
    return place / "runs"


NAMES = ["<b>bold<∕b>", "a|b", "_under_ *star*", "Käse [x](javascript:alert(1))"]
"""Of classes. A folder cannot have a slash in its name; what stands for it here looks like one."""


def write_pictures(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        held = folder / name
        held.mkdir(parents=True)
        for sample in range(12):
            pixels = rng.integers(0, 120, (12, 12)) + 40 * number
            Image.fromarray(pixels.astype("uint8")).save(held / f"{sample}.png")


@pytest.fixture(scope="module")
def page(runs: Path) -> Iterator[Callable[[str], Any]]:
    """Opens a tab of a TensorBoard that shows the runs, if it is not open already, and returns the browser."""
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--host", "127.0.0.1", "--port", "0"]
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1500,1300"):  # fmt: skip
        options.add_argument(argument)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        match = next(filter(None, (re.search(r"at (http://127.0.0.1:\d+/)", line) for line in server.stderr)))
        try:
            browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        except WebDriverException as error:
            server.kill()
            pytest.skip(f"the browser does not start here: {error.msg}")

        def show(tab: str) -> Any:
            if shown != [tab]:
                browser.get("about:blank")
                browser.get(match[1] + tab)
                shown[:] = [tab]
            return browser

        shown: list[str] = []

        try:
            yield show
        finally:
            browser.quit()
            server.kill()


def elements(browser: Any, kind: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """All elements of a kind, once there are enough of them."""
    from selenium.webdriver.support.ui import WebDriverWait

    def look(browser: Any) -> tuple[list[Any]] | None:
        found = browser.execute_script(FIND, kind)
        return (found,) if enough(found) else None

    return WebDriverWait(browser, 40).until(look)[0]


TEXTS = "#text&tagFilter=result%7Csplit"
"""The tab of the tables of which two tests see one each: it takes seconds to open."""


def words(found: list[Any]) -> list[str]:
    return [text for text, *_ in found]


def test_tables_are_tables_with_numbers_as_in_the_record(page: Callable[[str], Any], runs: Path) -> None:
    result = result_of(runs / "0")
    row = ["accuracy", *(f"{result['metrics'][f'{part}/accuracy']:.4f}" for part in ("val", "test"))]
    cells = elements(page(TEXTS), "TD", lambda found: set(row) <= set(words(found)))
    first = next(n for n, text in enumerate(words(cells)) if words(cells)[n : n + 3] == row)
    # The table has four columns: what is above and below in one of them begins at the same place.
    for column in range(3):
        lefts = {cells[first + column + 4 * line][1] for line in (-1, 0, 1, 2)}
        assert len(lefts) == 1


def test_names_of_classes_are_shown_as_they_are_and_run_nothing(page: Callable[[str], Any]) -> None:
    browser = page(TEXTS)
    cells = elements(browser, "TD", lambda found: "a|b" in words(found))
    assert set(NAMES) <= set(words(cells))
    assert not [text for text, *_ in elements(browser, "B", lambda found: True) if text == "bold"]
    assert not [text for text, *_ in elements(browser, "A", lambda found: True) if text == "x"]


def test_curves_are_drawn_and_those_of_train_and_val_together(page: Callable[[str], Any]) -> None:
    both = {"train/loss", "val/loss"}
    cards = elements(page("?tagFilter=%2Floss#timeseries"), "CARD-VIEW", lambda found: len(starts(found, both)) == 2)
    assert starts(cards, both) == both
    charts = elements(page("#custom_scalars"), "TF-CUSTOM-SCALAR-MULTI-LINE-CHART-CARD", lambda found: len(found) >= 10)
    assert len(charts) == 10  # the loss, three metrics, the learning rate, five vitals


def test_pictures_are_shown(page: Callable[[str], Any]) -> None:
    def drawn(found: list[Any]) -> list[int]:
        return [width for *_, width in found if width > 300]

    pictures = elements(page("#images&tagFilter=val"), "IMG", lambda found: len(drawn(found)) >= 3)
    assert len(drawn(pictures)) >= 3  # confusion, ranking, mistakes


def test_runs_are_compared_with_their_true_figures(page: Callable[[str], Any], runs: Path) -> None:
    results = [result_of(runs / f"{number}")["metrics"] for number in (0, 1)]
    figures = {f"{result['test/loss']:#.5g}" for result in results}
    cells = elements(page("#hparams"), "VAADIN-GRID-CELL-CONTENT", lambda found: figures <= set(words(found)))
    assert figures <= set(words(cells))
    assert {"0.010000", "0.0010000"} <= set(words(cells))


def starts(found: list[Any], names: set[str]) -> set[str]:
    return {name for name in names for text in words(found) if text.startswith(name)}
