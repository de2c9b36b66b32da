"""The site and the notebooks: every document is reachable, every anchor is there, notebooks are valid and say
what the documents say.

What needs Sphinx, griffe, nbformat or nbclient (the extra `docs`) is skipped where they are missing;
`.ci/run` installs them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from static_host import CHROMIUM, static_host

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "site"


def load(name: str):
    """A module of docs/site, with those beside it importable."""
    sys.path.insert(0, str(SITE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SITE))


def installed(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: pip install -e '.[docs]'")


notebooks, markdown_text = load("notebooks"), load("markdown_text")
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md"))]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
every_notebook = pytest.mark.parametrize("document", notebooks.documents(), ids=lambda path: path.stem)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- links


@every_document
def test_links_and_their_anchors_are_there(document):
    for link in markdown_text.links(text_of(document)):
        path, _, anchor = link.target.partition("#")
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists() and ROOT in (target, *target.parents), (
            f"{link.target} is not in this repository"
        )
        if anchor:
            assert target.suffix == ".md", f"{link.target}: only headings of documents are anchors"
            assert anchor in markdown_text.anchors(text_of(target)), (
                f"{link.target}: no heading of {target.name} has this anchor"
            )


@every_document
def test_no_link_escapes_the_check(document):
    """Whatever looks like a link is one that is read as a link: on one line, its target without blanks, none
    defined elsewhere.
    """
    prose = re.sub(
        r"`[^`\n]*`",
        "code",
        "\n".join(part for part in markdown_text.parts(text_of(document)) if isinstance(part, str)),
    )
    assert len(re.findall(r"\]\(", prose)) == len(
        re.findall(r"\[[^\[\]]*\]\([^()\s]+\)", prose)
    ) + prose.count("[![")
    assert not re.search(r"^\[[^\]]+\]:|\]\[|<(?:a|img)\b", prose, re.MULTILINE), (
        "links are written as [label](target)"
    )


def test_the_front_page_leads_everywhere():
    index = DOCS / "index.md"
    linked = {
        (DOCS / link.target.partition("#")[0]).resolve() for link in markdown_text.links(text_of(index))
    }
    assert {path for path in DOCS.rglob("*.md") if path != index} <= linked, (
        "docs/index.md does not name a document"
    )
    assert set((DOCS / "examples").glob("*.py")) <= linked, "docs/index.md does not name an example"
    chapters = [path.name for path in map(Path, re.findall(r"\]\((\d\d-[\w-]+\.md)\)", text_of(index)))]
    assert chapters == sorted(chapters)


def test_a_link_may_be_a_picture():
    text = "[![a](b.png)](c.md) [`d`](e.py)\n\n```sh\n[f](g)\n```\n"
    assert [link.target for link in markdown_text.links(text)] == ["b.png", "c.md", "e.py"]
    renamed = markdown_text.replace_links("[![a](b.png)](c.md)", lambda link: f"<{link.label}|{link.target}>")
    assert renamed == "<<a|b.png>|c.md>"


def test_slugs_are_those_of_git_hosts():
    titles = {
        "8. What makes it fast": "8-what-makes-it-fast",
        "`Buffer`, and `dtype`": "buffer-and-dtype",
        "A + b": "a--b",
        "ε_0": "ε_0",
    }
    assert {title: markdown_text.slug(title) for title in titles} == titles
    assert markdown_text.anchors("# A\n\n## A\n\n```sh\n# no heading\n```\n") == {"a", "a-1"}


# ---------------------------------------------------------------- notebooks


@every_notebook
def test_a_notebook_says_what_its_document_says(document):
    made = notebooks.notebook(document)
    blocks = [part for part in markdown_text.parts(text_of(document)) if not isinstance(part, str)]
    cells = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] + "\n" for cell in cells] == [
        block.code for block in blocks if block.language == "python"
    ]
    assert ["".join(output["text"] for output in cell["outputs"]) for cell in cells] == [
        b.shown for b in blocks if b.language == "python"
    ]
    prose = "\n".join(cell["source"] for cell in made["cells"] if cell["cell_type"] == "markdown")
    for heading in re.findall(
        r"^#+ .+$",
        "".join(part for part in markdown_text.parts(text_of(document)) if isinstance(part, str)),
        re.M,
    ):
        assert re.sub(r"\]\([^)]*\)", "", heading) in re.sub(r"\]\([^)]*\)", "", prose)
    for cell in made["cells"]:
        pictures = re.findall(
            r"\]\(attachment:([^)]+)\)", cell["source"] if cell["cell_type"] == "markdown" else ""
        )
        assert set(pictures) == set(cell.get("attachments", {}))
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert re.match(r"https?://|attachment:|#", target) or target.partition("#")[0] in {
            f"{path.stem}.ipynb" for path in notebooks.documents()
        }


@installed("nbformat")
def test_notebooks_are_valid(tmp_path):
    import nbformat

    written = notebooks.write(tmp_path)
    assert [path.stem for path in written] == [path.stem for path in notebooks.documents()]
    for path in written:
        nbformat.validate(nbformat.reads(text_of(path), as_version=4))


@installed("nbformat", "nbclient", "ipykernel")
@every_notebook
def test_a_notebook_runs_and_prints_what_it_shows(document, tmp_path, monkeypatch):
    """In a Jupyter kernel, started outside of the repository."""
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = nbformat.from_dict(notebooks.notebook(document))
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    shown = [printed(cell) for cell in code]
    nbclient.NotebookClient(made, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [printed(cell) for cell in code] == shown
    assert all(cell.execution_count for cell in code)


def printed(cell):
    """What a code cell printed, line by line; a kernel sends it in pieces. Anything else, such as a value
    displayed, is an error.
    """
    assert all(output["output_type"] == "stream" and output["name"] == "stdout" for output in cell.outputs), (
        cell.outputs
    )
    return [line.rstrip() for line in "".join(output["text"] for output in cell.outputs).splitlines()]


def test_notebooks_are_made_without_anything_installed(tmp_path):
    command = [sys.executable, "-S", str(SITE / "notebooks.py"), "--out", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert [Path(line).stem for line in printed.split()] == [path.stem for path in notebooks.documents()]
    assert json.loads(text_of(tmp_path / "11-strided-arrays.ipynb"))["nbformat"] == 4


# ---------------------------------------------------------------- the site


@installed("griffe", "pygments")
def test_the_reference_has_every_public_module_and_name():
    """By an independent look at the sources: every module file has a page, on a floor; every public class and
    function is on it.
    """
    import ast

    reference = load("reference")
    found = reference.modules(ROOT)
    files = [
        path
        for package in reference.PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("__m")
    ]
    dotted = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }
    assert set(found) == set(dotted)
    floors = reference.floors(text_of(ROOT / "README.md"), list(found))
    assert sorted(path for floor in floors for path in floor.modules) == sorted(found), (
        "each module on one floor"
    )
    assert {"Floor 1", "Floor 10"} <= {floor.title for floor in floors}
    pages = reference.Reference(found, lambda path, name: f"{path.name}#{name}")
    for module, path in dotted.items():
        page = pages.page(module)
        for node in ast.parse(text_of(path)).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                assert re.search(
                    rf"^:+{{py:(class|exception|function)}} {node.name}\b", page, re.MULTILINE
                ), f"{module}.{node.name}"
                for member in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                        assert re.search(
                            rf"^:+{{py:(method|property)}} {member.name}\b", page, re.MULTILINE
                        ), f"{node.name}.{member.name}"


@installed("griffe", "pygments")
def test_references_of_docstrings_are_links_and_formulas_stay_formulas():
    reference = load("reference")
    pages = reference.Reference(reference.modules(ROOT), lambda path, name: f"{path.name}#{name}")
    page = pages.page("tinygpt_core.optimizers")
    assert "{py:obj}`apply_single <tinygpt_core.optimizers.Optimizer.apply_single>`" in page
    assert "- `learning_rate`: η; may be assigned later." in page
    assert '<a class="source-link" href="optimizers.py#SGD">' in page
    assert "{py:obj}`Tensor <tinygpt_core.tensor.Tensor>`" in pages.page("tinygpt_core"), (
        "names that a package hands on"
    )
    assert reference._escaped("a * b `c * d` <e>") == r"a \* b `c * d` \<e>"


@installed("griffe", "pygments")
def test_a_source_page_has_an_anchor_at_every_definition(tmp_path):
    sources = load("sources")
    file = tmp_path / "example.py"
    file.write_text(
        'A = 1\n\n\nclass B:\n    """<Text>\n    of two lines."""\n\n    c: int = 2\n\n    @property\n  '
        "  def d(self):\n        return A\n"
    )
    assert sources.definitions(file) == {"A": 1, "B": 4, "B.c": 8, "B.d": 10}
    page = sources.page(file, "example.py", "")
    for name, line in sources.definitions(file).items():
        assert f'<span id="{name}"></span><span id="L{line}"' in page
    assert page.count('class="line"') == 12
    assert "&lt;Text&gt;" in page


@installed("griffe", "pygments")
def test_broken_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="#top">a</a><a '
        'href="https://example.org/">e</a>'
    )
    (tmp_path / "b.html").write_text(
        '<p id="there"></p><a href="a.html#gone">a</a><a href="c.html">c</a><img '
        'src="https://example.org/p.png">'
    )
    assert load("build").faults(tmp_path) == [
        "b.html loads https://example.org/p.png",
        "b.html links to a.html#gone, which has no such anchor",
        "b.html links to c.html, which is not there",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built once. build.py ends with an error at a warning of Sphinx, a broken link, or anything
    loaded from a network.
    """
    out = tmp_path_factory.mktemp("built") / "site"
    result = subprocess.run(
        [sys.executable, str(SITE / "build.py"), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    return out


built = installed("sphinx", "myst_parser", "furo", "griffe")


@built
def test_the_site_is_built_without_a_warning(site):
    for document in DOCS.rglob("*.md"):
        page = text_of(site / document.relative_to(DOCS).with_suffix(".html"))
        assert ("Download this page as a notebook" in page) == (document in notebooks.documents())
    assert {path.stem for path in (site / "notebooks").iterdir()} == {
        path.stem for path in notebooks.documents()
    }
    assert 'id="tinygpt_core.tensor.Tensor.backward"' in text_of(
        site / "reference" / "tinygpt_core.tensor.html"
    )
    assert 'href="source/tinygpt_core/shape.py.html#reshape_strides"' in text_of(
        site / "11-strided-arrays.html"
    )
    assert load("build").faults(site) == []


def needs_browser(test):
    for mark in (
        pytest.mark.skipif(
            CHROMIUM is None, reason="there is no browser on this machine (apt-get install chromium)"
        ),
        installed("playwright"),
        built,
    ):
        test = mark(test)
    return test


@needs_browser
def test_the_site_works_from_disk_in_a_browser(site):
    """Search, the way from a chapter to a definition, light and dark, a narrow window; nothing is asked of a
    network.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        page = browser.new_page(viewport={"width": 1300, "height": 900}, reduced_motion="reduce")
        problems, asked = [], []
        page.on(
            "console", lambda message: message.type in ("error", "warning") and problems.append(message.text)
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or asked.append(request.url)
        )

        page.goto((site / "index.html").as_uri())
        page.fill("input.sidebar-search", "strides")
        page.press("input.sidebar-search", "Enter")
        page.wait_for_selector("ul.search li a", timeout=30_000)
        assert page.locator("ul.search li a", has_text="Strided arrays").count()

        page.goto((site / "11-strided-arrays.html").as_uri())
        page.get_by_role("link", name="reshape_strides").first.click()
        page.wait_for_url("**/source/tinygpt_core/shape.py.html#reshape_strides")
        page.wait_for_timeout(1000)
        top = page.evaluate("document.getElementById('reshape_strides').getBoundingClientRect().top")
        assert 0 <= top < 900, "the definition is in sight"

        colours = set()
        for _ in range(3):
            page.locator(".theme-toggle:visible").first.click()
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2, "light, dark, and what the system says"

        page.set_viewport_size({"width": 400, "height": 800})
        for name in (
            "index",
            "coming-from-pytorch",
            "16-the-laws",
            "reference/tinygpt_core.tensor",
            "source/tinygpt_core/tensor.py",
        ):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                f"{name} is too wide for a telephone"
            )
        browser.close()
    assert not problems
    assert not asked


def test_pictures_with_colours_for_the_dark_are_not_inverted_in_it():
    own = {path.name for path in (DOCS / "pictures").glob("*.svg") if "prefers-color-scheme" in text_of(path)}
    rule = re.search(
        r"^article img:is\((.*)\) \{.* filter: none; \}$", text_of(SITE / "style.css"), re.MULTILINE
    )
    assert rule and own == set(re.findall(r'"/([\w-]+\.svg)"', rule[1]))


# ---------------------------------------------------------------- blocks that run in the browser

RUN_IN_BROWSER = [*notebooks.documents(), ROOT / "README.md"]


def python_blocks(document: Path) -> list[markdown_text.Block]:
    return [
        part
        for part in markdown_text.parts(text_of(document))
        if isinstance(part, markdown_text.Block) and part.language == "python"
    ]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (["import math", "math.pi"], ["", ""]),
        (["import numpy", "x = numpy.ones(2)", "print(x)", "x = 3", "print(x)"], ["N", "N", "N", "", ""]),
        (["from tinygpt_core import backends\nbackends.use('numpy')"], ["N"]),
        (["train(backend='cupy')", "print('numpy')"], ["a GPU", ""]),
        (["def f():\n    import torch\n", "f()", "f = abs", "f(1)"], ["PyTorch", "PyTorch", "", ""]),
    ],
)
def test_what_a_block_needs_follows_from_what_it_uses(blocks, expected):
    found = load("running").needs(blocks)
    assert ["N" if need.endswith("with NumPy") else need for need in found] == expected


def test_chapters_of_the_first_part_need_no_plugin():
    for chapter in sorted(DOCS.glob("[01][0-9]-*.md")):
        needs = load("running").needs([block.code for block in python_blocks(chapter)])
        assert any(needs) == (chapter.stem == "12-what-makes-it-fast"), chapter.stem


def test_pinned_scripts_import_what_lies_beside_them(tmp_path):
    import io
    import tarfile

    live = load("live")
    package = live.Package("@codemirror/view", "1", "sha512-", ("dist/index.js",))
    other = live.Package("style-mod", "1", "sha512-", ("index.js",))
    code = b"import { a, b as c } from 'style-mod';\nconst text = \"import x from y\";\nexport { a };\n"
    archives = {}
    for each, data in ((package, code), (other, b"export const a = 1;\n")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo(f"package/{each.files[0]}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        archives[each] = buffer.getvalue()
    live.write_editor(tmp_path, archives)
    assert text_of(tmp_path / "codemirror-view.js") == code.decode().replace(
        "'style-mod'", '"./style-mod.js"'
    )


def test_the_editor_is_pinned_to_checksums():
    packages = load("live").editor_packages()
    assert {"@codemirror/view", "@codemirror/state", "@codemirror/lang-python"} <= {
        each.name for each in packages
    }
    for package in packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package.version)
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package.integrity)


@pytest.fixture(scope="module")
def served(site):
    """The site's address, from a plain static host."""
    if not (site / "runtime").is_dir():
        pytest.skip("the site was built without Python for the browser: npm is missing, or a network")
    with static_host(site) as server:
        yield f"http://127.0.0.1:{server.server_port}/"


@contextmanager
def reading(address: str):
    """A browser on the site at an address: nothing may be asked of another host, no script may fail."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        context = browser.new_context(
            reduced_motion="reduce", permissions=["clipboard-read", "clipboard-write"]
        )
        context.set_default_timeout(400_000)
        page = context.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((address, "data:")) or problems.append(request.url),
        )
        yield page
        browser.close()
        assert not problems


@pytest.fixture
def reader(served):
    """A page of a browser on the served site."""
    with reading(served) as page:
        yield page


def run_all(page) -> None:
    """Runs the last block that can be run, and with it all before it; a page's own are run one by one."""
    alone = page.evaluate("document.body.dataset.alone === 'true'")
    buttons = page.locator(".block-button.run:not([disabled])")
    for place in range(buttons.count()) if alone else [buttons.count() - 1]:
        buttons.nth(place).click()  # marks the block as running before it returns; a quick one soon ends
        page.wait_for_function("!document.querySelector('.running')")


@needs_browser
@pytest.mark.parametrize("document", RUN_IN_BROWSER, ids=lambda path: path.stem)
def test_every_block_prints_the_books_text_in_the_browser(served, reader, document):
    name = "readme" if document.stem == "README" else document.relative_to(DOCS).with_suffix("").as_posix()
    reader.goto(f"{served}{name}.html")
    reader.wait_for_selector(".block-button.run")
    run_all(reader)
    blocks = python_blocks(document)
    needs = json.loads(reader.get_attribute("body", "data-blocks"))
    assert len(needs) == len(blocks) == reader.locator(".block-bar").count()
    wrong = [each.inner_text() for each in reader.locator(".printed.differs, .printed.failed").all()]
    assert not wrong, "\n".join(wrong)
    runnable = [block for block, need in zip(blocks, needs, strict=True) if not need]
    assert reader.locator(".printed.equal").count() == len(runnable)
    printed = reader.locator(".printed.equal:not([hidden]) pre").all_inner_texts()
    shown = [block.shown for block in runnable if block.shown]
    assert [_lines(text) for text in printed] == [_lines(text) for text in shown]
    said = reader.locator(".block-bar.needs .block-status").all_inner_texts()
    assert len(said) == len(blocks) - len(runnable) and all(text.startswith("Needs ") for text in said)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@needs_browser
def test_a_block_is_edited_interrupted_and_copied(served, reader):
    reader.goto(f"{served}01-slopes.html")
    reader.locator(".block-button.edit").first.click()
    editor = reader.locator(".cm-content").first
    editor.click()
    reader.keyboard.press("Control+a")
    reader.keyboard.type("kept = 7 / 2 # a slash is no search\nprint(kept)\n")
    assert reader.evaluate("document.activeElement.classList.contains('cm-content')")
    reader.keyboard.press("Control+Enter")
    reader.wait_for_selector(".printed.differs")
    assert reader.inner_text(".printed pre").strip() == "3.5"
    assert "as you changed it" in reader.inner_text(".printed-head")

    editor.click()  # an error is shown as Python shows it, and an endless loop can be left
    reader.keyboard.press("Control+a")
    reader.keyboard.type("print(1 / 0)")
    reader.keyboard.press("Control+Enter")
    reader.wait_for_selector(".printed.failed")
    text = reader.inner_text(".printed.failed pre")
    assert text.strip().endswith("ZeroDivisionError: division by zero") and "tinygpt_core" not in text
    editor.click()
    reader.keyboard.press("Control+a")
    reader.keyboard.type("while True: print('on and on'); import time; time.sleep(0.1)")
    reader.keyboard.press("Control+Enter")
    reader.wait_for_selector(".printed pre:has-text('on and on')")
    reader.get_by_role("button", name="Interrupt block 1").click()
    reader.wait_for_selector(".block-status:has-text('Interrupted')")

    reader.locator(".block-button.edit").first.click()  # undone: the book's block again, with a new Python
    assert reader.locator(".cm-content").count() == 0
    reader.get_by_role("button", name="Run block 1", exact=True).click()
    reader.wait_for_function(
        "!document.querySelector('.running') && !document.querySelector('.printed.failed')"
    )
    block = python_blocks(DOCS / "01-slopes.md")[0]
    reader.locator(".highlight-python .copy").first.focus()
    reader.keyboard.press("Enter")
    reader.wait_for_selector(".highlight-python .copy:has-text('Copied')")
    assert reader.evaluate("navigator.clipboard.readText()") == block.code


@needs_browser
def test_where_memory_may_be_shared_an_interrupt_leaves_what_python_knows(site, served):
    headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    with static_host(site, headers) as server, reading(f"http://127.0.0.1:{server.server_port}/") as page:
        page.goto(f"http://127.0.0.1:{server.server_port}/01-slopes.html")
        assert page.evaluate("crossOriginIsolated")

        def run(code: str) -> None:
            page.locator(".cm-content").first.click()
            page.keyboard.press("Control+a")
            page.keyboard.type(code)
            page.keyboard.press("Control+Enter")

        page.locator(".block-button.edit").first.click()
        run("kept = 41; print(kept)")
        page.wait_for_selector(".printed pre:has-text('41')")
        run("while True: print('on and on'); import time; time.sleep(0.1)")
        page.wait_for_selector(".printed pre:has-text('on and on')")
        page.get_by_role("button", name="Interrupt block 1").click()
        page.wait_for_selector(".block-status:has-text('Interrupted')")
        assert "anew" not in page.inner_text(".block-status:has-text('Interrupted')")
        run("print(kept + 1)")
        page.wait_for_selector(".printed pre:has-text('42')")


@needs_browser
def test_the_book_goes_on_without_a_network(served, reader):
    address = f"{served}06-embeddings.html"
    reader.goto(address)
    reader.get_by_role("button", name="Run block 1", exact=True).click()
    reader.wait_for_function("!document.querySelector('.running')")
    is_kept = "(page) => caches.match(page).then(Boolean)"
    for _ in range(300):
        reader.wait_for_timeout(200)
        if reader.evaluate(is_kept, address):
            break
    reader.wait_for_timeout(2000)  # for what the page is made of
    reader.context.set_offline(True)
    reader.reload()
    reader.get_by_role("button", name="Run block 1", exact=True).click()
    reader.wait_for_selector(".printed.equal", state="attached")


@needs_browser
def test_search_finds_chapters_before_the_reference(site, reader, served):
    reader.goto(f"{served}search.html?q=attention")
    reader.wait_for_selector("ul.search li:nth-child(5) a")
    reader.wait_for_timeout(1000)
    found = reader.evaluate(
        "[...document.querySelectorAll('ul.search li > a')].map((link) => link.getAttribute('href'))"
    )
    kinds = [2 if "source/" in each else 1 if "reference/" in each else 0 for each in found]
    assert kinds == sorted(kinds) and kinds[0] == 0 and 1 in kinds


WIDE = (
    "[...document.querySelectorAll('article pre')].filter((each) => each.scrollWidth > each.clientWidth)"
    ".map((each) => getComputedStyle(each, '::-webkit-scrollbar').height)"
)


@needs_browser
def test_wide_code_is_read_or_scrolled_visibly_and_figures_fit_the_dark(site, served, reader):
    reader.set_viewport_size({"width": 1400, "height": 900})
    reader.goto(f"{served}06-embeddings.html")
    bars = reader.evaluate(WIDE)
    assert len(bars) <= 1 and set(bars) <= {"10px"}, "a scroll bar that one sees"
    reader.emulate_media(color_scheme="dark")
    for name in ("01-slopes", "07-attention", "index"):
        reader.goto(f"{served}{name}.html")
        for picture in reader.locator("article img").all():
            source = picture.get_attribute("src")
            own = source.endswith(".svg") and "prefers-color-scheme" in text_of(site / source)
            style = picture.evaluate("(each) => getComputedStyle(each).filter")
            assert (style == "none") == own, f"{source}: {style}"


@needs_browser
@installed("axe_playwright_python")
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_on_the_site(site, colours):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        page = browser.new_page(color_scheme=colours, reduced_motion="reduce")
        for name in (
            "index",
            "07-attention",
            "coming-from-pytorch",
            "reference/tinygpt_core.optimizers",
            "source/tinygpt_core/tree.py",
        ):
            page.goto((site / f"{name}.html").as_uri())
            result = Axe().run(page)
            assert len(result.response["passes"]) > 10, "axe has looked at the page"
            assert result.violations_count == 0, f"{name}: {result.generate_report()}"
        browser.close()
