"""Counts the vocabulary and the sentence forms of what the generator writes."""
import argparse
import json
import random
import re
import sys

from . import arithmetic, filler, generate, ledger, tool_chats
from .story import Story

WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def vocabulary(kind, documents, seed, **options):
    """Distinct words, lower case, in the messages of generated documents."""
    seen = set()
    for index in range(documents):
        for message in generate.document(kind, seed, index, **options)["messages"]:
            seen.update(w.lower() for w in WORD.findall(message["content"]))
    return seen


def forms_used(words, seed):
    """The sentence forms that stories and ledgers of that many words used, questions included."""
    used = set()
    for turn in range(10):
        rng = random.Random(f"stats:{seed}:{turn}")
        tale, book = Story(rng, words // 10), ledger.Ledger(rng, words // 40)
        while tale.position < words // 10:
            tale.tell(5)
            tale.question()
        while book.position < words // 40:
            book.entry()
            book.question()
        used |= tale.narrator.used | book.used
    used.update(text for text, _ in arithmetic.STORIES)
    used.update(arithmetic.ASK + tool_chats.ASK + tool_chats.WRITE + tool_chats.READ + filler.TITLES)
    return used


def collect(documents=2000, seed="stats", glossary=True):
    """{"words": without the glossary, "words_with_glossary": ..., "forms": ..., "changing_forms": without asides}"""
    words = set()
    for kind in ("story", "adventure", "ledger", "arithmetic", "tools"):
        words |= vocabulary(kind, documents, seed, limit=3000)
    used = forms_used(100 * documents, seed)
    plain = set(filler.SCENERY)
    out = {"words": len(words), "forms": len(used), "forms_without_scenery": len(used - plain)}
    if glossary:
        out["words_with_glossary"] = len(words | vocabulary("glossary", documents, seed))
    return out


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="stats", description=__doc__)
    parser.add_argument("--documents", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", default="stats")
    parser.add_argument("--no-glossary", action="store_true")
    options = parser.parse_args(arguments)
    print(json.dumps(collect(options.documents, options.seed, not options.no_glossary), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
