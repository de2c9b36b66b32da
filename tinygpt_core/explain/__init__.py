"""Floor 10: `tinygpt explain`, the microscope: one self-contained HTML page that shows a training step, or a
generation, from inside.

    tinygpt explain runs/latest                    # the next training step of a run, recorded and not kept
    tinygpt explain runs/latest --prompt "get_"    # its model, reading the prompt and what it wrote after it
    tinygpt explain script.py                      # a script, up to the end of its first backward()
    loss.explain("page.html")                      # the graph behind any Tensor

Reading order: `recorder` (what is written down while operations run), `tape` (what a Tensor still shows where
no Recorder was open), `values`, `sources`, `text` and `history` (what is shown of each), `subjects` (what can
be explained), `page` (the file), `writing` (all of it at once). The page's own scripts and style are in the
folder `page`.
"""

from .recorder import Recorder, RecordingError
from .writing import explain, explain_tensor

__all__ = ["Recorder", "RecordingError", "explain", "explain_tensor"]
