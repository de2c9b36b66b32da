"""Gives every test run the specification's plug-in: `--backend NAME[,NAME…]`, `--profile NAME`, the mark
`thorough` and the `backend` fixture.

Here, and not in tests/spec, because pytest reads options from the topmost conftest of the folder it is given
(`testpaths`).
"""

import pytest

from tinygpt_core import backends

pytest_plugins = ["spec.plugin"]


def _cuda_on_cpu(device: str) -> type:
    from cuda_on_cpu.backend import EmulatedBuffer  # imports NumPy and the plug-in

    return EmulatedBuffer


backends.register("cuda-on-cpu", _cuda_on_cpu, None, "the CUDA kernels compiled for the CPU, for tests", -1)


# What takes long, and why: a file, or a test in one. It is marked `thorough`, so that the default run stays
# within two minutes on two cores; continuous integration runs all of it.
LONG = {
    "test_contributing.py::test_a_recipe_does_what_it_says": "follows it in a copy, pytest and all",
    "test_contributing.py::test_all_recipes_together_keep_the_rules": "follows them in a copy, mypy and all",
    "test_book.py::test_pictures_are_what_their_script_draws": "trains and measures what the pictures show",
    "test_book.py::test_every_picture_has_a_script_and_a_place_in_the_book": "draws all pictures",
    "test_examples.py::test_two_moons": "trains",
    "test_examples.py::test_iris_and_digits": "trains",
    "test_examples.py::test_names_rnn_vs_gpt": "trains",
    "test_examples.py::test_shakespeare_gpt": "trains",
    "test_examples.py::test_code_model": "trains",
    "test_site.py::test_a_notebook_runs_and_prints_what_it_shows": "trains",
    "test_site.py::test_the_site_is_built_without_a_warning": "builds it",
    "test_site.py::test_the_site_works_from_disk_in_a_browser": "builds it and opens it",
    "test_site.py::test_axe_finds_nothing_on_the_site": "builds it and opens it",
    "test_explain_page.py": "looks at pages in a browser",
    "test_cuda_on_cpu.py": "compiles the CUDA kernels for the CPU, and runs one thread after the other",
    "test_outside_backend.py": "runs laws in an environment of its own",
    "test_resume.py": "kills runs and resumes them",
    "test_spec_itself.py::test_the_minimal_backend_passes_the_whole_specification": "runs all laws",
    "test_spec_itself.py::test_a_broken_backend_is_caught": "tries a thousand cases on each",
    "test_spec_itself.py::test_what_catches_broken_backends_lets_the_minimal_one_pass": "runs many laws",
    "test_benchmarks.py::test_backends": "trains",
    "test_benchmarks.py::test_scaling": "trains",
    "test_benchmarks.py::test_both_sides_compute_the_same": "trains, also with PyTorch",
    "test_benchmarks.py::test_the_gpu_script_runs_without_a_gpu": "trains, also with PyTorch",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        test = item.nodeid.removeprefix("tests/").partition("[")[0]
        for name in (test, test.partition("::")[0]):
            if name in LONG:
                item.add_marker(pytest.mark.thorough(LONG[name]))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tinygpt")
    group.addoption(
        "--fuzz-seconds", type=float, default=0.0, help="how long tests/fuzz looks for failures (default: 0)"
    )
    group.addoption("--fuzz-seed", type=int, default=0, help="where the long fuzzing begins (default: 0)")
