#!/usr/bin/env python3
"""Generates chats of the pocket world as JSON lines: {"messages": [...], "tools": [...], "meta": {...}}.

    generate.py --kind mix --documents 100000 --seed 1 --out train.jsonl
    generate.py --kind mix --megabytes 60 --seed 1 --jobs 2 --out train.jsonl
    generate.py --kind needle --documents 1 --words-min 200000 --words-max 200000 --seed 7 --out needle.jsonl
    generate.py --kind evaluate --documents 100 --seed 1 --out evaluation.jsonl

The same arguments give the same bytes, whatever --jobs is. Words are counted with punctuation marks, which is close to the
number of tokens that a tokenizer trained on this text makes. `meta.questions` has for each question the index of the
message that answers it, its type, the answer, and its distance in words from the sentence that decides it.
"""
import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "pocket_world"

from . import adventure, arithmetic, chats, echo, glossary, ledger, tool_chats  # noqa: E402
from .chats import log_uniform  # noqa: E402

KINDS = {
    "story": chats.story, "quiz": chats.quiz, "adventure": adventure.adventure, "arithmetic": arithmetic.arithmetic, "tools": tool_chats.tools,
    "ledger": ledger.ledger, "glossary": glossary.glossary, "echo": echo.echo,
}
MIX = {"story": 0.42, "quiz": 0.15, "echo": 0.05, "adventure": 0.1, "ledger": 0.1, "needle": 0.02, "arithmetic": 0.08, "tools": 0.04, "glossary": 0.04}
# Share of documents and their words: most are short, half of all words are in documents of more than 600.
LENGTHS = ((0.9, 50, 600), (0.09, 600, 4000), (0.009, 4000, 16000), (0.001, 16000, 40000))
LIMITS = {"adventure": 2000, "arithmetic": 1200, "tools": 1000, "glossary": 400, "echo": 600}  # longer ones teach nothing new
BUCKETS = (50, 200, 500, 1000, 2000, 8000, 32000, 100000, 262144)
EVALUATED = (  # question types of evaluation sets, about as frequent as in stories
    ("where_thing",), ("where_person",), ("who_has",), ("state",), ("where_thing",), ("colour",), ("is_at", "is_there", "has"),
    ("where_person",), ("contents", "belongings", "count"), ("where_thing",), ("job", "likes", "age", "mood"),
    ("before_thing", "before_person", "room"),
)


def needle(rng, words, **options):
    return (chats.day if rng.random() < 0.5 else ledger.needle)(rng, words, **options)


def pick(rng, shares):
    value = rng.random() * sum(shares.values())
    for name, share in shares.items():
        value -= share
        if value <= 0:
            return name
    return name


def document(kind, seed, index, low=None, high=None, accept=False, log=False, wordnet=glossary.DIRECTORY, limit=None, count=1):
    """Document `index` of a set; a function of its arguments alone. `limit` ends the curriculum of lengths early; `count`
    questions at the end of a needle."""
    rng = random.Random(f"{kind}:{seed}:{index}")
    if kind == "mix":
        kind = pick(rng, MIX)
    if low is None:
        value, words = rng.random(), None
        for share, low_, high_ in LENGTHS:
            value -= share
            if value <= 0:
                break
        words = log_uniform(rng, low_, high_)
        words = min(words, LIMITS.get(kind, words), limit or words)
    else:
        words = log_uniform(rng, low, high)
    words = int(words)
    if kind == "needle":
        return needle(rng, words, accept=accept, count=count) or document(kind, seed, f"{index}.", low, high, accept, count=count)
    if kind == "glossary":
        return glossary.glossary(rng, words, accept, directory=wordnet)
    return KINDS[kind](rng, words, accept, log)


