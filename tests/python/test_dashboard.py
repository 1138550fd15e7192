"""The live page in Chromium, driven by Playwright, against the fleet under test.

The tests use the system's Chromium (`FLOTILLA_CHROMIUM`, by default `/usr/bin/chromium`) and download
none. They write screenshots of every view to the folder `FLOTILLA_SCREENSHOTS`, if it is set.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

import fleet
from fleet import QUESTIONS, URL

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

CHROMIUM = os.environ.get("FLOTILLA_CHROMIUM", "/usr/bin/chromium")
if not Path(CHROMIUM).exists():
    pytest.skip(f"there is no Chromium at {CHROMIUM}", allow_module_level=True)

# The browser connects to the fleet only.
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

VIEWS = ["Fleet", "Models", "Tasks", "Traffic", "Energy", "Decisions", "Playground"]
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SCREENS = {"desktop": DESKTOP, "phone": PHONE}

# The longest time to wait for a change of the page, in milliseconds.
TIMEOUT = 30_000
# The same for the loss of a node, which takes several missed heartbeats.
LOSS_TIMEOUT = 120_000

MODEL = "support-intent"


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=TIMEOUT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


class WatchedPage:
    """A page with the errors that occurred on it."""

    def __init__(self, page):
        self.page = page
        self.errors = []
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.errors.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda answer: answer.status >= 400 and self.errors.append(f"{answer.url}: {answer.status}"))
        page.on("request", lambda request: request.url.startswith(URL) or self.errors.append(f"request to another server: {request.url}"))


@pytest.fixture
def visit(browser):
    """Opens a view: `visit("Fleet", **options of the browser context)` returns the page once it is live."""
    contexts = []

    def visit(view="Fleet", **options):
        context = browser.new_context(**(DESKTOP | options))
        contexts.append(context)
        watched = WatchedPage(context.new_page())
        watched.page.goto(f"{URL}/dashboard/#/{view.lower()}")
        expect(watched.page.get_by_role("status").filter(has_text="Live")).to_be_visible()
        expect(heading(watched.page)).to_have_text(view)
        return watched

    yield visit
    for context in contexts:
        context.close()


def heading(page):
    return page.get_by_role("heading", level=1)


def open_view(page, view):
    page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
    expect(heading(page)).to_have_text(view)


def ask(page, model, prompt):
    page.get_by_label("Model or task").select_option(model)
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Send", exact=True).click()


def screenshot(page, name):
    folder = os.environ.get("FLOTILLA_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")


def horizontal_overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_renders_without_an_error(visit, theme, screen):
    watched = visit(color_scheme=theme, **SCREENS[screen])
    page = watched.page
    expect(page.locator("html")).to_have_attribute("data-theme", theme)
    for view in VIEWS:
        open_view(page, view)
        expect(heading(page)).to_have_count(1)
        assert horizontal_overflow(page) <= 0, view
        screenshot(page, f"{view.lower()}-{theme}-{screen}")
    assert watched.errors == []


def test_root_path_redirects_to_the_page(browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(URL + "/")
    expect(page).to_have_url(re.compile(r"/dashboard/"))
    expect(heading(page)).to_have_text("Fleet")
    context.close()


def test_charts_are_drawn(visit):
    page = visit("Traffic").page
    expect(page.locator("canvas")).to_have_count(6)
    open_view(page, "Energy")
    expect(page.locator("canvas")).to_have_count(2)


def test_links_open_a_model_and_a_node(visit):
    watched = visit("Models")
    page = watched.page
    page.get_by_role("region", name="Placement").get_by_role("link", name=MODEL, exact=True).first.click()
    expect(heading(page)).to_have_text(MODEL)
    page.get_by_role("region", name="Replicas").get_by_role("rowheader").first.get_by_role("link").click()
    expect(page.get_by_role("region", name="Models on this node").get_by_role("link", name=MODEL, exact=True)).to_be_visible()
    screenshot(page, "node")
    page.get_by_role("main").get_by_role("link", name="Fleet").click()
    expect(heading(page)).to_have_text("Fleet")
    assert watched.errors == []


def test_nodes_can_be_filtered_and_sorted(visit):
    page = visit("Fleet").page
    nodes = page.get_by_role("table", name="The nodes of the fleet").get_by_role("rowheader")
    names = [row.get_by_role("link").inner_text() for row in nodes.all()]
    page.get_by_role("button", name="Node", exact=False).first.click()
    expect(nodes.first.get_by_role("link")).to_have_text(names[-1])
    page.get_by_role("searchbox").fill(names[0])
    expect(nodes.first.get_by_role("link")).to_have_text(names[0])
    page.get_by_role("searchbox").fill("no node is called so")
    expect(page.get_by_text("No node matches.")).to_be_visible()


def test_answer_shows_its_route_and_links_to_its_decision(visit):
    watched = visit("Playground")
    page = watched.page
    ask(page, MODEL, QUESTIONS[MODEL])
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("answered")
    expect(answer).to_contain_text("card_arrival")
    route = page.get_by_role("region", name="Route")
    expect(route.get_by_role("link", name=MODEL, exact=True)).to_be_visible()
    expect(route.get_by_role("definition").filter(has_text=re.compile(r"measured|estimated")).first).to_be_visible()
    for stage in ["First token", "Total"]:
        expect(route.get_by_role("listitem").filter(has_text=stage)).to_contain_text(re.compile(r"\d\s(ms|s)"))
    expect(route.get_by_role("listitem").filter(has_text="Energy")).to_contain_text(re.compile(r"\d\s[mµ]?J"))
    decision = route.get_by_role("link", name=re.compile(r"^[0-9a-f]+-[0-9a-f]+$")).inner_text()
    screenshot(page, "playground-answered")

    open_view(page, "Decisions")
    row = page.get_by_role("table", name="The last decisions").get_by_role("link", name=re.compile(re.escape(decision)))
    row.click()
    expect(heading(page)).to_contain_text(decision)
    expect(page.get_by_role("list", name="Path of the request")).to_contain_text(MODEL)
    for part in ["Which task", "Which replica", "Outcome", "Constraints"]:
        expect(page.get_by_role("region", name=part)).to_be_visible()
    expect(page.get_by_role("region", name="Which replica")).to_contain_text("chosen")
    screenshot(page, "decision-of-a-model")
    assert watched.errors == []


def test_decision_shows_the_evidence_for_its_task(visit):
    watched = visit("Playground")
    page = watched.page
    ask(page, "auto", QUESTIONS[MODEL])
    page.get_by_role("link", name="Why this route").click()
    task = page.get_by_role("region", name="Which task")
    expect(task).to_contain_text("threshold")
    expect(task.get_by_role("table", name="N-grams and words with their weights").get_by_role("row")).not_to_have_count(0)
    screenshot(page, "decision-of-a-task")
    assert watched.errors == []


def test_answer_can_be_stopped(visit):
    page = visit("Playground").page
    if page.get_by_label("Model or task").locator(f"option[value={fleet.PACED}]").count() == 0:
        pytest.skip(f"the fleet has no model {fleet.PACED}")
    ask(page, fleet.PACED, "talk on")
    expect(page.locator(".answer-text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("region", name="Answer")).to_contain_text("stopped")


def test_error_is_shown(visit):
    page = visit("Playground").page
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, json={"error": {"message": "no replica is ready", "code": "no_replica"}}))
    ask(page, MODEL, "anything")
    expect(page.get_by_role("alert")).to_contain_text("no replica is ready")
    expect(page.get_by_role("alert")).to_contain_text("HTTP 503")


def test_views_can_be_opened_from_the_keyboard(visit):
    watched = visit("Fleet")
    page = watched.page
    for view in VIEWS[1:]:
        link = page.get_by_role("navigation", name="Views").get_by_role("link", name=view)
        page.evaluate("document.activeElement.blur()")
        page.get_by_role("link", name="Skip to the view").focus()
        for _ in range(12):
            page.keyboard.press("Tab")
            if link.evaluate("link => link === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(heading(page)).to_have_text(view)
        expect(link).to_have_attribute("aria-current", "page")
        expect(page.get_by_role("main")).to_be_focused()
    page.go_back()
    expect(heading(page)).to_have_text(VIEWS[-2])
    assert watched.errors == []


def test_colour_theme_is_remembered(visit):
    page = visit("Fleet", color_scheme="light").page
    page.get_by_role("button", name="Dark colours").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Light colours").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_lost_connection_to_the_controller_is_shown_until_it_is_back(browser):
    context = browser.new_context(**DESKTOP)
    page = context.new_page()
    page.route("**/api/v1/live", lambda route: route.abort())
    page.goto(f"{URL}/dashboard/")
    expect(page.get_by_text("Connection to the controller lost")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Lost")).to_be_visible()
    page.unroute("**/api/v1/live")
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    expect(page.get_by_text("Connection to the controller lost")).to_have_count(0)
    context.close()


def test_killed_node_is_shown_as_lost(visit):
    kill, victim = os.environ.get("FLOTILLA_DASHBOARD_KILL"), os.environ.get("FLOTILLA_DASHBOARD_VICTIM")
    if not kill or not victim:
        pytest.skip("FLOTILLA_DASHBOARD_KILL and FLOTILLA_DASHBOARD_VICTIM must name a node and a command that kills it")
    page = visit("Fleet").page
    page.evaluate("window.stillTheSamePage = true")
    row = page.get_by_role("table", name="The nodes of the fleet").get_by_role("row").filter(has=page.get_by_role("link", name=victim, exact=True))
    expect(row).to_contain_text("Ready")
    subprocess.run(kill, shell=True, check=True, timeout=TIMEOUT / 1000)
    expect(row).to_contain_text(re.compile("Suspect|Lost"), timeout=LOSS_TIMEOUT)
    screenshot(page, "a-node-died")
    assert page.evaluate("window.stillTheSamePage")
