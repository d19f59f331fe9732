"""The page in a real browser: it renders, sorts, asks the network for nothing, fits a phone."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from edgekit.bench.report.calibration import read_calibration
from edgekit.bench.report.markdown import report_markdown
from edgekit.bench.report.mistakes import opacity
from edgekit.bench.report.page import report_html
from edgekit.bench.report.results_file import read_runs
from edgekit.bench.report.style import LIGHT

HOSTILE = """</title><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"""
NAMES = ("fp32.onnx", "$x_y$ id=\"<!-- -->'`|.onnx", f"{HOSTILE}\u0000\n.onnx")
CSS = Path(__file__).parents[2] / "bench" / "report" / "page.css"


CALIBRATION = {
    "calibration_schema_version": 1,
    "model": "/models/int8.onnx",
    "settings": {"method": "minmax"},
    "tensors": [
        {
            "tensor": HOSTILE,
            "bits": 8,
            "low": -1.0,
            "high": 1.0,
            "smallest": -1.0,
            "largest": 2.0,
            "outside": 5,
            "counts": [10, 50, 30, 10],
        }
    ],
}

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def build(value: Any) -> Path:
        path = tmp_path / f"results{len(list(tmp_path.iterdir()))}.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return build


@pytest.fixture
def results(results_json: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return results_json(*NAMES)


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, results_json: Callable[..., dict[str, Any]]
) -> Path:
    folder = tmp_path_factory.mktemp("report")
    results, calibration = folder / "results.json", folder / "calibration.json"
    results.write_text(json.dumps(results_json(*NAMES)))
    calibration.write_text(json.dumps(CALIBRATION))
    path = folder / "report.html"
    html = report_html(read_runs([results]), [read_calibration(calibration)])
    path.write_text(html, "utf-8")
    return path


def opened(browser: WebDriver, page: Path) -> WebDriver:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    return browser


def first_column(browser: WebDriver) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#models tbody th")]


def shown(name: str) -> str:
    visible = re.sub(r"[\0\n]", "\N{REPLACEMENT CHARACTER}", name)
    return visible.rpartition("/")[2].removesuffix(".onnx")


def test_the_page_renders_without_an_error_or_a_request(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    assert browser.title == "Models on digits"
    assert first_column(browser)[1] == shown(NAMES[1])
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith(("file:", "data:", "about:"))] == []
    assert page.as_uri() in requests  # the log does hold requests


def test_the_log_would_show_an_error_and_a_request(browser: WebDriver, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw Error('x')</script>")
    opened(browser, broken)
    assert browser.get_log("browser")
    assert any("127.0.0.1:9" in entry["message"] for entry in browser.get_log("performance"))


def test_a_name_cannot_become_markup(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert browser.title != "taken"
    policy = browser.find_element(By.CSS_SELECTOR, "meta[http-equiv]").get_attribute("content")
    assert policy is not None
    assert "default-src 'none'" in policy


def test_a_click_and_a_key_sort_the_table(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    by_size = [shown(NAMES[index]) for index in (0, 2, 1)]
    heading = next(
        th
        for th in browser.find_elements(By.CSS_SELECTOR, "#models thead th")
        if th.text.strip().startswith("file")
    )
    assert heading.get_attribute("aria-sort") is None
    button = heading.find_element(By.TAG_NAME, "button")
    button.click()
    assert first_column(browser) == by_size
    assert heading.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert first_column(browser) == by_size[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    assert "descending" in browser.find_element(By.ID, "announcer").get_attribute("textContent")
    browser.find_element(By.CSS_SELECTOR, "#models thead button").send_keys(Keys.SPACE)
    assert heading.get_attribute("aria-sort") is None
    assert first_column(browser) == sorted(first_column(browser), key=str.casefold)


def test_every_plot_is_described_and_every_id_is_its_own(browser: WebDriver, page: Path) -> None:
    opened(browser, page)
    plots = browser.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    assert len(plots) == 4 + 3 + 1 + 3 + 1  # fronts, layers, noise, confusions, calibration
    described = browser.execute_script(
        "return Array.from(document.querySelectorAll('svg[role=img]'), (plot) =>"
        " plot.getAttribute('aria-labelledby').split(' ').every("
        "(id) => document.getElementById(id)?.textContent))"
    )
    assert all(described)
    ids = browser.execute_script("return Array.from(document.querySelectorAll('[id]'), e => e.id)")
    assert len(ids) == len(set(ids))
    for plot in plots[:4]:
        texts = plot.find_elements(By.TAG_NAME, "text")
        assert texts, "text is drawn as shapes"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_in_their_boxes(browser: WebDriver, page: Path, scheme: str) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    try:
        opened(browser, page)
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        box = browser.find_element(By.CSS_SELECTOR, "#models .scroll")
        assert box.get_attribute("tabindex") == "0"
        assert browser.execute_script("return arguments[0].scrollWidth", box) > 390
        ink = browser.execute_script("return getComputedStyle(document.body).color")
        assert ink == {"light": "rgb(28, 33, 40)", "dark": "rgb(227, 231, 236)"}[scheme]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def schemes() -> dict[str, dict[str, str]]:
    light, dark = CSS.read_text().split("@media (prefers-color-scheme: dark)")
    colors = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]
    return {"light": colors[0], "dark": colors[1]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_reach_the_contrast_of_wcag_aa(scheme: str) -> None:
    colors = schemes()[scheme]
    assert contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.01)
    for ground in ("page", "surface", "mark"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    for name in [name for name in colors if name.startswith("series")]:
        assert contrast(colors[name], colors["surface"]) >= 3, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_cells_can_be_read(scheme: str) -> None:
    colors = schemes()[scheme]
    for percent in range(101):
        alpha = opacity(percent / 100)
        mixed = "#" + "".join(
            f"{round(alpha * int(over, 16) + (1 - alpha) * int(under, 16)):02x}"
            for over, under in zip(
                re.findall("..", colors["accent"][1:]),
                re.findall("..", colors["surface"][1:]),
                strict=True,
            )
        )
        assert contrast(mixed, colors["surface" if alpha > 0.5 else "ink"]) >= 4.5, percent


def test_a_picture_has_the_colors_of_the_light_page() -> None:
    assert set(LIGHT.values()) <= set(schemes()["light"].values())


def test_plots_without_figures_are_left_out_and_named(
    write: Write, results: dict[str, Any]
) -> None:
    results["models"][0]["accuracy"] = None
    results["models"][1]["score"]["imt"] = None
    html = report_html(read_runs([write(results)]))
    assert "Left out for want of accuracy: fp32." in html
    assert "No IMT score: $x_y$" in html
    for one in results["models"]:
        for key in ("accuracy", "confusion", "nodes", "signal_to_noise", "provenance"):
            one[key] = None
        one["score"] = {}
    bare = report_html(read_runs([write(results)]))
    assert "Left out for want of accuracy: every model." in bare
    assert '<svg viewBox="0 0 3' not in bare
    assert 'id="mistakes"' not in bare
    assert 'id="noise"' not in bare


def test_runs_side_by_side_have_names_of_their_own(write: Write, results: dict[str, Any]) -> None:
    other = copy.deepcopy(results)
    other["machine"]["cpu"] = "Other CPU"
    other["settings"]["data"] = "cifar10"
    first, second = write(results), write(other)
    html = report_html(read_runs([first, second]))
    assert f"fp32 ({second.stem})" in html
    assert "from different machines" in html
    assert "on different data" in html


def test_markdown_holds_the_table_and_the_rest(write: Write, results: dict[str, Any]) -> None:
    text = report_markdown(read_runs([write(results)]), [read_calibration(write(CALIBRATION))])
    assert "| `fp32.onnx` | int8 | 99.00%" in text
    for title in ("Costliest layers", "Signal to noise", "Mistakes", "Calibration", "Provenance"):
        assert f"## {title}\n" in text
    assert "- passes: `fold-constants, " in text
    assert "\0" not in text
    outside_code = re.sub(r"`[^`]*`", "", text)
    assert "<script>" not in outside_code
