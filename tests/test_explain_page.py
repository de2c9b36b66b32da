"""The microscope's page in a real browser: Debian's chromium without a window, driven by Playwright.

Needs /usr/bin/chromium (or another Chromium on the path) and the extra `browser`; skips with the reason where
they are missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import WORDS
from static_host import CHROMIUM

from tinygpt_core import Tensor, explain
from tinygpt_core.training import PRESETS, Trainer

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install -e '.[browser]'"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)"
)

TABS = ("overview", "step", "attention", "tokens", "merges", "training")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for a training step, for a generation, for a step of a model that builds on counting, for a
    Tensor alone, and for a script.
    """
    folder = tmp_path_factory.mktemp("pages")
    (folder / "words.txt").write_text(WORDS)
    config = replace(
        PRESETS["debug"][1],
        corpus="names",
        data_file=str(folder / "words.txt"),
        tokenizer="bpe",
        vocab_size=290,
        steps=30,
        num_layers=2,
        context_length=12,
        positions="learned",
        eval_every=10,
    )
    for _ in Trainer.start(config, str(folder / "run")).run():
        pass
    counting = replace(config, ngram_prior=2, tokenizer="characters", positions="rotary")
    for _ in Trainer.start(counting, str(folder / "counting")).run():
        pass
    made = {name: folder / f"{name}.html" for name in ("training", "generation", "counting", "tensor")}
    explain.explain(str(folder / "counting"), made["counting"])
    explain.explain(str(folder / "run"), made["training"])
    explain.explain(str(folder / "run"), made["generation"], prompt="get</script>")
    x = Tensor([[1.0, float("nan"), 0.0]], requires_grad=True)
    ((x * 2.0).tanh() + x).sum().explain(made["tensor"])
    (folder / "script.py").write_text(
        "from tinygpt_core import Tensor, losses\n"
        "logits = Tensor([[0.5, 1.0], [2.0, -1.0]], requires_grad=True) * 2.0\n"
        "losses.CrossEntropyLoss()(logits=logits, labels=Tensor([1, 0])).sum().backward()\n"
    )
    made["script"] = folder / "script.html"
    explain.explain(str(folder / "script.py"), made["script"])
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # A container's root has no user namespaces to make a sandbox of.
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Window:
    """One open page; `problems` collects what the console and the network say."""

    def __init__(
        self, browser: Any, path: Path, theme: str = "light", size: tuple[int, int] = (1400, 900)
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            reduced_motion="reduce",
            offline=True,
        )
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "request",
            lambda request: self.problems.append(request.url) if request.url != path.as_uri() else None,
        )
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.goto(path.as_uri())

    def tab(self, name: str) -> None:
        self.page.click(f"#tab-{name}")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())


@pytest.fixture
def window(browser: Any, pages: dict[str, Path]) -> Iterator[Window]:
    window = Window(browser, pages["training"])
    yield window
    assert not window.problems
    window.context.close()


# ---------------------------------------------------------------- the page as a whole


@pytest.mark.parametrize("name", ["training", "generation", "counting", "tensor"])
@pytest.mark.parametrize("size", [(1400, 900), (390, 800)], ids=["wide", "narrow"])
def test_every_view_opens_without_an_error(browser, pages, name, size, theme):
    window = Window(browser, pages[name], theme, size)
    for tab in TABS:
        window.tab(tab)
        assert window.page.is_visible(f"#view-{tab}") and window.count('[role="tabpanel"]:visible') == 1
        assert window.text(f"#view-{tab}").strip()
        overflow = window.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{tab} is {overflow} pixels too wide"
    assert not window.problems
    window.context.close()


