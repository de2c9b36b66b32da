"""The specification of a tinygpt backend: laws, written once, run against any backend by name.

In the repository, and anywhere for a backend of someone else's:

    pytest tests/spec --backend python,minimal
    pytest -p tinygpt_spec.plugin --pyargs tinygpt_spec --backend theirs

Reading order: `minimal` (a whole backend, as a tutorial), `tolerances`, `strategies` (what is drawn), `table`
(one row for everything public), then the `test_…_laws` modules. `broken` holds backends with one defect each,
which the laws must catch.
"""
