"""Floor 8: tokenizers, between text and the integers that a model reads.

A `CharTokenizer` gives every character a number. A `BPETokenizer` starts from the 256 bytes and learns which
neighbours to merge.

Reading order: `base` (what all of them offer), `characters`, `bpe` (byte-pair encoding, the textbook first),
`patterns` (how a text is split before), `vocabularies` (the files of other projects) and `pipelines` (what
lies beside them), `tokenizer_json` (how the tokenizers library describes one) and `describing` (the way
back), `files` (one file for any tokenizer, and where to look for one), `encoders` (faster ones, from
plug-ins), `chat` (how a conversation becomes a text).
"""

from ..printable import replace_control_characters
from .base import MAXIMUM_FILE, Pair, Tokenizer, TokenizerError, render_token
from .bpe import CACHE_SIZE, BPETokenizer, encode_textbook, get_stats, learn_merges, merge, train_textbook
from .characters import CharTokenizer
from .files import FORMAT, FORMAT_VERSION, find_tokenizer, load_tokenizer, open_tokenizer, save_tokenizer
from .patterns import RegexPatterns
