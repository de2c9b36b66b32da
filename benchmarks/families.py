"""Which checkpoints and tokenizers load, and how far what they give is from the libraries that made them.

python benchmarks/families.py [--write]

Tiny checkpoints with drawn weights, made by transformers, and small tokenizers, trained by tokenizers: those
of tests/test_families.py and tests/test_tokenizer_json.py. Needs the extra `families`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PAGE = ROOT / "docs" / "models.md"


def families() -> list[str]:
    """Returns the rows of the table of families."""
    import test_families
    import torch

    from tinygpt_core import Tensor, backends
    from tinygpt_core.formats import load_pretrained, save_pretrained

    rows = [
        "| checkpoint | `model_type` | greatest difference of logits | 20 greedy tokens | back there |",
        "|---|---|---|---|---|",
    ]
    ids = torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    for name, (kind, options) in test_families.CASES.items():
        with tempfile.TemporaryDirectory() as place, backends.use("numpy"), torch.no_grad():
            theirs = test_families.their_model(kind, options)
            theirs.save_pretrained(f"{place}/theirs")
            model_type = json.loads(Path(place, "theirs", "config.json").read_text())["model_type"]
            ours = load_pretrained(f"{place}/theirs")
            expected = theirs(ids).logits
            difference = (torch.tensor(ours(Tensor(ids.tolist())).to_python()) - expected).abs().max().item()
            text = theirs.generate(ids[:1, :6], max_new_tokens=20, do_sample=False, pad_token_id=0).tolist()
            is_same = ours.generate_greedy(Tensor(ids[:1, :6].tolist()), 20).to_python() == text
            save_pretrained(ours, f"{place}/ours", model_type)
            back = type(theirs).from_pretrained(f"{place}/ours", attn_implementation="eager").eval()
            again = (back(ids).logits - expected).abs().max().item()
        same = "the same" if is_same else "others"
        rows.append(f"| {name} | `{model_type}` | {difference:.0e} | {same} | {again:.0e} |")
    return rows


def tokenizers() -> list[str]:
    """Returns the rows of the table of tokenizers."""
    import test_tokenizer_json

    from tinygpt_core.tokenizer.tokenizer_json import JSONTokenizer

    rows = ["| tokenizer | texts | with other ids |", "|---|---|---|"]
    for name, make in test_tokenizer_json.CASES.items():
        theirs = make()
        ours = JSONTokenizer(json.loads(theirs.to_str()))
        texts = drawn_texts(1000)
        others = sum(
            ours.encode(text, "all") != theirs.encode(text, add_special_tokens=False).ids for text in texts
        )
        rows.append(f"| {name} | {len(texts):,} | {others} |")
    return rows


def drawn_texts(count: int) -> list[str]:
    """Returns texts of many scripts, emoji, code and runs of white space, the same in every run."""
    from test_tokenizer_json import EMOJI, MARKS, WORDS

    rng = random.Random(7)
    known = [*WORDS, *EMOJI, *MARKS, " ", "\n\n", "\t", "  "]
    texts = []
    for _ in range(count):
        parts = [
            rng.choice(known) if rng.random() < 0.7 else chr(rng.randrange(32, 0xA000))
            for _ in range(rng.randrange(1, 20))
        ]
        texts.append(
            "".join(part for part in parts if unicodedata.category(part[0]) not in ("Cn", "Co", "Cs"))
        )
    return texts


def filled(page: str, name: str, rows: list[str]) -> str:
    """Returns a page with the table of that name replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    return before + begin + "\n".join(rows) + "\n" + end + rest.partition(end)[2]


def main() -> None:
    """Prints both tables, or writes them into docs/models.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/models.md")
    arguments = parser.parse_args()
    tables: dict[str, Callable[[], Any]] = {"families": families, "tokenizers": tokenizers}
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        rows = table()
        page = filled(page, name, rows)
        if not arguments.write:
            print("\n".join(rows), end="\n\n")
    if arguments.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