@pytest.mark.parametrize("name", ["training", "generation", "counting", "tensor"])
def test_axe_finds_nothing(browser, pages, name, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[browser]'")
    window = Window(browser, pages[name], theme)
    # The page's policy forbids injected scripts to be fetched, not to be evaluated, so axe can be put into
    # it.
    for tab in TABS:
        window.tab(tab)
        if tab == "step":
            window.page.keyboard.press("End")
        result = axe.Axe().run(window.page)
        assert len(result.response["passes"]) > 10, "axe has looked at the page"
        assert result.violations_count == 0, f"{tab}: {result.generate_report()}"
    window.context.close()


def test_what_is_missing_is_said(browser, pages):
    window = Window(browser, pages["tensor"])
    assert window.page.is_visible("#view-step"), "without a text the graph comes first"
    for tab, reason in (
        ("attention", "No operation of attention"),
        ("tokens", "No CrossEntropy"),
        ("merges", "tokenizer"),
        ("training", "log"),
    ):
        window.tab(tab)
        assert reason in window.text(f"#view-{tab}")
    window.context.close()


def test_the_theme_can_be_chosen(window):
    def paper() -> str:
        return str(window.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    window.page.click("#theme")
    assert paper() == light and window.text("#theme") == "Theme: light"
    window.page.click("#theme")
    assert paper() != light and window.text("#theme") == "Theme: dark"


def test_tabs_by_keyboard(window):
    window.page.focus("#tab-overview")
    window.page.keyboard.press("ArrowRight")
    assert (
        window.page.is_visible("#view-step")
        and window.page.evaluate("document.activeElement.id") == "tab-step"
    )
    window.page.keyboard.press("ArrowLeft")
    assert window.page.is_visible("#view-overview")


def test_the_overview_leads_to_every_view(window):
    buttons = window.count(".card button")
    assert buttons == 6
    seen = set()
    for place in range(buttons):
        window.tab("overview")
        window.page.locator(".card button").nth(place).click()
        seen.add(window.page.get_attribute('[role="tab"][aria-selected="true"]', "id"))
    assert seen == {"tab-merges", "tab-step", "tab-attention", "tab-tokens", "tab-training"}


def test_the_parts_of_the_map_lead_to_their_views(window):
    parts = window.page.locator(".map [data-part][role=button]")
    names = [parts.nth(i).get_attribute("data-part") for i in range(parts.count())]
    assert names.count("LayerNorm") == 3 and set(names) == {
        *("tokenizer", "embedding", "block", "LayerNorm", "head", "softmax", "causal self-attention", "MLP")
    }
    assert window.count('.map [data-part^="counting"]') == 0, "this model did not count"
    for name, key, view in (
        ("causal self-attention", None, "attention"),
        ("MLP", None, "step"),
        ("tokenizer", "Enter", "merges"),
        ("softmax", " ", "tokens"),
        ("embedding", "Enter", "training"),
    ):
        window.tab("overview")
        part = window.page.locator(f'.map [data-part="{name}"]')
        if key is None:
            part.click()
        else:
            part.focus()
            window.page.keyboard.press(key)
        assert window.page.is_visible(f"#view-{view}")


def test_the_map_has_the_colours_of_the_theme(window):
    def ink() -> str:
        return str(
            window.page.evaluate(
                "getComputedStyle(document.querySelector('.map [data-part=MLP] text')).fill"
                " + getComputedStyle(document.body).color"
            )
        )

    light = ink()
    window.page.click("#theme")
    assert ink() == light
    window.page.click("#theme")
    assert ink() == "rgb(226, 232, 240)rgb(232, 230, 225)"
    assert light == "rgb(26, 32, 44)rgb(28, 33, 41)"


def test_a_tensor_alone_has_no_map(browser, pages):
    window = browser.new_context().new_page()
    window.goto(pages["tensor"].as_uri())
    assert window.locator(".map").count() == 0
    window.context.close()


# ---------------------------------------------------------------- the graph


def test_blocks_open_and_fold(window):
    window.tab("step")
    window.page.click('button:text("Fold all")')
    folded = window.count(".node")
    block = window.page.locator('.node.call[aria-expanded="false"]').first
    name = block.get_attribute("data-key")
    block.click()
    assert (
        window.page.get_attribute(f'[data-key="{name}"]', "aria-expanded") == "true"
        and window.count(".node") > folded
    )
    window.page.keyboard.press("Enter")  # the focus stays on the block
    assert (
        window.page.get_attribute(f'[data-key="{name}"]', "aria-expanded") == "false"
        and window.count(".node") == folded
    )
    window.page.click('button:text("Open all")')
    operations = window.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).graph.operations.length"
    )
    assert window.count(".node.op") == operations and window.count(".node.call") == 0


def test_nodes_can_be_walked_through_by_keyboard(window):
    window.tab("step")
    window.page.focus('.node[tabindex="0"]')
    first = window.page.evaluate("document.activeElement.dataset.key")
    for _ in range(4):
        window.page.keyboard.press("ArrowDown")
    assert window.page.evaluate("document.activeElement.dataset.key") != first
    for _ in range(4):
        window.page.keyboard.press("ArrowUp")
    assert window.page.evaluate("document.activeElement.dataset.key") == first


