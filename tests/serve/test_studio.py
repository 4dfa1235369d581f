"""Studio in a browser, against a stand-in of the service."""

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.standin import REGIONS, StandIn, failure, running

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")
expect, Page, Browser = sync_api.expect, sync_api.Page, sync_api.Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
DUSK = "Desert at dusk"
MOST_BYTES = 250_000
"""Size of a screenshot, above which it is saved in 256 colors."""
LIVE_URLS = """
  const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
  window.live = new Set();
  URL.createObjectURL = (blob) => { const url = make.call(URL, blob); live.add(url); return url; };
  URL.revokeObjectURL = (url) => { live.delete(url); revoke.call(URL, url); };
"""

SLOW_STORE = """(name) => {
  const put = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = function (value, key) {
    const request = put.call(this, value, key);
    const end = Date.now() + 1_000;
    const hold = () => Date.now() < end && (this.get(key).onsuccess = hold);
    if ([this.name, key].includes(name)) hold();
    return request;
  };
}"""
"""Keeps transactions open for a second that put into the store, or under the key, of a name."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for this module only: while it runs, its event loop keeps other tests from `asyncio.run`."""
    expect.set_options(timeout=15_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with running(StandIn()) as server:
        yield server


@pytest.fixture
def standin(server: StandIn) -> StandIn:
    """Server without edits, of a fast pace."""
    server.reset()
    return server


@pytest.fixture
def visit(browser: Browser, standin: StandIn) -> Iterator[Callable[..., Page]]:
    """Opener of the Studio in a fresh profile; at its end nothing may have failed, or gone to another server."""
    contexts, faults = [], list[str]()

    def watch(page: Page, url: str) -> None:
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: line.type == "error" and faults.append(line.text))
        page.on("request", lambda request: is_foreign(request.url, url) and faults.append(request.url))

    def open_page(url: str = standin.url, **options: Any) -> Page:
        contexts.append(context := browser.new_context(**({"viewport": DESKTOP} | options)))
        context.set_default_timeout(15_000)
        context.add_init_script(LIVE_URLS)
        watch(page := context.new_page(), url)
        page.goto(f"{url}/studio")
        page.get_by_role("button", name=DUSK).wait_for()  # the last to be connected
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "Failed to load resource" not in fault], faults


def is_foreign(url: str, own: str) -> bool:
    return not url.startswith((own, "blob:", "data:"))


def start(page: Page, sample: str = DUSK) -> None:
    page.get_by_role("button", name=sample).click()
    expect(page.get_by_label("Instruction")).to_be_focused()


def edit(page: Page, instruction: str, shown: int | None = None) -> None:
    """Send an edit; with `shown`, wait until the history has so many pictures."""
    page.get_by_label("Instruction").fill(instruction)
    page.get_by_role("button", name="Edit", exact=True).click()
    if shown is not None:
        expect(page.locator("#nodes li")).to_have_count(shown)


def node(page: Page, title: str) -> Any:
    return page.locator("#nodes .node", has_text=title)


def tool(page: Page, name: str) -> Any:
    return page.locator("#tools").get_by_role("button", name=name)


def test_an_edit_of_a_sample_is_painted_and_compared_with_it(visit: Callable[..., Page], standin: StandIn) -> None:
    standin.until = -1
    page = visit()
    start(page)
    page.get_by_role("button", name="Remove the camera.").click()
    page.keyboard.press("Enter")
    expect(page.locator("#progress-text")).to_have_text("Waiting, number 1 in the queue")
    standin.until = 3
    expect(page.locator("#progress-text")).to_have_text("Painting, step 3 of 4")
    expect(page.locator("#partial")).to_be_visible()
    standin.until = 4
    expect(node(page, "Remove the camera.")).to_have_attribute("aria-current", "true")
    sent = standin.last
    assert (sent["prompt"], sent["return_regions"], sent["partial_images"]) == ("Remove the camera.", "true", "3")
    assert not {"mask", "regions", "num_inference_steps"} & set(sent) and int(sent["seed"]) >= 0
    expect(page.get_by_label("Instruction")).to_have_value("")
    slider = page.get_by_role("slider", name="Before and after")
    slider.press("ArrowRight")
    assert page.locator("#picture").evaluate("figure => figure.style.getPropertyValue('--split')") == "51%"
    tool(page, "Compare").click()
    expect(slider).to_be_hidden()


