"""`edgekit inspect --netron` in a real browser, on Netron's real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from edgekit.bench.figures import file_sha256

Command = Callable[..., Any]
ORANGE, GREEN, VERMILION = "rgb(230, 159, 0)", "rgb(0, 158, 115)", "rgb(213, 94, 0)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no SIGINT there")


@contextmanager
def running(*arguments: object, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Run `edgekit inspect ... --netron` until the block ends, then press Ctrl-C."""
    command = [sys.executable, "-m", "edgekit", "inspect", *map(str, arguments)]
    with subprocess.Popen(
        [*command, "--netron", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    ) as server:
        try:
            yield server
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=20) == 0
        finally:
            server.kill()


def line_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    return server.stderr.readline()


@contextmanager
def netron(*arguments: object) -> Iterator[str]:
    """The address at which `edgekit inspect ... --netron` serves its page."""
    with running(*arguments, "--no-browser") as server:
        line = line_of(server)
        assert " at http://127.0.0.1:" in line
        yield line.partition(" at ")[2].split()[0]


def wait_for_figures(browser: webdriver.Chrome) -> None:
    script = "return document.documentElement.dataset.edgekit"
    state = WebDriverWait(browser, 30).until(lambda b: b.execute_script(script))
    assert state == "ready"


def select(browser: webdriver.Chrome, name: str) -> dict[str, str]:
    """Click on a node's title; returns what its properties say, by name."""
    title = f'[id="node-name-{name}"] .node-item-type'
    browser.find_element(By.CSS_SELECTOR, title).click()
    return WebDriverWait(browser, 10).until(properties)


def properties(browser: webdriver.Chrome) -> dict[str, str]:
    """The entries of Netron's open side bar."""
    return {
        item.find_element(By.CSS_SELECTOR, ".sidebar-item-name input").get_attribute("value")
        or "": item.find_element(By.CSS_SELECTOR, ".sidebar-item-value-list").text.strip("+? \n")
        for item in browser.find_elements(By.CSS_SELECTOR, ".sidebar-item")
    }


def fill(browser: webdriver.Chrome, name: str) -> str:
    path = browser.find_element(By.CSS_SELECTOR, f'[id="node-name-{name}"] .node-item-type path')
    return path.value_of_css_property("fill")


