"""Floor 10: the live microscope. A model that answers while one types: every value of a forward pass and how
it was made, what comes next and how it is drawn, training step by step, and why a weight moved.

    tinygpt live runs/latest                       # opens the browser on it

Reading order: `views` (a forward pass, with every value between its ends), `cells` (how a cell was made),
`session` (training, and why a weight moved), `protocol` (all of it as methods of JSON), `server` (the
protocol for a browser on this machine). The page's own scripts and style are in the folder `page`; on the
site the same page asks a worker in which this package runs inside the browser.
"""

from .protocol import Microscope, ProtocolError

__all__ = ["Microscope", "ProtocolError"]