def test_a_running_edit_can_be_canceled(visit: Callable[..., Page], standin: StandIn) -> None:
    standin.until = 1
    page = visit()
    start(page)
    edit(page, "Remove the camera.")
    expect(page.locator("#progress-text")).to_have_text("Painting, step 1 of 4")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#live")).to_have_text("The edit was canceled.")
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.get_by_label("Instruction")).to_have_value("Remove the camera.")
    assert [each.status for each in standin.edits.values()] == ["canceled"]


def test_a_mask_is_sent_in_the_pictures_size_transparent_where_it_may_change(
    visit: Callable[..., Page], standin: StandIn
) -> None:
    page = visit()
    start(page)
    tool(page, "Mask").click()
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.1, steps=4)
    page.mouse.up()
    page.get_by_label("Top").fill("75")
    page.get_by_label("Height").fill("25")
    page.get_by_role("button", name="Apply").press("Enter")
    page.get_by_label("Erase").check()
    page.get_by_label("Left").fill("50")
    page.get_by_role("button", name="Apply").press("Enter")
    edit(page, "Remove the camera.", shown=2)
    mask = np.asarray(Image.open(io.BytesIO(standin.last["mask"])))
    assert mask.shape == (256, 256, 4) and set(np.unique(mask[..., 3])) == {0, 255}
    transparent = mask[..., 3] == 0
    assert transparent[25, 64] and not transparent[60, 64], "the stroke"
    assert transparent[200:, 70:120].all() and not transparent[200:, 140:].any(), "the rectangle, half erased"
    expect(page.locator("#scope")).to_be_empty()  # the mask is the source's, not the result's
    tool(page, "Undo").click()
    page.get_by_role("button", name="Only the masked part may change. Reset").click()
    edit(page, "Paint it red.", shown=3)
    assert "mask" not in standin.last


def test_pinned_or_excluded_regions_limit_the_next_edit(visit: Callable[..., Page], standin: StandIn) -> None:
    page = visit()
    start(page)
    expect(tool(page, "Regions")).to_be_disabled()
    edit(page, "Remove the camera.", shown=2)
    tool(page, "Regions").click()
    first, nested = (page.get_by_role("button", name=f"Region {number}") for number in (1, 3))
    expect(nested).to_have_attribute("aria-label", "Region 3, score 52 percent, not marked")
    first.click()
    expect(page.locator("#scope")).to_have_text("The model will read 1 region of your choice. Reset")
    edit(page, "Make the house white.", shown=3)
    assert standin.last["regions"] == str([REGIONS[0]["box"]]).replace(" ", "")
    nested.click()
    nested.press("Enter")
    expect(nested).to_have_attribute("aria-label", "Region 3, score 52 percent, excluded from the next edit")
    edit(page, "Make the house blue.", shown=4)
    assert standin.last["regions"].count("[") == 3, "the list of the two others"
    tool(page, "Undo").click()
    page.locator("#scope button").click()
    edit(page, "Make the house green.", shown=5)
    assert "regions" not in standin.last


def test_history_branches_goes_back_compares_any_two_and_deletes(visit: Callable[..., Page], standin: StandIn) -> None:
    page = visit()
    start(page)
    edit(page, "One", shown=2)
    edit(page, "Two", shown=3)
    page.locator("body").press("u")
    expect(node(page, "One")).to_have_attribute("aria-current", "true")
    edit(page, "Three", shown=4)
    depths = page.locator("#nodes li").evaluate_all("rows => rows.map(row => row.style.getPropertyValue('--depth'))")
    assert depths == ["0", "0", "1", "1"], "only the fork is indented"
    page.get_by_role("button", name="Compare with Two").click()
    expect(page.locator("figcaption")).to_have_text("Before: TwoAfter: Three")
    tool(page, "Revise").click()
    expect(page.get_by_label("Instruction")).to_have_value("Three")
    seed = standin.last["seed"]
    edit(page, "Four", shown=5)
    assert standin.last["seed"] == seed, "the seed of the edit that is done again"
    page.get_by_role("button", name="Delete One").click()
    expect(page.locator("#nodes li")).to_have_count(1)
    page.get_by_role("button", name="Restore").click()
    expect(page.locator("#nodes li")).to_have_count(5)
    assert page.evaluate("live.size") <= 3, "object URLs of pictures that are not shown"