def evaluation(seed, index, buckets=BUCKETS, longest=230000):
    """Questions at a controlled distance: buckets in turn, two worlds for one ledger; several questions where documents are
    long. No document has more than `longest` words (which leaves a context of 262,144 tokens some room), so the last
    distance is a little less than its name."""
    bucket, turn = buckets[index % len(buckets)], index // len(buckets)
    count = 1 if bucket < 2000 else 4 if bucket < 32000 else 16
    for attempt in range(100):
        rng = random.Random(f"evaluate:{seed}:{index}:{attempt}")
        words = min(int(bucket * (1.05 + 0.3 * rng.random())) + 10, longest)
        distance = min(bucket, 0.97 * words)
        if turn % 3 == 2:
            out = ledger.needle(rng, words, distance=distance, count=count)
        else:
            first = (turn - turn // 3) * count % len(EVALUATED)
            kinds = EVALUATED[first:] + EVALUATED[:first]
            out = chats.day(rng, words, distance=distance, kinds=kinds, count=count)
        asked = out["meta"]["questions"] if out else ()
        if len(asked) >= (count + 1) // 2 and all(abs(q["distance"] - distance) < 0.3 * distance + 8 for q in asked):
            break
    else:
        raise ValueError(f"no document of {words} words has a question at a distance of {distance}")
    out["meta"]["bucket"] = bucket
    return out


def _line(task):
    options, index = task
    if options.kind == "evaluate":
        out = evaluation(options.seed, index, options.buckets)
    else:
        out = document(options.kind, options.seed, index, options.words_min, options.words_max, options.accept, options.log,
                       options.wordnet, options.limit, options.questions)
    if options.no_meta:
        del out["meta"]
    return json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n"


def lines(options):
    """The lines of a set, streamed."""
    count = options.documents if options.megabytes is None else 1 << 40
    tasks = ((options, i) for i in range(count))
    written, most = 0, None if options.megabytes is None else options.megabytes * 1e6
    with contextlib.ExitStack() as stack:
        if options.jobs > 1:
            pool = stack.enter_context(multiprocessing.Pool(options.jobs))
            results = _batches(pool, tasks, 64 * options.jobs)
        else:
            results = map(_line, tasks)
        for line in results:
            yield line
            written += len(line.encode())
            if most is not None and written >= most:
                return


def _batches(pool, tasks, size):
    """Bounded: a pool's imap would read an endless series of tasks at once."""
    batch = []
    for task in tasks:
        batch.append(task)
        if len(batch) == size:
            yield from pool.map(_line, batch, 8)
            batch = []
    yield from pool.map(_line, batch, 8)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("mix", *KINDS, "needle", "evaluate"), default="mix")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--documents", type=int, default=1000)
    size.add_argument("--megabytes", type=float, help="instead of --documents: stop after this many bytes of output")
    parser.add_argument("--words-min", type=int, help="length of a document; without it, a curriculum of mostly short ones")
    parser.add_argument("--words-max", type=int)
    parser.add_argument("--limit", type=int, help="no document of the curriculum is longer than this many words")
    parser.add_argument("--questions", type=int, default=1, help="at the end of each needle")
    parser.add_argument("--seed", default="1", help="any text; a set for evaluation takes another than the training text")
    parser.add_argument("--out", default="-")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--accept", action="store_true", help="with the acceptable forms of each answer")
    parser.add_argument("--log", action="store_true", help="with the events of each story")
    parser.add_argument("--no-meta", action="store_true")
    parser.add_argument("--buckets", default=",".join(map(str, BUCKETS)), help="distances of --kind evaluate, in words")
    parser.add_argument("--wordnet", default=glossary.DIRECTORY)
    options = parser.parse_args(arguments)
    options.buckets = tuple(int(b) for b in options.buckets.split(","))
    if (options.words_min is None) != (options.words_max is None):
        parser.error("--words-min and --words-max go together")
    if options.words_min is not None and not 10 <= options.words_min <= options.words_max:
        parser.error("expected 10 <= --words-min <= --words-max")
    if options.jobs < 1 or options.documents < 0 or options.questions < 1:
        parser.error("expected --jobs >= 1, --documents >= 0 and --questions >= 1")
    return options


def main(arguments=None):
    options = parse(arguments)
    try:
        if options.kind in ("mix", "glossary"):
            glossary.definitions(options.wordnet)
        with contextlib.ExitStack() as stack:
            out = sys.stdout if options.out == "-" else stack.enter_context(open(options.out, "w", encoding="utf-8"))
            for line in lines(options):
                out.write(line)
    except (glossary.MissingWordNet, OSError) as error:
        print(f"generate.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
