"""Takes pictures of pages with Debian's Chromium, and writes the text that each shows beside it.

    python -m tests.ui.shoot FOLDER < shots.json

A process of its own: one that used temporalio may crash while it ends, and would take a test with it. It waits for
text that can be seen, never for silence on the network (the Web UI asks for news for ever) and never by sleeping.
"""

import json
import sys
import time
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.ui.shots import Shot

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    # No machine but this one: the Web UI asks for news. (Routes in Playwright would do it, but turn the cache off.)
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
PATIENCE_SECONDS: Final = 30.0


def main(folder: Path, shots: list[Shot]) -> None:
    """Take every picture in one browser."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        windows: dict[str, BrowserContext] = {}
        for shot in shots:
            kind = json.dumps([shot["width"], shot["colours"], shot["stored"]])
            if kind not in windows:
                windows[kind] = window(browser, shot)
            take(windows[kind], folder, shot)
        browser.close()


def window(browser: Browser, shot: Shot) -> BrowserContext:
    """Always the same size, time zone and language, without movement; alike pictures share one, which saves seconds."""
    context = browser.new_context(
        viewport={"width": shot["width"], "height": 1000},
        timezone_id="UTC",
        locale="en-GB",
        reduced_motion="reduce",
        color_scheme=shot["colours"],
    )
    stored = json.dumps(shot["stored"])
    context.add_init_script(f"for (const [key, value] of Object.entries({stored})) localStorage.setItem(key, value)")
    return context


def take(context: BrowserContext, folder: Path, shot: Shot) -> None:
    """Take one picture, and write the text beside it."""
    page = context.new_page()
    try:
        page.goto(shot["url"], wait_until="domcontentloaded")
        for text in shot["ready"]:
            see(page, text)
        wait_for_frames(page, shot["framed"])
        if shot["follow"]:
            page = follow(page, shot["follow"])
            see(page, shot["arrived"])
        page.evaluate("document.fonts.ready")
    finally:
        # Also of a page that did not become ready: it says why.
        page.screenshot(path=folder / f"{shot['name']}.png", animations="disabled", full_page=shot["whole"])
        (folder / f"{shot['name']}.txt").write_text(text_of(page))
    page.close()


def see(page: Page, text: str) -> None:
    """Wait until a text can be seen; hidden copies of a menu come before what is on the page."""
    found = page.get_by_text(text).filter(visible=True).first
    expect(found).to_be_visible(timeout=PATIENCE_SECONDS * 1_000)


def follow(page: Page, link: str) -> Page:
    """Click a link in whichever frame has it; it opens a page of its own."""
    for frame in page.frames:
        found = frame.get_by_role("link", name=link)
        if found.count():
            with page.expect_popup() as opened:
                found.first.click()
            return opened.value
    raise LookupError(f"no frame of {page.url} has the link {link!r}")


def wait_for_frames(page: Page, texts: list[str]) -> None:
    """Wait until each text stands in some frame of the page."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    missing = texts
    while missing:
        framed = framed_text(page)
        missing = [text for text in missing if text not in framed]
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"no frame of {page.url} shows {missing}; they show: {framed}")
        page.wait_for_timeout(50)


def framed_text(page: Page) -> str:
    """The text of all frames but the page itself. The Web UI replaces a frame when its markdown changes."""
    texts: list[str] = []
    for frame in page.frames:
        try:
            if frame is not page.main_frame:
                texts.append(frame.locator("body").inner_text())
        except Error:
            if not frame.is_detached():
                raise
    return "\n".join(texts)


def text_of(page: Page) -> str:
    """What a person can read on the page, frames included."""
    return f"{page.locator('body').inner_text()}\n{framed_text(page)}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.load(sys.stdin))