def test_one_of_several_variations_becomes_a_picture_of_the_history(
    visit: Callable[..., Page], standin: StandIn
) -> None:
    page = visit()
    start(page)
    page.get_by_label("Variations").select_option("3")
    edit(page, "Remove the camera.")
    second = page.get_by_role("button", name=re.compile("Variation 2"))
    expect(second).to_be_visible()
    page.reload()
    second.click()
    expect(page.locator("#nodes li")).to_have_count(2)
    expect(node(page, "Remove the camera.")).to_contain_text(f"Seed {int(standin.last['seed']) + 1}")
    assert standin.last["n"] == "3"


@pytest.mark.parametrize(("count", "kept"), [(1, "blobs"), (3, "picks")])
def test_a_picture_that_is_shown_outlives_a_reload_at_once(
    visit: Callable[..., Page], standin: StandIn, count: int, kept: str
) -> None:
    page = visit()
    start(page)
    page.evaluate(SLOW_STORE, kept)
    page.get_by_label("Variations").select_option(str(count))
    edit(page, "Remove the camera.")
    last = page.get_by_role("button", name=re.compile("Variation 3")) if count > 1 else node(page, "Remove the camera.")
    expect(last).to_be_visible()
    page.reload()
    expect(last).to_be_visible()
    assert len(standin.edits) == 1


def test_a_reload_keeps_everything_and_takes_the_running_edit_up(visit: Callable[..., Page], standin: StandIn) -> None:
    page = visit()
    start(page)
    edit(page, "One", shown=2)
    standin.until = 2
    edit(page, "Two")
    expect(page.locator("#progress-text")).to_have_text("Painting, step 2 of 4")
    page.reload()
    expect(page.locator("#progress-text")).to_have_text("Painting, step 2 of 4")
    standin.until = 4
    expect(page.locator("#nodes li")).to_have_count(3)
    expect(node(page, "Two")).to_have_attribute("aria-current", "true")
    assert len(standin.edits) == 2
    page.evaluate(SLOW_STORE, "draft")
    page.get_by_label("Instruction").fill("Three")
    page.reload()
    expect(page.get_by_label("Instruction")).to_have_value("Three")
    expect(page.locator("#nodes li")).to_have_count(3)


def test_a_lost_connection_is_made_again(visit: Callable[..., Page], standin: StandIn) -> None:
    standin.drops = 1
    page = visit()
    start(page)
    edit(page, "Remove the camera.", shown=2)
    assert len(standin.edits) == 1


def test_settings_come_from_the_model_and_code_never_shows_the_key(
    visit: Callable[..., Page], standin: StandIn
) -> None:
    standin.key = "sesame"
    page = visit()
    page.get_by_label("Key", exact=True).fill("sesame")
    page.get_by_role("button", name="Use key").click()
    start(page)
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Steps").fill("0")
    edit(page, "x")
    assert not page.get_by_label("Steps").evaluate("input => input.validity.valid") and not standin.edits
    page.get_by_label("Steps").fill("3")
    page.get_by_label("New random seed for every edit").uncheck()
    page.get_by_label("Seed", exact=True).fill("7")
    instruction = 'Paint the dog\'s "house" $red\\'
    page.get_by_label("Instruction").fill(instruction)
    tool(page, "Code").click()
    shell = page.locator("#code-text").inner_text()
    stubs = "curl() { printf '%s\\n' \"$@\"; }; jq() { cat; }; base64() { cat; }; FIREEDIT_API_KEY=k\n"
    printed = subprocess.run(["bash", "-c", f"{stubs}{shell.replace('> edited.png', '')}"], capture_output=True)
    for field in (f"prompt={instruction}", "seed=7", "num_inference_steps=3", "image=@dusk.jpg"):
        assert field in printed.stdout.decode().split("\n"), printed
    page.get_by_label("Python").check()
    python = page.locator("#code-text").inner_text()
    compile(python, "snippet", "exec")
    assert '"num_inference_steps": 3' in python and "sesame" not in shell + python and "FIREEDIT_API_KEY" in python
    page.keyboard.press("Escape")
    edit(page, instruction, shown=2)
    assert (standin.last["num_inference_steps"], standin.last["seed"]) == ("3", "7")
    assert standin.last["prompt"] == instruction and "guidance_scale" not in standin.last


