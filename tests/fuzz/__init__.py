"""Fuzzing: small valid files, damaged at random, for every reader.

Whatever a file holds, a reader either reads it or raises what its docstring says, in 2 seconds and 50 MB
beyond the file's size at most. `pytest tests/fuzz` takes seconds; `pytest tests/fuzz --fuzz-seconds 3600`
shares an hour among the readers (`-s` shows how many inputs that were).

Reading order: `mutations` (how a file is damaged), `targets` (the readers, each with its files), `harness`
(one damaged input, and what is demanded of it), `test_readers`.
"""