def test_nothing_lies_over_anything_else(window):
    window.tab("step")
    window.page.click('button:text("Open all")')
    boxes = window.page.evaluate(
        "[...document.querySelectorAll('.node .box')].map((box) => (({x, y, width, height}) => [x, y, "
        "width, height])(box.getBBox()))"
    )
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:i]:
            assert (
                x + width <= other_x
                or other_x + other_width <= x
                or y + height <= other_y
                or other_y + other_height <= y
            )


def test_hovering_shows_the_values(window):
    window.tab("step")
    window.page.locator(".node.op").first.hover()
    assert window.page.is_visible("#tip canvas")
    words = window.text("#tip")
    assert all(word in words for word in ("min", "max", "mean", "zeros", "NaN", "float32"))
    window.page.mouse.move(5, 5)
    assert not window.page.is_visible("#tip")
    edge = window.page.locator(".hit").first
    point = edge.evaluate(
        "(path) => { const middle = path.getPointAtLength(path.getTotalLength() / "
        "2).matrixTransform(path.getScreenCTM());"
        " return [middle.x, middle.y]; }"
    )
    window.page.mouse.move(*point)
    assert window.page.is_visible("#tip canvas") and window.count(".edge.lit") >= 1


def test_nans_are_shown(browser, pages):
    window = Window(browser, pages["tensor"])
    window.page.locator(".node.leaf.parameter").hover()
    assert "33 %" in window.text("#tip .bad")
    window.context.close()


def test_steps_by_slider_and_keyboard(window):
    window.tab("step")
    steps = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).graph.steps")
    operations = window.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).graph.operations"
    )
    forward = sum(phase == "forward" for phase, _ in steps)
    assert f"Forward 1 of {forward}" in window.text(".place")
    window.page.focus(".panel")  # on a tab, the arrows go to the next tab
    window.page.keyboard.press("ArrowRight")
    assert f"Forward 2 of {forward}: {operations[1]['kind']}" in window.text(".place")
    window.page.keyboard.press("End")
    assert (
        f"Backward {len(steps) - forward} of {len(steps) - forward}: {operations[steps[-1][1]]['kind']}"
        in window.text(".place")
    )
    window.page.keyboard.press("Home")
    for place in (0, forward, len(steps) - 1):
        window.page.locator("#steps").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", place
        )
        phase, operation = steps[place]
        assert (
            operations[operation]["kind"] in window.text(".panel h2") and window.count(f".now.{phase}") == 1
        )
    window.page.focus("#steps")
    window.page.keyboard.press("ArrowLeft")
    assert f"Backward {len(steps) - forward - 1} of" in window.text(".place")


def test_play_goes_on_and_pauses(window):
    window.tab("step")
    window.page.select_option("#speed", "160")
    window.page.click('button[aria-label="Play"]')
    for _ in range(100):  # waiting inside the page would need eval, which its policy forbids
        if int(window.page.input_value("#steps")) >= 3:
            break
        window.page.wait_for_timeout(100)
    window.page.click('button[aria-label="Pause"]')
    place = window.page.input_value("#steps")
    assert int(place) >= 3
    window.page.wait_for_timeout(400)
    assert window.page.input_value("#steps") == place


def test_the_panel_has_formula_chain_rule_and_source(window):
    window.tab("step")
    graph = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).graph")
    window.page.click('button:text("Open all")')
    place, operation = next((i, o) for i, o in enumerate(graph["operations"]) if o["kind"] == "LayerNorm")
    window.page.click(f'[data-key="op{place}"]')
    about = graph["classes"]["LayerNorm"]
    panel = window.text(".panel")
    assert (
        about["formula"].split()[0] in panel
        and "def forward" in panel
        and f"line {about['forward']['line']}" in panel
    )
    assert window.count(".panel .tensor") == len(operation["inputs"]) + 1
    window.page.click('.switch button:text("Backward")')
    panel = window.text(".panel")
    assert (
        "Chain rule" in panel
        and about["rule"].split()[0] in panel
        and "def backward" in panel
        and "g = dL/dy" in panel
    )
    assert window.page.evaluate("document.activeElement.textContent") == "Backward"


def test_packed_attention_is_one_operation_here_and_its_maps_are_shown(window):
    kinds = window.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).graph.operations.map((o) => o.kind)"
    )
    assert kinds.count("PackedAttention") == 2 and "Attention" not in kinds
    window.tab("attention")
    assert window.count(".thumb") == 4