def test_pictures_are_chosen_or_pasted_and_others_refused(visit: Callable[..., Page], standin: StandIn) -> None:
    page = visit()
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("no picture that can be edited")
    Image.new("RGB", (60, 30), "red").save(file := io.BytesIO(), "PNG")
    page.locator("#file").set_input_files({"name": "my pic.png", "mimeType": "image/png", "buffer": file.getvalue()})
    expect(node(page, "my-pic.png")).to_contain_text("60 × 30")
    page.evaluate("""async () => {
      const files = new DataTransfer();
      const blob = await (await fetch("studio/samples/hill.jpg")).blob();
      files.items.add(new File([blob], "pasted.jpg", {type: "image/jpeg"}));
      dispatchEvent(new ClipboardEvent("paste", {clipboardData: files}));
    }""")
    expect(node(page, "pasted.jpg")).to_have_attribute("aria-current", "true")
    assert not standin.edits


def test_a_missing_key_is_asked_for_and_forgotten_unless_told_otherwise(
    visit: Callable[..., Page], standin: StandIn
) -> None:
    page = visit()
    start(page)
    standin.key = "sesame"
    edit(page, "Remove the camera.")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("No such API key.")
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_role("alert")).to_contain_text("No such API key.")
    page.get_by_role("button", name="Enter a key").click()
    for key in ("wrong", "sesame"):
        dialog.get_by_label("Key", exact=True).fill(key)
        page.keyboard.press("Enter")
    expect(page.locator("#nodes li")).to_have_count(2)
    page.reload()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill("sesame")
    dialog.get_by_label("Remember it in this browser").check()
    page.evaluate(SLOW_STORE, "key")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("stand-in")
    page.reload()
    expect(page.locator("#model")).to_have_text("stand-in")


def test_a_busy_server_is_asked_again_when_it_says(visit: Callable[..., Page], standin: StandIn) -> None:
    standin.failures = [failure(429, "the queue is full", "too_many_requests", **{"retry-after": "2"})]
    page = visit()
    start(page)
    edit(page, "Remove the camera.")
    expect(page.locator("#progress-text")).to_have_text("The queue is full. Trying again in 2 s.")
    expect(page.locator("#nodes li")).to_have_count(2)
    standin.failures = [failure(429, "the day's edits are used up", "insufficient_quota", **{"retry-after": "9000"})]
    edit(page, "Remove the house.")
    expect(page.get_by_role("alert")).to_contain_text("used up. You can try again after")


def test_failures_are_told_in_sentences_and_can_be_tried_again(visit: Callable[..., Page], standin: StandIn) -> None:
    standin.failures = [failure(500, "the server failed; its log has the reason", "internal_error")]
    page = visit()
    start(page)
    edit(page, "Remove the camera.")
    expect(page.get_by_role("alert")).to_contain_text("The server failed; its log has the reason.")
    page.context.set_offline(True)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("You are offline.")
    expect(page.locator("#model")).to_have_text("Offline")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#nodes li")).to_have_count(2)
    expect(page.locator("#model")).to_have_text("stand-in")
    standin.failures = [failure(400, "prompt: found 900 tokens; write at most 300", "too_long")]
    edit(page, "Remove the house.")
    expect(page.get_by_role("alert")).to_contain_text("Prompt: found 900 tokens; write at most 300.")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()


def test_a_phones_width_is_enough(visit: Callable[..., Page]) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark")
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    start(page)
    edit(page, "Remove the camera.", shown=2)
    expect(page.get_by_role("slider", name="Before and after")).to_be_visible()
    tool(page, "Mask").tap()
    assert not page.evaluate(wide) and page.locator("#picture").bounding_box()["width"] > 120
    expect(node(page, DUSK)).to_be_hidden()
    page.get_by_role("button", name="History, 2 pictures").tap()
    node(page, DUSK).tap()
    expect(node(page, DUSK)).to_have_attribute("aria-current", "true")
    assert not page.evaluate(wide)


