"""Builds the source distribution of the core: what it installs, and no tests.

setuptools puts `tests/test*.py` into every source distribution, where they would lie without the files that
they need. The specification, `tests/spec`, is installed, as `tinygpt_spec`, so it stays.
"""

from setuptools.command.sdist import sdist

HERE = "tests/source_distribution.py"  # is needed again where a wheel is built of the source distribution


class SourceDistribution(sdist):
    """The command `sdist`, without the tests."""

    def make_distribution(self) -> None:
        """Writes the archive."""
        files = [file.replace("\\", "/") for file in self.filelist.files]
        kept = [file for file in files if not file.startswith("tests/") or file.startswith("tests/spec/")]
        self.filelist.files = [*kept, HERE]
        super().make_distribution()
