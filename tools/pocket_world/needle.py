#!/usr/bin/env python3
"""A ledger or a day of the world, of a length you choose, and one question: can the model find the needle?

    ./run needle                            a ledger of 2,000 words
    ./run needle --day --words 30000
    ./run needle --words 230000             about the whole context of 262,144 tokens
"""
import argparse
import os
import random
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "pocket_world"

from . import chats, client, ledger, questions  # noqa: E402


def run(options):
    if options.distance is not None and not 1 <= options.distance <= options.words:
        raise ValueError("--distance: expected a number from 1 to --words")
    right = 0
    with client.from_options(options, quiet=not sys.stderr.isatty()) as model:
        for turn in range(options.repeat):
            seed = None if options.seed is None else f"needle:{options.seed}:{turn}"
            rng = random.Random(seed)
            document = None
            for _ in range(20):
                make = chats.day if options.day else ledger.needle
                document = make(rng, options.words, distance=options.distance)
                if document:
                    break
            if not document:
                raise ValueError(f"no question at a distance of {options.distance} words; try another --distance or --seed")
            question = document["meta"]["questions"][0]
            text = document["messages"][0]["content"]
            told, asked = text.rsplit("\n\n", 1)
            beginning = told[:300].rsplit(" ", 1)[0]
            print(f"{beginning} [... {document['meta']['words']:,} words in all]\n\n> {asked.strip()}")
            reply = model.start(document["messages"][:1])
            answer = reply["text"].strip()
            found = questions.matches(answer, question["accept"])
            right += found
            print(f"{answer}   [{'right' if found else 'wrong: ' + question['answer']}]")
            memory, timings = reply["memory"], reply["timings"]
            distance = question["distance"]
            print(f"[{'not told' if distance is None else f'told {distance:,} words before'}; {reply['prompt_tokens']:,} tokens read in "
                  f"{timings['prefill_seconds']:.1f} s; memory: recurrent state {client.size(memory['state_bytes'])}, the same at any "
                  f"length; keys and values {client.size(memory['kv_bytes'])}]\n")
    if options.repeat > 1:
        print(f"{right} of {options.repeat} found ({100 * right / options.repeat:.0f} %)")
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="needle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=2000, help="length, counted with punctuation marks; about the tokens")
    parser.add_argument("--distance", type=int, help="words between the needle and the question (default: any)")
    parser.add_argument("--day", action="store_true", help="a day of the world instead of a ledger")
    parser.add_argument("--repeat", type=int, default=1, help="so many documents")
    parser.add_argument("--seed", type=int, help="the same document again (default: a new one)")
    parser.add_argument("--auto", action="store_true", help="accepted for uniformity: it never asks the user")
    client.add_options(parser, 48)
    return client.main(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
