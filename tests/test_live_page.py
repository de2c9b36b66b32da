"""The live microscope in a real browser, with Python on this machine: what is shown is what Python says, it
can be reached by keyboard, and hostile text stays text.

Needs a Chromium and the extra `browser`, as tests/test_explain_page.py; skips with the reason where they are
missing.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from static_host import CHROMIUM

from tinygpt_core.live import Microscope
from tinygpt_core.live.server import LiveServer, serve
from tinygpt_core.training import PRESETS, Trainer

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install -e '.[browser]'"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)"
)

RUNS = Path(__file__).parent / "fixtures" / "runs"
TABS = ("next", "attention", "values", "tokens", "train")
WORDS = "get_a\nset_b\nis_value\nget_value\nhas_size\nset_name\n"
SLOW = 120_000  # milliseconds: a machine may have much else to do


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("counting")
    (folder / "words.txt").write_text(WORDS * 4)
    config = replace(PRESETS["debug"].config, corpus="names", data_file=str(folder / "words.txt"), steps=30)
    for _ in Trainer.start(replace(config, ngram_prior=3), str(folder / "run")).run():
        pass
    runs = {
        "letters": str(RUNS / "documents" / "run"),
        "byte pairs": str(RUNS / "bpe" / "run"),
        "counting": str(folder / "run"),
    }
    with serve(Microscope(runs, backend="python")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


class Window:
    """The page, opened; `problems` collects what the console and the network say."""

    def __init__(
        self,
        browser: Any,
        server: LiveServer,
        theme: str = "light",
        size: tuple[int, int] = (1400, 900),
        motion: str = "reduce",
    ) -> None:
        self.server = server
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=theme, reduced_motion=motion
        )
        self.context.set_default_timeout(SLOW)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.on(
            "request", lambda request: None if self.is_own(request.url) else self.problems.append(request.url)
        )
        self.page.goto(server.address)
        self.page.wait_for_selector("html[data-ready=true]", state="attached")

    def is_own(self, address: str) -> bool:
        return address.startswith((self.server.address, "data:"))

    def ask(self, method: str, **params: Any) -> Any:
        """What Python says, asked beside the page."""
        with self.server.lock:
            answer = self.server.microscope.answer({"method": method, "params": params})
        assert "error" not in answer, answer
        return answer["result"]

    def write(self, text: str, tokens: int) -> None:
        """Types a text and waits until it is read."""
        self.page.fill("#text", text)
        self.page.wait_for_selector(f"#chips .chip:nth-child({tokens}):last-child")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def until(self, script: str, *given: Any) -> None:
        """Waits until a function of JavaScript is true; the page's policy forbids `wait_for_function`."""
        for _ in range(SLOW // 50):
            if self.page.evaluate(script, *given):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {script}")

    def tab(self, name: str) -> None:
        self.page.click(f"#tab-{name}")

    def open(self, run: str) -> None:
        self.page.select_option("#run", run)
        self.page.wait_for_selector(f"#about:has-text('{run}:')")

    def point_at_the_first_cell(self, view: str) -> None:
        """Opens a view of the text "get", and lays the pointer on its cell (0, 0)."""
        self.write("get", 4)
        self.tab("values")
        self.page.click(f"[data-view='{view}']")
        self.page.wait_for_selector(f"[data-view='{view}'][aria-pressed=true]")
        self.page.wait_for_selector("#view-values .large h2")
        self.page.hover("#view-values .large .heat-canvas", position={"x": 2, "y": 2})
        self.until("() => document.querySelector('.large .cell-reading').textContent.includes('position 0')")

    def train(self) -> None:
        """Begins a small training and records a step of it."""
        self.tab("train")
        self.page.fill("#own-text", WORDS * 4)
        self.page.fill("#new-width", "8")
        self.page.click("#train-new")
        self.page.wait_for_selector(".samples p")
        self.page.click("#train-step")
        self.page.wait_for_selector(".along svg")


@pytest.fixture
def window(browser: Any, server: LiveServer) -> Iterator[Window]:
    server.microscope.answer({"method": "open", "params": {"run": "letters"}})
    window = Window(browser, server)
    yield window
    assert not window.problems
    window.context.close()


def number(text: str) -> float:
    """A number as the page writes it."""
    raised = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
    return float(re.sub(r" · 10([⁻⁰-⁹¹²³]+)", lambda m: "e" + m[1].translate(raised), text).replace("−", "-"))


# ---------------------------------------------------------------- what is shown is what Python says


def test_the_distribution_follows_the_text(window):
    window.write("get", 4)
    window.page.wait_for_selector("text=at position 3")
    best = window.ask("distribution", text="get")["tokens"][0]
    window.page.wait_for_selector(f".bars .bar:first-child .token:text-is('{best['text']}')")
    shown = window.text(".bars .bar:first-child .value")
    assert float(shown.split()[0]) == pytest.approx(100 * best["share"], abs=0.006)
    window.page.focus("#top_k")
    window.page.keyboard.press("Home")
    window.page.wait_for_selector("text=1 of 26 tokens may be drawn")
    assert window.text(".bars .bar:first-child .value") == "100.0 %"


def test_what_counting_says_stands_beside_what_the_model_says(window):
    window.open("counting")
    window.write("get", 4)
    window.page.wait_for_selector("text=at position 3")
    found = window.ask("distribution", text="get")
    shown = window.page.locator(".bars .bar:not(.names) .value.counted")
    window.page.wait_for_selector(".bars .value.counted")
    assert shown.count() == min(24, found["vocabulary"]) == window.page.locator(".ghost.counted").count()
    for place, entry in enumerate(found["tokens"][:5]):
        assert number(shown.nth(place).inner_text().split(" %")[0]) == pytest.approx(
            100 * entry["counted"], rel=0.06
        )
    trust = re.search(r"trusts it (\S+) times here", window.text("#view-next .note >> nth=0"))
    assert float(trust[1]) == pytest.approx(found["trust"], rel=5e-3)
    window.page.click("[aria-label='What is this: What counting says']")
    assert "chapter 4" in window.text("#drawer")


def test_lingering_on_what_counting_says(window):
    window.open("counting")
    window.point_at_the_first_cell("counting")
    window.page.wait_for_selector("#view-values .cell-reading .made")
    found = window.ask("cell", text="get", view="counting", row=0, column=0)
    line = window.text("#view-values .cell-reading .made")
    assert line.startswith(found["formula"]) and " = " in line and "log p −" in line.partition(";")[2]


def test_writing_draws_what_python_draws(window):
    window.write("ge", 3)
    drawn = window.ask("draw", text="ge", seed=1, draw=0)
    window.page.click("text=Write one")
    window.page.wait_for_selector(".draw")
    assert window.page.input_value("#text") == drawn["text"] and drawn["token"] in window.text(".draw")
    if not drawn["is_end"]:
        window.page.click("#player >> text=Back")
        window.page.wait_for_selector("#chips .chip:nth-child(3):last-child")
        assert window.page.input_value("#text") == "ge"


def test_a_row_of_attention_and_a_head_that_is_off(window):
    window.write("get", 4)
    window.tab("attention")
    window.page.wait_for_selector("#attention-row tbody tr:nth-child(4)")
    row = window.ask("attention", text="get", layer=0, head=0, row=3)
    for place, entry in enumerate(row["keys"], 1):
        cells = window.page.locator(f"#attention-row .scroll tbody tr:nth-child({place}) td")
        assert number(cells.nth(0).inner_text()) == pytest.approx(entry["product"], rel=6e-4, abs=1e-9)
        assert number(cells.nth(1).inner_text()) == pytest.approx(entry["scaled"], rel=6e-4, abs=1e-9)
    window.page.click('.switch[data-key="heads-0-0"]')
    window.page.wait_for_selector('.switch[data-key="heads-0-0"][aria-checked="false"]')
    window.page.wait_for_selector("text=This head is switched off")
    window.tab("next")
    window.page.wait_for_selector("text=Kullback")
    window.tab("attention")
    window.page.click('.switch[data-key="heads-0-0"]')
    window.page.wait_for_selector('.switch[data-key="heads-0-0"][aria-checked="true"]')


@pytest.mark.parametrize("run", ["letters", "counting"])
def test_every_view_has_a_cell_that_says_how_it_was_made(window, run):
    window.open(run)
    window.write("get", 4)
    window.tab("values")
    views = window.ask("forward", text="get")["views"]
    for view in views:
        window.page.click(f"[data-view='{view['name']}']")
        window.page.wait_for_selector(f"#view-values .large .formula:text-is({_quoted(view['formula'])})")
        window.page.wait_for_selector(f"#view-values .large h2:has-text({_quoted(view['title'])})")
        window.page.focus("#view-values .large .heat-canvas")
        window.page.keyboard.press("ArrowLeft")
        window.page.keyboard.press("Enter")
        window.page.wait_for_selector(f"#drawer h2:text-is({_quoted(view['title'])})")
        row = view["shape"][-2] - 1
        cell = window.ask("cell", text="get", view=view["name"], row=row, column=0)
        assert number(window.text("#drawer .value")) == pytest.approx(cell["value"], rel=1e-6, abs=1e-12), (
            view["name"]
        )
    window.page.keyboard.press("Escape")
    assert not window.page.is_visible("#drawer")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def test_why_a_weight_moved(window):
    window.train()
    recorded = window.server.microscope.session.recorded
    mover = recorded.movers(1)[0]
    why = recorded.explain_weight(mover["parameter"], mover["index"])
    for selector, value in (("gradient", "gradient"), ("clipped", "clipped"), ("after", "after")):
        assert number(window.text(f"#weight-{selector}")) == pytest.approx(why[value], rel=1e-5, abs=1e-12)
    window.page.select_option("#weights-of", "head.weights")
    window.page.wait_for_selector("[aria-label^='head.weights']")
    window.page.focus("[aria-label^='head.weights']")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("#weight-detail h2:has-text('head.weights')")


def test_training_starts_and_pauses_and_the_page_answers_meanwhile(window):
    window.train()
    window.page.click("#train-start")
    window.page.wait_for_selector("#train-facts:has-text('Step 4 ')")
    window.tab("next")
    window.write("ge", 3)
    window.tab("train")
    window.page.click("#train-start")
    window.page.wait_for_selector("#train-step:not([disabled])")
    window.page.click("#train-look")
    window.page.wait_for_selector("#about:has-text('The model in training')")
    window.page.click("#train-look")
    window.page.wait_for_selector("#about:has-text('letters')")


def test_the_tour_has_ten_stops(window):
    window.server.microscope.corpora = {}
    window.train()
    window.page.click("#tour")
    for stop in range(1, 11):
        window.page.wait_for_selector(f".tour:not([aria-busy=true]) >> text=Stop {stop} of 10")
        assert window.page.evaluate("document.activeElement.closest('.tour') !== null")
        assert window.page.locator(".toured").count() == 1, stop
        window.page.click(".tour .main")
    window.page.wait_for_selector(".tour", state="detached")


def test_the_tour_trains_a_new_model_where_the_run_cannot_go_on(window):
    """As with a text whose letters the run does not know."""
    window.tab("train")
    window.page.fill("#own-text", "ßäöü\nüöäß\nöööß\n" * 8)
    window.page.fill("#new-width", "8")
    window.tab("next")
    window.page.click("#tour")
    for number in range(1, 7):
        window.page.click(f".tour[aria-busy=false]:has-text('Stop {number} of 10') >> text=Next")
    window.page.wait_for_selector(".tour[aria-busy=false]:has-text('Stop 7 of 10')")
    assert "a new small model" in window.text(".tour")
    window.page.wait_for_selector(".along svg")
    assert "ß" not in window.text("#status")  # what the run lacks is no problem any more


def test_the_tour_shows_a_step_whatever_happens_meanwhile(window):
    window.train()
    window.page.fill("#new-steps", "20000")
    window.page.click("#train-new")
    window.page.wait_for_selector("#train-facts:has-text('At step 0 of 20000')")
    window.page.click("#train-start")
    window.page.wait_for_selector("#train-facts:has-text('Step 1')")
    window.page.click("#tour")
    for stop in range(1, 7):
        window.page.wait_for_selector(f".tour:not([aria-busy=true]) >> text=Stop {stop} of 10")
        window.page.click(".tour .main")
    window.page.dispatch_event(".tour .main", "click")  # impatience skips no stop
    window.page.wait_for_selector(".tour:not([aria-busy=true]) >> text=Stop 7 of 10")
    assert window.text("#train-start") == "Start", "the training waits for the tour"
    window.page.click(".tour .main")
    window.page.wait_for_selector(".tour:not([aria-busy=true]) >> text=Stop 8 of 10")
    window.page.dispatch_event("#train-start", "click")  # forgets the recorded step
    window.page.wait_for_selector("#weight-gradient", state="detached")
    for stop in (9, 10):
        window.page.click(".tour .main")
        window.page.wait_for_selector(f".tour:not([aria-busy=true]) >> text=Stop {stop} of 10")
        assert window.page.locator(".toured").count() == 1, stop
    window.page.keyboard.press("Escape")
    assert window.text("#train-start") == "Start"


def test_the_drawer_follows_the_text_and_takes_no_keyboard(window):
    window.write("get", 4)
    window.tab("values")
    window.page.click("[data-view='stream']")
    window.page.wait_for_selector("#view-values .large h2")
    window.page.focus("#view-values .large .heat-canvas")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("#drawer .token:text-is('t')")
    window.page.fill("#text", "ges")  # the cell's row is another letter now
    window.page.wait_for_selector("#drawer .token:text-is('s')")
    cell = window.ask("cell", text="ges", view="stream", row=3, column=0)
    assert number(window.text("#drawer .value")) == pytest.approx(cell["value"], rel=1e-6, abs=1e-12)
    assert window.page.evaluate("document.activeElement.id") == "text"
    window.write("g", 2)  # there is no such row any more
    window.page.wait_for_selector("#drawer", state="hidden")


def test_another_run_is_shown_without_the_training(window):
    window.train()
    window.page.click("#train-look")
    window.page.wait_for_selector("#about:has-text('The model in training')")
    window.page.select_option("#run", "byte pairs")
    window.page.wait_for_selector("#about:has-text('byte pairs')")
    assert window.text("#train-look") == "Look into this model"
    window.page.click("#train-look")
    window.page.wait_for_selector("#about:has-text('The model in training')")


def test_playing_pauses_and_goes_back(window):
    window.page.emulate_media(reduced_motion="no-preference")
    window.write("ge", 3)
    window.page.click("#play")
    window.until("() => document.getElementById('text').value.length > 2")
    window.page.wait_for_selector(".draw .needle", state="attached")
    if window.text("#play") == "Pause":
        window.page.click("#play")
    assert window.text("#play") == "Play"
    window.page.wait_for_timeout(1000)
    written = window.page.input_value("#text")
    window.page.wait_for_timeout(1000)
    assert window.page.input_value("#text") == written
    while not window.page.is_disabled("#player >> text=Back"):
        window.page.click("#player >> text=Back")
    assert window.page.input_value("#text") == "ge"


@pytest.mark.parametrize(
    ("slider", "key", "sampling"),
    [
        ("temperature", "End", {"temperature": 3}),
        ("temperature", "Home", {"temperature": 0}),
        ("top_p", "Home", {"top_p": 0.05}),
    ],
)
def test_a_slider_reshapes_the_distribution(window, slider, key, sampling):
    window.write("get", 4)
    window.page.focus(f"#{slider}")
    window.page.keyboard.press(key)
    found = window.ask("distribution", text="get", **sampling)
    window.page.wait_for_selector(f"text={found['kept']} of {found['vocabulary']} tokens may be drawn")
    best = found["tokens"][0]
    window.until(
        "(share) => Math.abs(parseFloat(document.querySelector('.bars .value').textContent) - share) < 0.06",
        100 * best["share"],
    )


def test_a_part_of_a_block_that_is_off_changes_the_prediction(window):
    window.write("get", 4)
    window.tab("attention")
    window.page.click('.switch[data-key="parts-0-mlp"]')
    window.page.wait_for_selector('.switch[data-key="parts-0-mlp"][aria-checked="false"]')
    window.tab("next")
    divergence = window.ask("distribution", text="get", parts=[[0, "mlp"]])["divergence"]
    window.page.wait_for_selector("#view-next .note:has-text('Kullback')")
    said = re.search(r"prediction by (.+?) nats", window.text("#view-next .note >> nth=0"))
    assert said and number(said[1]) == pytest.approx(divergence, rel=1e-3)


def test_pointing_at_a_cell_says_its_value_and_place(window):
    window.point_at_the_first_cell("stream")
    value = window.ask("view", text="get", view="stream")["matrices"][0][0][0]
    shown = window.text(".large .cell-reading b")
    assert number(shown) == pytest.approx(value, rel=1e-5, abs=1e-12)


def test_lingering_on_a_cell_says_what_made_it(window):
    """The formula with the largest products, as numbers, without a click."""
    window.point_at_the_first_cell("blocks.0.query")
    window.page.wait_for_selector("#view-values .cell-reading .made")
    found = window.ask("cell", text="get", view="blocks.0.query", row=0, column=0, head=0)
    line = window.text("#view-values .cell-reading .made")
    assert line.startswith(found["formula"])
    shown = re.findall(r"(\S+(?: · 10\S+)?) · (\S+?)(?= \+|;|$)", line.partition(" = ")[2])[:3]
    for (x, y), (_, a, _, b, _) in zip(shown, found["terms"][:3], strict=True):
        assert (number(x), number(y)) == (pytest.approx(a, rel=5e-3), pytest.approx(b, rel=5e-3))
    assert window.page.is_hidden("#drawer")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_who_wants_no_motion_gets_none(browser, server, motion):
    window = Window(browser, server, motion=motion)
    window.write("get", 4)
    window.page.wait_for_selector("#view-next .bar .fill")
    moving = window.page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((each) => {
            const style = getComputedStyle(each);
            const seconds = style.transitionDuration.split(", ").map(parseFloat);
            return style.animationName !== "none" || Math.max(...seconds) > 0;
        }).length"""
    )
    assert (moving == 0) == (motion == "reduce")
    assert not window.problems
    window.context.close()


def test_what_is_promised_has_a_question_mark(window):
    window.train()
    for name in ("Nats", "Gradient norm", "Padding", "Three losses, one number"):
        window.page.click(f"#view-train [aria-label='What is this: {name}'] >> nth=0")
        window.page.wait_for_selector(f"#drawer h2:text-is('{name}')")
        assert "More in chapter" in window.text("#drawer")
        window.page.keyboard.press("Escape")


def test_ones_own_text_stays_and_goes_on_with_the_run(window):
    window.tab("train")
    window.page.fill("#own-text", "get_size\nset_name\nis_size\n" * 8)
    assert window.page.input_value("#corpus") == "own"
    window.page.click("#train-continue")
    window.page.wait_for_selector(".samples p")
    assert "set_name" in window.server.microscope.session.trainer.data.documents
    window.page.select_option("#run", "byte pairs")
    window.page.wait_for_selector("#about:has-text('byte pairs')")
    assert window.page.input_value("#corpus") == "own" and "set_name" in window.page.input_value("#own-text")


def test_what_was_expanded_goes_with_its_text(window):
    window.write("get", 4)
    window.tab("attention")
    window.page.click("text=All of K")
    window.page.wait_for_selector(".expanded figure")
    window.write("ge", 3)
    window.page.wait_for_selector(".expanded figure", state="detached")


# ---------------------------------------------------------------- people


@pytest.mark.parametrize("size", [(1400, 900), (390, 800)], ids=["wide", "narrow"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("run", ["letters", "counting"])
def test_every_view_fits_and_axe_finds_nothing(browser, server, theme, size, run):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'")
    server.microscope.answer({"method": "open", "params": {"run": run}})
    window = Window(browser, server, theme, size)
    window.write("get", 4)
    window.train()
    for tab in reversed(TABS):
        window.tab(tab)
        window.page.wait_for_timeout(300)
        if tab == "values":
            window.page.focus("#view-values .large .heat-canvas")
            window.page.keyboard.press("Enter")
            window.page.wait_for_selector("#drawer .value")
        overflow = window.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{tab} is {overflow} pixels too wide"
        result = axe.Axe().run(window.page)
        assert len(result.response["passes"]) > 10 and result.violations_count == 0, result.generate_report()
        if tab == "values":
            window.page.click("#drawer .close")
    assert not window.problems
    window.context.close()


def test_on_a_telephone_the_text_stays_above_and_the_drawer_below(browser, server):
    server.microscope.answer({"method": "open", "params": {"run": "letters"}})
    window = Window(browser, server, size=(390, 800))
    window.write("get", 4)
    window.tab("values")
    window.page.click("[data-view='stream']")
    window.page.focus("#view-values .large .heat-canvas")
    window.page.keyboard.press("Enter")
    window.page.wait_for_selector("#drawer .value")
    assert window.page.evaluate("scrollY") > 0
    place = "(id) => document.getElementById(id).getBoundingClientRect().toJSON()"
    assert window.page.evaluate(place, "top")["top"] == 0
    assert 0 < window.page.evaluate(place, "play")["bottom"] < 200
    drawer = window.page.evaluate(place, "drawer")
    assert (drawer["left"], drawer["right"], drawer["bottom"]) == (0, 390, 800)
    assert not window.problems
    window.context.close()


def test_the_keyboard_alone(window):
    window.page.focus("#text")
    reached = set()
    for _ in range(60):
        window.page.keyboard.press("Tab")
        reached.add(window.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"play", "seed", "tab-next", "temperature", "top_k", "top_p", "run", "tour", "theme"} <= reached
    window.page.focus("#tab-next")
    for name in (*TABS[1:], TABS[0]):
        window.page.keyboard.press("ArrowRight")
        assert window.page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert window.page.is_visible(f"#view-{name}")
    window.write("get", 4)
    window.page.focus("#chips .chip[tabindex='0']")
    window.page.keyboard.press("Home")
    window.page.wait_for_selector("text=at position 0")


# ---------------------------------------------------------------- hostile text


@pytest.mark.parametrize(
    "text",
    ["</script><b>x", "<img src=x onerror=alert(1)>", "a\u2028b\u2029c", "\u202eabc\u202c", "x" * 100_000],
    ids=["script", "onerror", "line separators", "right to left", "100 kB"],
)  # fmt: skip
def test_hostile_text_is_text(window, text):
    window.page.select_option("#run", "byte pairs")
    window.page.wait_for_selector("#about:has-text('byte pairs')")
    window.page.fill("#text", text)
    window.page.wait_for_timeout(500)
    for tab in TABS:
        window.tab(tab)
    assert window.page.locator("#chips img, #chips b, #views img, #views script, .bars img").count() == 0
    assert window.page.locator("#chips .chip").count() > 1
