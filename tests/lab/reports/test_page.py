"""The page: what it holds, that nothing of it comes from elsewhere, and that it works in a browser."""

from __future__ import annotations

import base64
import html
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ungated.lab.reports.kept_studies import read_report
from ungated.lab.reports.page import build_page
from ungated.lab.reports.page.charts import chart
from ungated.lab.reports.records import read_run
from ungated.lab.studies.packaged import load_definition

from .make_study import make_study

MakeRun = Callable[..., Path]

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }}'


@pytest.fixture
def page(make_run: MakeRun, tmp_path: Path) -> str:
    """JSB Chorales with two cells of two seeds, and an ablation on Nottingham with a failed run."""
    runs = [make_run(cell, seed, valid=(9.0, 8.5 + seed / 10, 8.7)) for cell in ("rru", "gru") for seed in range(2)]
    study = make_study(
        tmp_path / "study",
        load_definition("ablation").replace(note=EVIL),
        lambda point: EVIL if point.number == 5 else ([4.0, 3.5], 3.0 + point.number / 10),
    )
    report = read_report(study, "table-2-small", "Table 2", remark="Scaled down: 20K parameters.")
    return build_page([read_run(run) for run in runs], [report], title="Measured here")


def test_what_it_says(page: str) -> None:
    text = html.unescape(page)
    assert "<h1>Measured here</h1>" in text
    assert "10 runs on 2 data sets" in text
    assert "Scaled down: 20K parameters." in text
    assert "7.720 (paper)" in text  # published, beside JSB's measured values
    for variant in ("no normalization", "S initialized with 0.95"):
        assert variant in text
    assert "learning_rate = 0.005" in text  # the resolved recipe of a run
    assert "secret" not in text  # of the environment, only what the numbers depend on


def test_nothing_of_it_comes_from_elsewhere(page: str) -> None:
    tags = re.findall(r"<[a-z][^>]*>", page)
    outside = [target for tag in tags for target in re.findall(r"""\b(?:src|href|action)=["']?([^"'\s>]+)""", tag)]
    assert outside
    assert all(target.startswith(("#", "data:")) for target in outside)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page


def test_every_link_leads_somewhere(page: str) -> None:
    places = re.findall(r'\bid="([^"]+)"', page)
    assert len(places) == len(set(places))
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) > 20
    assert set(links) <= set(places)
    assert {"run-jsb-gru-paper-seed1", "run-table-2-small-0003"} <= set(links)


def test_strings_of_the_data_are_text(page: str) -> None:
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "{{ 7 * 7 }}" in page


def test_figures_and_their_numbers_are_in_it(page: str) -> None:
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    tables = re.findall(r'href="data:text/csv;base64,([^"]+)"', page)
    assert len(pictures) == len(tables) == 1  # the ablation is a table
    assert base64.b64decode(pictures[0]).startswith(b"<?xml")
    lines = base64.b64decode(tables[0]).decode().splitlines()
    assert lines[0] == 'cell,seed,epoch,"valid, best so far",test'
    assert len(lines) == 1 + 2 * 2 * 3


def test_the_same_numbers_give_the_same_page(make_run: MakeRun) -> None:
    record = read_run(make_run())
    assert build_page([record]) == build_page([record])


def test_an_empty_page_says_so() -> None:
    assert "No results yet." in build_page([])


def test_a_chart_leaves_out_what_is_not_finite() -> None:
    made = chart("loss", [3.0, None, 1.0, float("inf"), 2.0], 3)
    assert made is not None
    assert made.points == "0,0 160,120 320,60"
    assert (made.low, made.high, made.epochs, made.best) == ("1", "3", 5, (160.0, 120.0))
    assert chart("loss", [None], 1) is None
    flat = chart("loss", [2.0], None)
    assert flat is not None
    assert flat.points == "0,0"


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium without a network."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(switch)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.add_argument("--window-size=1200,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def shown(browser: Any, selector: str) -> list[Any]:
    return [element for element in browser.find_elements("css selector", selector) if element.is_displayed()]


def choose(browser: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", name)).select_by_visible_text(value)


def test_in_a_browser(browser: Any, page: str, tmp_path: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.title == "Measured here"
    assert len(shown(browser, "details.run")) == 10
    image = browser.find_element("css selector", ".figures img")
    assert int(image.get_property("naturalWidth")) > 100  # it was drawn, though nothing may be loaded

    choose(browser, "cell", "gru")
    assert len(shown(browser, "details.run")) == 2
    assert browser.find_element("id", "shown").text == "2 of 10 runs"
    assert [row.text.split()[0] for row in shown(browser, "#jsb-paper tbody tr")] == ["gru"]
    assert not shown(browser, "#study-table-2-small")  # an ablation of another cell
    choose(browser, "cell", "all")
    choose(browser, "dataset", "nottingham")
    assert len(shown(browser, "details.run")) == 6
    assert not shown(browser, "#jsb-paper")
    choose(browser, "dataset", "all")
    assert browser.find_element("id", "shown").text == "10 runs"

    target = "run-jsb-rru-paper-seed1"
    browser.find_element("css selector", f"tbody a[href='#{target}']").click()
    opened = browser.find_element("id", target)
    # The page hears of the new address after the click has returned.
    WebDriverWait(browser, 10).until(lambda _: opened.get_property("open"))
    assert "jsb, rru, seed 1" in opened.text
    assert shown(browser, f"#{target} svg polyline")

    # A link to a run that the filter hides shows it all the same.
    choose(browser, "cell", "gru")
    browser.execute_script("document.querySelector(arguments[0]).click()", f"tbody a[href='#{target}']")
    WebDriverWait(browser, 10).until(lambda _: browser.find_element("id", target).is_displayed())
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.parametrize("width", [360, 1400])
def test_no_width_scrolls_sideways(browser: Any, page: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get((tmp_path / "report.html").as_uri())
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