def requested(browser: webdriver.Chrome) -> set[str]:
    """Every address that was asked for since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }


@pytest.fixture
def folded(model: Path, edgekit: Command) -> Path:
    """The model after the graph passes."""
    path = model.with_name("folded.onnx")
    assert edgekit("optimize", model, "-o", path).status == 0
    return path


def test_a_selected_node_shows_our_figures(browser: webdriver.Chrome, model: Path) -> None:
    requested(browser)
    with netron(model) as url:
        browser.get(url)
        wait_for_figures(browser)
        shown = select(browser, "features")
        assert shown["type"] == "Conv"
        assert shown["edgekit.macs"] == str(3 * 3 * 4 * 8 * 8)
        assert shown["edgekit.params"] == "40"
        assert shown["edgekit.output_shape"] == "1x4x8x8"
        assert shown["MACs"] == "2,304 (78.3% of the model)"
        assert shown["bits"] == "32 weights, 32 activations"
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        asked = {address for address in requested(browser) if address.startswith("http")}
        assert {address.startswith(f"{url}/") for address in asked} == {True}, asked


def test_a_tensor_and_the_model_show_theirs(browser: webdriver.Chrome, model: Path) -> None:
    with netron(model) as url:
        browser.get(url)
        wait_for_figures(browser)
        select(browser, "features")
        browser.find_element(By.CSS_SELECTOR, ".sidebar-item-value-button-tool").click()
        shown = WebDriverWait(browser, 10).until(
            lambda b: found if "stride" not in (found := properties(b)) else None
        )
        assert shown["name"] == "conv_weight"
        assert shown["edgekit.role"] == "learned"
        assert shown["edgekit.stored_bits"] == str(36 * 32)
        browser.execute_script("window.__view__.showModelProperties()")
        assert properties(browser)["MACs"] == "2,944"


def test_measured_figures_come_from_the_results_of_a_bench(
    browser: webdriver.Chrome, model: Path, tmp_path: Path
) -> None:
    entry = {
        "sha256": file_sha256(model),
        "nodes": [{"name": "features", "time_share": 0.625}],
        "signal_to_noise": {"layers": [{"tensor": "features", "node": "", "db": 31.4}]},
    }
    results = tmp_path / "bench.json"
    results.write_text(json.dumps({"schema_version": 1, "models": [entry]}))
    with netron(model, "--results", results) as url:
        browser.get(url)
        wait_for_figures(browser)
        shown = select(browser, "features")
    assert shown["edgekit.time_share"] == "0.625000"
    assert shown["time"] == "62.5% of a run"
    assert shown["signal-to-noise"] == "31.4 dB"


def test_changed_nodes_are_coloured_side_by_side(
    browser: webdriver.Chrome, model: Path, folded: Path
) -> None:
    with netron("--before", model, "--after", folded) as url:
        browser.get(url)
        for pane in ("before", "after"):
            browser.switch_to.frame(pane)
            wait_for_figures(browser)
            assert fill(browser, "features") == ORANGE
            if pane == "before":
                assert fill(browser, "normal") == VERMILION
                same = fill(browser, "logits")
            assert fill(browser, "logits") == same
            assert same not in (ORANGE, GREEN, VERMILION)
            browser.switch_to.default_content()
        entries = browser.find_elements(By.CSS_SELECTOR, "#nodes button")
        assert [entry.text.splitlines()[0] for entry in entries] == ["features", "normal"]
        assert "Conv changed; input 1: other values" in entries[0].text
        entries[0].click()
        for pane in ("before", "after"):
            browser.switch_to.frame(pane)
            shown = WebDriverWait(browser, 10).until(properties)
            assert shown["name"] == "features"
            assert shown["edgekit.change"].startswith("changed; input 1: other values")
            browser.switch_to.default_content()
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    with netron("--before", folded, "--after", model) as url:
        browser.get(url)
        browser.switch_to.frame("after")
        wait_for_figures(browser)
        assert fill(browser, "normal") == GREEN


def test_colours_outlive_a_redraw(browser: webdriver.Chrome, model: Path, folded: Path) -> None:
    with netron("--before", model, "--after", folded) as url:
        browser.get(f"{url}/after/")
        wait_for_figures(browser)
        before = browser.find_element(By.ID, "canvas")
        browser.execute_script("window.__view__.toggle('names')")
        WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "canvas") != before)
        WebDriverWait(browser, 10).until(lambda b: fill(b, "features") == ORANGE)


def test_a_model_with_external_data_is_shown(
    browser: webdriver.Chrome, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(model), path, save_as_external_data=True, location="w.data", size_threshold=0
    )
    with netron(path) as url:
        browser.get(url)
        wait_for_figures(browser)
        assert select(browser, "features")["edgekit.macs"] == "2304"
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a browser")
def test_where_there_is_no_browser_the_address_is_told(model: Path) -> None:
    environment = {"PATH": "", "HOME": str(model.parent), "COLUMNS": "200"}
    with running(model, env=environment) as server:
        url = line_of(server).partition(" at ")[2].split()[0]
        assert f"no browser could be opened: open {url} yourself" in line_of(server)


def test_bad_input_is_one_line(refuses: Command, model: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.onnx"
    assert "MODEL.onnx" in refuses("inspect").err
    assert "MODEL.onnx" in refuses("inspect", model, "--after", model).err
    assert "--after is missing" in refuses("inspect", "--before", model).err
    assert "--before is missing" in refuses("inspect", "--after", model).err
    assert "no such file" in refuses("inspect", absent, "--netron").err
    assert "no such file" in refuses("inspect", "--before", model, "--after", absent).err
    assert "--netron" in refuses("inspect", model, "--results", "bench.json").err
    results = ("--netron", "--results", tmp_path / "bench.json")
    assert "bench.json" in refuses("inspect", model, *results).err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in refuses("inspect", model, "--netron", "--port", port).err


def test_two_models_that_are_the_same_say_so(
    browser: webdriver.Chrome, edgekit: Command, model: Path
) -> None:
    outcome = edgekit("inspect", "--before", model, "--after", model)
    assert "6 same, 0 changed, 0 removed, 0 added" in outcome.out
    with netron("--before", model, "--after", model) as url:
        browser.get(url)
        nodes = browser.find_element(By.ID, "nodes")
        WebDriverWait(browser, 10).until(lambda _: nodes.text == "No node differs.")


def test_what_differs_is_printed_too(edgekit: Command, model: Path, folded: Path) -> None:
    table = edgekit("inspect", "--before", model, "--after", folded)
    assert table.status == 0
    assert "input 1: other values" in table.out
    assert "1 changed, 1 removed" in table.out
    found = json.loads(
        edgekit("inspect", "--before", model, "--after", folded, "--format", "json").out
    )
    assert found["counts"] == {"same": 4, "changed": 1, "removed": 1, "added": 0}
    assert found["schema_version"] == 1
