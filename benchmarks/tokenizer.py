"""Byte-pair encoding: seconds to train, megabytes a second to encode, and whether the merges are those of the
textbook algorithm.

python benchmarks/tokenizer.py [--data FILE] [--vocab-size 1024]

Where vocab.json and merges.txt of GPT-2 lie beside the project and tiktoken is installed, also GPT-2's
encoding of the text: in Python, by tiktoken, and by the encoder that the accel plug-in makes of it, in turns,
with the same ids.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinygpt_core.dataset.corpora import load_corpus  # noqa: E402
from tinygpt_core.tokenizer import BPETokenizer, RegexPatterns, train_textbook  # noqa: E402

PREFIX = 30_000  # characters on which the textbook algorithm is affordable


def gpt2_rows(text: str, runs: int) -> tuple[list[str], bool]:
    """Lines of the table about GPT-2's encoding, and whether all ids are equal."""
    folder = ROOT.parent / "shared" / "data" / "gpt2"
    try:
        from tiktoken import Encoding
        from tiktoken_ext.openai_public import r50k_pat_str

        from tinygpt_accel.tiktoken_encoder import tiktoken_encoder
    except ImportError as problem:
        return [f"| GPT-2's encoding | not measured: {problem} | |"], True
    if not folder.is_dir():
        return ["| GPT-2's encoding | not measured: its files are not beside the project | |"], True
    tokenizer = BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    ranks = {token: idx for idx, token in tokenizer.vocab.items()}
    encoding = Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    start = time.perf_counter()
    plug_in = tiktoken_encoder(tokenizer)
    preparing = time.perf_counter() - start
    assert plug_in is not None
    ways = {
        "in Python": tokenizer._encode_ordinary,
        "by tiktoken": encoding.encode_ordinary,
        "by the plug-in": plug_in,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    same = True
    for _ in range(max(3, runs)):
        results = []
        for name, encode in ways.items():
            tokenizer._cache.clear()
            start = time.perf_counter()
            results.append(encode(text))
            seconds[name].append(time.perf_counter() - start)
        same &= all(result == results[0] for result in results)
    megabytes, base = len(text.encode()) / 1e6, statistics.median(seconds["by tiktoken"])
    rows = []
    for name, times in seconds.items():
        middle = statistics.median(times)
        once = f", after {preparing:.2f} s once" if name == "by the plug-in" else ""
        speed = f"{megabytes / middle:.2f} MB/s, {middle / base:.2f} of tiktoken's time{once}"
        rows.append(f"| GPT-2's encoding {name} | {speed} | |")
    rows.append(f"| its {len(results[0]):,} ids are equal | {'yes' if same else 'NO'} | yes |")
    return rows, same


def main() -> int:
    """Prints a Markdown table; returns 1 where the merges or GPT-2's ids differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    beside = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
    default = str(beside) if beside.is_file() else None
    parser.add_argument(
        "--data",
        metavar="FILE",
        default=default,
        help="a text (default: tinyshakespeare, beside the project or fetched)",
    )
    parser.add_argument("--vocab-size", type=int, default=1024, help="tokens to learn (default: 1024)")
    parser.add_argument("--runs", type=int, default=3, help="runs; medians are shown (default: 3)")
    arguments = parser.parse_args()
    text = load_corpus("shakespeare", arguments.data).text or ""
    megabytes = len(text.encode()) / 1e6
    training, encoding = [], []
    for _ in range(arguments.runs):
        tokenizer = BPETokenizer(RegexPatterns.GPT4)
        start = time.perf_counter()
        tokenizer.train(text, arguments.vocab_size)
        middle = time.perf_counter()
        ids = tokenizer.encode(text)
        encoding.append(time.perf_counter() - middle)
        training.append(middle - start)
    small = BPETokenizer(RegexPatterns.GPT4)
    small.train(text[:PREFIX], 512)
    textbook = train_textbook([chunk.encode() for chunk in small.chunks(text[:PREFIX])], 512)
    same = list(small.merges) == list(textbook) and tokenizer.decode(ids) == text
    print(f"{megabytes:.2f} MB of text, {arguments.vocab_size} tokens, Python {sys.version.split()[0]}\n")
    print("| what | median | limit |\n|---|---|---|")
    print(f"| training | {statistics.median(training):.2f} s | 5 s |")
    print(f"| encoding | {megabytes / statistics.median(encoding):.2f} MB/s | 0.7 MB/s |")
    what = f"merges equal to the textbook's (first {PREFIX:,} characters), round trip"
    print(f"| {what} | {'yes' if same else 'NO'} | yes |")
    rows, equal = gpt2_rows(text, arguments.runs)
    print("\n".join(rows))
    return 0 if same and equal else 1


if __name__ == "__main__":
    sys.exit(main())
