"""Ask Open WebUI one question in Debian's Chromium, as a person would; runs in Playwright's own environment.

    python webui_in_chromium.py PAGE QUESTION DIRECTORY

Prints one JSON object: the models in the list, the answer, and its length each time that it had grown.
Leaves `answer.png` (and `failure.png` where something is not found) in DIRECTORY.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 120_000.0
"""Milliseconds for the page to load on a busy machine."""


def ask(page: Page, url: str, question: str) -> dict[str, Any]:
    """Open the page, read the list of models, ask, and follow the answer to its end."""
    page.goto(url)
    news = page.get_by_text("Okay, Let's Go!")  # release notes lie over the page the first time
    news.click()
    news.wait_for(state="hidden")
    models = listed(page)
    page.locator("#chat-input").click()
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    answer = page.locator("#response-content-container").last
    answer.wait_for()
    return {"models": models, "lengths": follow(page), "answer": answer.inner_text()}


def listed(page: Page) -> list[str]:
    """Return the models that the selector offers."""
    page.locator("#model-selector-model-button").click()
    options = page.get_by_role("option")
    options.first.wait_for()
    names = [option.inner_text().strip() for option in options.all()]
    page.keyboard.press("Escape")
    return names


def follow(page: Page) -> list[int]:
    """Return how many characters the answer had each time it had grown, until it has ended.

    It has ended when the buttons that rate it are there.
    """
    lengths: list[int] = []
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        seen = len(page.locator("#response-content-container").last.inner_text())
        if seen and (not lengths or seen != lengths[-1]):
            lengths.append(seen)
        if page.get_by_label("Good Response").count():
            return lengths
        page.wait_for_timeout(50)
    raise TimeoutError("the answer does not end")


def main(url: str, question: str, directory: str) -> None:
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path="/usr/bin/chromium",
            args=list(FLAGS),
            viewport={"width": 1200, "height": 800},
        )
        page = browser.pages[0]
        page.set_default_timeout(PATIENCE)
        try:
            found = ask(page, url, question)
        except BaseException:
            page.screenshot(path=Path(directory) / "failure.png")
            raise
        page.screenshot(path=Path(directory) / "answer.png")
        browser.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