def test_everything_works_by_keyboard_alone(visit: Callable[..., Page], standin: StandIn) -> None:
    page = visit()
    keys = page.keyboard

    def tab_to(name: str) -> None:
        for _ in range(60):
            if page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText).trim()") == name:
                return
            keys.press("Tab")
        raise AssertionError(f"Tab does not reach {name!r}")

    expect(page.get_by_role("button", name=DUSK)).to_be_visible()
    tab_to(DUSK)
    keys.press("Enter")
    expect(page.get_by_label("Instruction")).to_be_focused()
    keys.type("Remove the camera.\n")
    expect(page.locator("#nodes li")).to_have_count(2)
    tab_to("Before and after")
    keys.press("Home")
    expect(page.locator("#split")).to_have_value("0")
    keys.press("r")
    tab_to("Region 1, score 93 percent, not marked")
    keys.press("Enter")
    keys.press("m")
    tab_to("Apply")
    keys.press("Enter")
    keys.press("/")
    keys.type("Make it white.\n")
    expect(page.locator("#nodes li")).to_have_count(3)
    assert standin.last["mask"] and standin.last["regions"]
    tab_to("Delete Make it white.")
    keys.press("Shift+Tab")
    keys.press("ArrowUp")
    keys.press("Enter")
    expect(node(page, "Remove the camera.")).to_have_attribute("aria-current", "true")
    keys.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    keys.press("Escape")
    keys.press("Control+z")
    expect(node(page, DUSK)).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Callable[..., Page], standin: StandIn, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(color_scheme=scheme, reduced_motion="reduce")

    def check() -> None:
        found = axe.run(page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, [(each["id"], [spot["html"] for spot in each["nodes"]]) for each in serious]

    expect(page.locator("#model")).to_have_text("stand-in")
    check()
    start(page)
    page.get_by_label("Variations").select_option("2")
    edit(page, "Two of them")
    page.get_by_role("button", name=re.compile("Variation 1")).wait_for()
    check()
    page.locator("body").press("1")
    page.get_by_text("Advanced settings").click()
    tool(page, "Regions").click()
    page.get_by_role("button", name="Region 1").click()
    check()
    tool(page, "Mask").click()
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="API key").click()
    check()
    page.keyboard.press("Escape")
    tool(page, "Code").click()
    check()


def test_screenshots(visit: Callable[..., Page], standin: StandIn, pytestconfig: pytest.Config) -> None:
    """Pictures of the docs: `pytest tests/serve/test_studio.py -k screenshots --studio-shots docs --studio-url URL`."""
    if (folder := pytestconfig.getoption("--studio-shots")) is None:
        pytest.skip("needs --studio-shots FOLDER")

    def shoot(name: str) -> None:
        page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(path := Path(folder) / f"studio-{name}.png", optimize=True)
        if path.stat().st_size > MOST_BYTES:
            picture.quantize(256).save(path, optimize=True)

    page = visit(pytestconfig.getoption("--studio-url") or standin.url)
    page.get_by_role("button", name=DUSK).wait_for()
    shoot("start")
    start(page)
    standin.until = 20
    page.get_by_text("Advanced settings").click()
    page.get_by_label("Steps").fill("400")
    page.get_by_text("Advanced settings").click()
    edit(page, "Make the green house red.")
    expect(page.locator("#partial")).to_be_visible(timeout=60_000)
    shoot("painting")
    page.get_by_role("button", name="Cancel").click()
    standin.until = 100
    page.get_by_text("Advanced settings").click()
    page.get_by_role("button", name="Reset to the model").click()
    page.get_by_text("Advanced settings").click()
    sync_api.expect.set_options(timeout=60_000)
    edit(page, "Make the green house red.", shown=2)
    tool(page, "Regions").click()
    page.get_by_role("slider", name="Before and after").fill("36")
    page.locator(".box").last.hover()
    shoot("result")
    tool(page, "Regions").click()
    tool(page, "Mask").click()
    box = page.locator("#picture").bounding_box()
    for row in range(6):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * (0.6 + 0.04 * row))
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.78, box["y"] + box["height"] * (0.6 + 0.04 * row), steps=3)
        page.mouse.up()
    page.get_by_label("Instruction").fill("Remove the camera.")
    shoot("mask")
    edit(page, "Remove the camera.", shown=3)
    edit(page, "Change the background to a sandy beach.", shown=4)
    tool(page, "Undo").click()
    edit(page, "Turn the building into a key.", shown=5)
    page.get_by_role("button", name="Compare with Change the background").click()
    shoot("history")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    shoot("phone")
