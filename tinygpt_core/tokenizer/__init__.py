"""Floor 7: tokenizers, between text and the integers that a model reads.

Reading order: `base` (what all of them offer), `characters`, `bpe` (byte-pair encoding), `patterns` (how a
text is split first), `vocabularies` (the files of other projects), `encoders` (faster ones, from plug-ins),
`files` (one file for any tokenizer).
"""

from ..printable import replace_control_characters
from .base import Tokenizer, TokenizerError, render_token
from .bpe import BPETokenizer, get_stats, merge
from .characters import CharTokenizer
from .files import load_tokenizer, save_tokenizer
from .patterns import RegexPatterns
