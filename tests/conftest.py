"""What tests of several rooms share: a browser, and an OpenVINO that calls nobody."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

# Test processes of pytest-xdist set a terminal's width, which the tables would keep to.
os.environ.pop("COLUMNS", None)
# A shell's background jobs ignore Ctrl-C, and would hand that down to the servers started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Importing OpenVINO would report that to an outside service; without this package it cannot.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a fresh profile; keeps its console and its network traffic.

    `get_log("browser")` gives the console's lines since the last call, `get_log("performance")`
    the events of the DevTools protocol, requests among them.
    """
    chromium = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with its driver: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="edgekit-browser-", ignore_cleanup_errors=True) as home:
        for flag in (*QUIET, f"--user-data-dir={home}"):
            options.add_argument(flag)
        chrome = webdriver.Chrome(options, Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()