# ---------------------------------------------------------------- the other views


def test_attention_by_mouse_and_keyboard(window):
    window.tab("attention")
    window.page.locator(".thumb").nth(3).click()
    assert "transformer_blocks.1" in window.text(".large h2") and "head 2 of 2" in window.text(".large h2")
    plot = window.page.locator(".plot canvas")
    box = plot.bounding_box()
    rows = window.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).attention[1].heads[1].rows"
    )
    plot.hover(position={"x": 2, "y": box["height"] - 2})
    assert f"Position {rows} " in window.text(".reading") and "looks at position 1 " in window.text(
        ".reading"
    )
    plot.focus()
    window.page.keyboard.press("ArrowUp")
    window.page.keyboard.press("ArrowRight")
    assert f"Position {rows - 1} " in window.text(".reading") and "looks at position 2 " in window.text(
        ".reading"
    )
    plot.hover(position={"x": 2, "y": 2})
    assert "100 %" in window.text(".reading"), "the first token sees itself only"


def test_predictions_have_ten_bars_and_a_loss_for_every_token(window):
    window.tab("tokens")
    tokens = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).tokens")
    assert (
        window.count(".losses rect") == len(tokens["positions"])
        and window.count("#view-tokens .chip") == len(tokens["texts"]) + 1
    )
    for place in (1, len(tokens["texts"]) - 1):
        window.page.locator("#view-tokens .chip").nth(place).click()
        position = tokens["positions"][place - 1]
        assert window.count("#view-tokens .bar") == 10 + all(
            entry[2] != position["target"]["id"] for entry in position["top"]
        )
        assert window.count("#view-tokens .bar.true") == 1
        assert f"place {position['target']['rank']} of" in window.text(".expected")


def test_what_counting_says_stands_beside_what_the_model_says(browser, pages):
    window = Window(browser, pages["counting"])
    assert window.count('.map [data-part^="counting"]') == 2
    window.page.click('.map [data-part="counting"]')
    assert window.page.is_visible("#view-tokens")
    tokens = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).tokens")
    window.page.locator("#view-tokens .chip").nth(2).click()
    top = tokens["positions"][1]["top"]
    shown = window.page.locator("#view-tokens .bar:not(.names) .counted").all_inner_texts()
    assert len(shown) >= 10 and window.count("#view-tokens .bar .mark") == len(shown)
    for text, (_, _, _, counted) in zip(shown[:10], top, strict=True):
        assert float(text.split()[0]) == pytest.approx(100 * counted, abs=0.5)
    window.tab("step")
    window.page.click("text=Open all")
    leaf = window.page.locator(".node.leaf", has_text="log p, counted").last
    leaf.evaluate("node => node.dispatchEvent(new MouseEvent('click', { bubbles: true }))")
    assert "What counting says" in window.text(".panel")
    assert not window.problems
    window.context.close()


def test_merges_end_in_the_tokens(window):
    window.tab("merges")
    shown = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).merges")
    total = sum(len(chunk["steps"]) for chunk in shown["chunks"])
    assert total > 2 and window.count(".piece") == sum(len(chunk["ids"]) for chunk in shown["chunks"])
    window.page.click('button[aria-label="Next merge"]')
    assert "become" in window.text("#view-merges .reading") and window.count(".piece.fresh") == 1
    window.page.focus("#merges-done")
    window.page.keyboard.press("End")
    assert f"Merge {total} of {total}" in window.text("#view-merges .reading")
    assert window.count(".piece") == sum(len(chunk["ids"]) - len(chunk["steps"]) for chunk in shown["chunks"])


def test_the_ladder_falls_to_the_best_with_the_model_among_its_rungs(window):
    window.tab("training")
    shown = [row.split() for row in window.page.locator(".ladder tr").all_inner_texts()]
    nats = [row[-1] for row in shown]
    assert len(nats) == 10 and all(len(each.partition(".")[2]) == 3 for each in nats)
    assert nats == sorted(nats, key=float, reverse=True)
    assert window.text(".ladder .own").startswith("this model")


