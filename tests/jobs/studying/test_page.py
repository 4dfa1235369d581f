"""Page of a study in a browser: 40 participants who leave, come back and click twice; keys, phone, accessibility."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fireedit.jobs.studying.app import open_app
from fireedit.jobs.studying.preferences import count_preferences
from fireedit.jobs.studying.study_folder import Study
from fireedit.jobs.studying.votes import Votes
from tests.jobs.studying.study_evaluations import METHODS, write_study
from tests.jobs.studying.test_app import running

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[test]'")
expect, Page, Browser = sync_api.expect, sync_api.Page, sync_api.Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]

PARTICIPANTS, QUESTIONS = 40, 30
TOGETHER = 4
"""Participants at a time."""
FAVORITE = 944 / 1200
"""Probability that the first method is chosen: the paper's share."""
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Study, Path]:
    return write_study(tmp_path, QUESTIONS)


@pytest.fixture
def votes(made: tuple[Study, Path]) -> Votes:
    study, folder = made
    return Votes.open(f"sqlite:///{folder}/votes.db", study.token)


@pytest.fixture
def url(made: tuple[Study, Path], votes: Votes) -> Iterator[str]:
    with running(open_app(made[1], most_open=3)) as url:
        yield url


def visit(browser: Browser, address: str, faults: list[str], **options: Any) -> Page:
    """Open the page in a fresh profile; what fails or goes to another server is noted."""
    context = browser.new_context(**({"viewport": DESKTOP} | options))
    context.set_default_timeout(15_000)
    page, own = context.new_page(), address.partition("/s/")[0]
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: line.type == "error" and faults.append(line.text))
    page.on("request", lambda request: request.url.startswith(own) or faults.append(request.url))
    page.goto(address)
    return page


def wait_for(page: Page, number: int, of: int = QUESTIONS) -> None:
    """Wait until a question and its pictures are shown."""
    expect(page.locator("#number")).to_have_text(f"Question {number} of {of}")
    expect(page.locator("#hint")).to_have_text("")


def take_part(browser: Browser, address: str, habit: int, study: Study, faults: list[str]) -> Iterator[dict[str, str]]:
    """Answer all questions, one at a time; yields question and picture of those that were answered.

    Args:
        habit: 0 leaves and comes back, 1 clicks everything twice, 2 uses the keyboard, 3 goes back and posts again.
    """
    draw, answers = random.Random(address), dict[str, str]()
    page = visit(browser, address, faults)
    page.get_by_role("button", name="I agree, begin").click()
    methods = {token: method for question in study.questions for method, token in enumerate(question.pictures)}
    for number in range(1, QUESTIONS + 1):
        wait_for(page, number)
        tokens = page.locator("input[name=choice]").evaluate_all("inputs => inputs.map(each => each.value)")
        others = [token for token in tokens if methods[token]]
        chosen = draw.choice(others) if draw.random() > FAVORITE else next(t for t in tokens if not methods[t])
        with page.expect_response("**/answers") as response:
            choose(page, tokens.index(chosen), habit)
        sent = response.value.request.post_data_json
        answers[sent["question"]] = chosen
        assert sent["picture"] == chosen
        if habit == 0 and number in (1, 11, 29):
            page.context.close()
            page = visit(browser, address, faults)
        if habit == 3 and number in (5, 20):
            disturb(page, number, sent, tokens)
        yield answers
    expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
    page.context.close()


def choose(page: Page, place: int, habit: int) -> None:
    """Choose the picture at a place from 0, and go on."""
    if habit == 2:
        page.keyboard.press(str(place + 1))
        page.keyboard.press("Enter")
    elif habit == 1:
        page.locator(".choice").nth(place).dblclick()
        page.get_by_role("button", name="Next").dblclick()
    else:
        page.locator(".choice").nth(place).click()
        page.get_by_role("button", name="Next").click()


def disturb(page: Page, number: int, sent: dict[str, Any], tokens: list[str]) -> None:
    """Post an answer again with other pictures, go back, and find the old one."""
    post = """async ([body, tokens]) => Promise.all(tokens.map((picture) => fetch(
        `../api/${location.pathname.split("/").pop()}/answers`,
        { method: "POST", body: JSON.stringify({ ...body, picture }) }).then((answer) => answer.ok)))"""
    assert page.evaluate(post, [sent, tokens]) == [True] * len(tokens)
    wait_for(page, number + 1)
    page.get_by_role("button", name="Back").click()
    expect(page.locator("#hint")).to_have_text("Answered: it stays as it is.")
    expect(page.locator("input:checked")).to_have_value(sent["picture"])
    expect(page.locator("input:checked")).to_be_disabled()
    page.get_by_role("button", name="Next").click()
    wait_for(page, number + 1)


