"""Loss curves: read from a run's log, drawn as SVG or in the characters of a terminal.

Reading order: `curves` (what is in a log, smoothed and thinned; as a table for other programs), `axes`
(scales and ticks), `svg_chart` (a file), `terminal_chart` (lines of text).
"""

from ...training.log_reading import LONGEST_LINE
from .axes import limits, step_ticks, ticks
from .curves import BINS, LARGEST_LOSS, Point, Run, legend_text, read_run, smoothed, table, thinned
from .svg_chart import DARK, DASHES, LIGHT, svg
from .terminal_chart import ANSI, abilities, chart, keys