def test_parameters_move_with_the_slider(window):
    window.tab("training")
    training = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).training")
    assert window.count("#view-training .chart") == 3 and window.count(".parameters tbody tr") == len(
        training["snapshots"][0]["parameters"]
    )
    assert "this one" in window.text("output[for=checkpoint]")
    before = window.page.locator(".histogram path").first.get_attribute("d")
    window.page.focus("#checkpoint")
    window.page.keyboard.press("Home")
    assert "before training" in window.text("output[for=checkpoint]")
    assert window.page.locator(".histogram path").first.get_attribute("d") != before
    assert window.page.locator(".parameters tbody tr").first.locator(".figure").last.inner_text() == "–", (
        "at step 0 there is no update"
    )
    window.page.keyboard.press("ArrowRight")
    assert "step 1" in window.text("output[for=checkpoint]")


# ---------------------------------------------------------------- faults that were found by use


def test_on_the_way_back_nothing_flows_to_what_has_no_gradient(window):
    window.tab("step")
    window.page.click("text=Open all")
    graph = window.page.evaluate("JSON.parse(document.getElementById('data').textContent).graph")
    seen = 0
    for place, (phase, index) in enumerate(graph["steps"]):
        operation = graph["operations"][index]
        if phase == "forward" or None not in operation["grads"]:
            continue
        window.page.locator("#steps").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", place
        )
        for tensor, gradient in zip(operation["inputs"], operation["grads"], strict=True):
            if gradient is None and tensor is not None:
                assert window.count(f'.edge.writes[data-tensor="{tensor}"]') == 0
                assert "it needs no gradient" in window.text(".panel")
                seen += 1
    assert seen


def test_arrows_go_through_the_steps_after_a_click_on_the_tab(window):
    window.tab("step")
    window.page.keyboard.press("ArrowRight")
    assert window.text(".place").startswith("Forward 2 of")
    assert window.page.get_attribute("#tab-step", "aria-selected") == "true"


def test_rows_of_a_batch_have_their_tokens(window):
    window.tab("step")
    data = window.page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    first = data["graph"]["operations"][0]
    values = data["graph"]["tensors"][first["output"]]["values"]
    assert values["matrix"][0] == len(data["batch_tokens"]) >= values["grid"][0]
    shown = data["batch_tokens"][:: values["every"][0]]
    assert len(shown) == values["grid"][0]
    text = window.page.locator(".row-tokens").last.inner_text()
    assert text.split()[1:] == [token.replace(" ", "␣").replace("\n", "↵") for token in shown]


def test_card_four_shows_what_came_however_far_down_it_ranked(window):
    data = window.page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    card = window.page.locator(".card:has-text('It says what comes next')")
    assert card.locator(".bar.true").count() == 1
    assert card.locator(".bar.true .what").inner_text() == card.locator(".note b").inner_text()
    loss = next(value for name, value in data["facts"] if name == "loss")
    assert f"The loss of the step, {loss}, is the mean" in card.inner_text()


def test_a_script_has_no_loss_of_a_step(browser, pages):
    window = Window(browser, pages["script"])
    text = window.page.locator(".card:has-text('It says what comes next')").inner_text()
    window.context.close()
    assert "a loss of" in text and "of the step" not in text and "undefined" not in text


def test_three_losses_are_reconciled(window):
    data = window.page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    window.tab("tokens")
    facts = dict(data["facts"])
    losses = [each["loss"] for each in data["tokens"]["positions"] if each["loss"] is not None]
    text = window.text("#three-losses")
    assert facts["loss"] in text and facts["batch"] in text
    mean = float(text.partition(". The loss of one token")[0].rpartition(" ")[2])
    assert mean == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_an_input_without_a_name_is_explained(window):
    window.tab("step")
    window.page.click("text=Open all")
    number = window.page.locator(".node.leaf", has_text="number ").last
    number.evaluate("node => node.dispatchEvent(new MouseEvent('click', { bubbles: true }))")
    assert "A number that the program wrote" in window.text(".panel .path")
    zeros = window.page.locator(".stats div", has_text="zeros").first
    assert "exactly 0" in zeros.get_attribute("title")


def test_on_a_telephone_the_player_and_the_panel_stand_below_a_short_header(browser, pages):
    window = Window(browser, pages["training"], size=(390, 800))
    window.tab("step")
    boxes = window.page.evaluate(
        "['header', '.stage', '.panel', '.player'].map((each) => document.querySelector(each)"
        ".getBoundingClientRect()).map((box) => [box.top, box.bottom])"
    )
    header, stage, panel, player = boxes
    assert header[1] <= 160, "a fifth of the screen"
    assert player[1] <= 801 and stage[1] - stage[0] >= 170 and panel[1] - panel[0] >= 120
    assert stage[1] <= panel[0] + 1 and panel[1] <= player[0] + 1
    window.context.close()