def test_participants_lose_no_vote_and_count_once(
    browser: Browser, url: str, made: tuple[Study, Path], votes: Votes
) -> None:
    began, faults = time.monotonic(), list[str]()
    tokens, study = votes.invite(PARTICIPANTS), made[0]
    waiting = [take_part(browser, f"{url}/s/{token}", n % 4, study, faults) for n, token in enumerate(tokens)]
    active: dict[str, Iterator[dict[str, str]]] = {}
    given: dict[str, dict[str, str]] = {}
    names = iter(zip(tokens, waiting, strict=True))
    while active or len(given) < PARTICIPANTS:
        while len(active) < TOGETHER and (one := next(names, None)):
            active[one[0]] = one[1]
        for token, participant in list(active.items()):
            if (answers := next(participant, None)) is None:
                del active[token]
            else:
                given[token] = answers
    found = count_preferences(study, votes.all())
    print(f"\n{sum(found.votes)} votes of {found.complete} participants in {time.monotonic() - began:.0f} s")
    print(f"places shown: {found.shown}\nplaces chosen: {found.chosen}")
    print({name: f"{share.mean:.4f}" for name, share in zip(METHODS, found.shares, strict=True)})
    assert sum(found.votes) == PARTICIPANTS * QUESTIONS and found.complete == PARTICIPANTS
    for token in tokens:
        kept = votes.participant(token)
        assert kept is not None and kept.choices == given[token]
    assert found.shown.p > 0.05 and found.shown.statistic < found.shown.freedom, "more even than chance"
    assert not faults, faults


def test_the_keyboard_is_enough(browser: Browser, url: str, votes: Votes) -> None:
    faults, (token,) = list[str](), votes.invite(1)
    page = visit(browser, f"{url}/s/{token}", faults)
    expect(page.get_by_role("heading", name="Which edit is best?")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for(page, 1)
    page.keyboard.press("Enter")
    expect(page.locator("#hint")).to_have_text("Choose one result first.")
    page.keyboard.press("3")
    page.keyboard.press("ArrowRight")
    expect(page.locator("input").nth(3)).to_be_checked()
    outline = page.locator(".choice").nth(3).evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid", "the focus is seen"
    page.keyboard.press("9")
    expect(page.locator("input").nth(3)).to_be_checked()
    page.keyboard.press("Enter")
    wait_for(page, 2)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(page.locator("input").nth(1)).to_be_checked()
    page.keyboard.press("Enter")
    wait_for(page, 3)
    assert [vote.place for vote in votes.all()] == [3, 1] and not faults
    page.context.close()


def test_the_open_link_makes_a_participant_who_is_remembered(browser: Browser, url: str, votes: Votes) -> None:
    faults = list[str]()
    page = visit(browser, f"{url}/", faults)
    page.get_by_role("button", name="I agree, begin").dblclick()
    wait_for(page, 1)
    choose(page, 0, habit=0)
    wait_for(page, 2)
    page.goto(f"{url}/s/open")
    wait_for(page, 2)
    assert len(votes.all()) == 1 and not faults
    page.context.close()


def test_an_unknown_link_and_a_lost_connection_are_said(browser: Browser, url: str, votes: Votes) -> None:
    page = visit(browser, f"{url}/s/{'0' * 32}", [])
    expect(page.get_by_role("alert")).to_contain_text("This link is not known")
    page.goto(f"{url}/s/{votes.invite(1)[0]}")
    page.get_by_role("button", name="I agree, begin").click()
    wait_for(page, 1)
    page.context.set_offline(True)
    choose(page, 4, habit=0)
    expect(page.get_by_role("alert")).to_contain_text("No connection. Nothing is lost")
    page.context.set_offline(False)
    page.get_by_role("button", name="Next").click()
    wait_for(page, 2)
    assert [vote.place for vote in votes.all()] == [4]
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_have_no_serious_barrier(browser: Browser, url: str, votes: Votes, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(browser, f"{url}/s/{votes.invite(1)[0]}", [], viewport=PHONE, color_scheme=scheme)

    def check() -> None:
        found = axe.run(page).response["violations"]
        assert not [each["id"] for each in found if each["impact"] in ("serious", "critical")]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        sizes = page.locator("button:visible, .choice:visible").evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect()).map(({ width, height }) => Math.min(width, height))"
        )
        assert min(sizes) >= 44
        lefts = page.locator(".choice:visible").evaluate_all("all => all.map((e) => e.getBoundingClientRect().left)")
        assert len(set(lefts)) <= 1, "one column"

    page.get_by_role("button", name="I agree, begin").wait_for()
    check()
    page.get_by_role("button", name="I agree, begin").click()
    wait_for(page, 1)
    check()
    page.context.close()
