#!/usr/bin/env python3
"""Asks a model every question of a set and prints its accuracy by distance and by type.

    generate.py --kind evaluate --documents 360 --seed 1 --buckets 50,200,500,1000,2000 --out set.jsonl
    evaluate.py --model DIR --set set.jsonl --json result.json

Any set of generate.py will do. What came before a question is always the text of the set, so that one wrong answer does not
lead to the next.
"""
import argparse
import collections
import json
import os
import re
import sys
import time

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "pocket_world"

from . import adventure, client, questions  # noqa: E402

BUCKETS = (50, 200, 500, 1000, 2000, 8000, 32000, 100000, 262144)
OTHER = ("recital", "adventure", "arithmetic", "tool_call", "tool_answer", "glossary")  # neither world-state nor ledger


def judge(reply, question):
    """Whether a reply answers a question of a set."""
    if question["type"] == "tool_call":
        match = re.search(r"<tool_call>\s*(\{.*\})\s*</tool_call>", reply, re.DOTALL)
        try:
            return bool(match) and json.loads(match[1]) == question["call"]
        except json.JSONDecodeError:
            return False
    if question["type"] == "adventure":
        return adventure.same_reply(reply, question["answer"])
    return questions.matches(reply, question.get("accept") or [question["answer"]])


def bucket_of(document, question):
    """The controlled distance of the set, or the smallest bucket that holds the question's distance."""
    if question["distance"] is None:
        return None
    if "bucket" in document["meta"]:
        return document["meta"]["bucket"]
    return next((b for b in BUCKETS if question["distance"] <= b), BUCKETS[-1])


def read_set(file):
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
                document["messages"], document["meta"]["questions"]  # noqa: B018
            except (json.JSONDecodeError, KeyError, TypeError):
                raise ValueError(f"{file}:{number}: expected a chat of generate.py with messages and meta.questions") from None
            yield document


def ask_all(model, documents, report=lambda *_: None):
    """Yields a record for each question."""
    for number, document in enumerate(documents):
        for question in document["meta"]["questions"]:
            reply = model.start(document["messages"][: question["message"]], document.get("tools"))
            record = {"document": number, "kind": document["meta"]["kind"], "type": question["type"],
                      "bucket": bucket_of(document, question), "distance": question["distance"],
                      "prompt_tokens": reply["prompt_tokens"], "answer": question["answer"], "reply": reply["text"],
                      "right": judge(reply["text"], question), "state_bytes": reply["memory"]["state_bytes"],
                      "kv_bytes": reply["memory"]["kv_bytes"]}
            report(record)
            yield record


def share(records):
    return sum(r["right"] for r in records) / len(records) if records else None


def summarise(records):
    """Accuracies: all, by type, by bucket, and those of world-state questions that the default model is held to."""
    groups = collections.defaultdict(list)
    for r in records:
        groups["all", "all"].append(r)
        groups["type", r["type"]].append(r)
        if r["bucket"] is not None and r["type"] not in OTHER:
            world = r["type"] != "ledger"
            groups["world" if world else "ledger", r["bucket"]].append(r)
            if world and r["bucket"] <= 2000:
                groups["summary", "world-state, at most 2,000 words"].append(r)
            if world and r["bucket"] == 32000:
                groups["summary", "world-state, 32,000 words"].append(r)
        elif r["type"] not in OTHER:
            groups["unknown", "not told"].append(r)
    out = {}
    for (table, key), members in groups.items():
        out.setdefault(table, {})[str(key)] = {"right": sum(r["right"] for r in members), "asked": len(members),
                                               "accuracy": share(members)}
    return out


def print_tables(summary):
    def row(name, cell):
        print(f"{name:36} {cell['right']:6} {cell['asked']:6} {100 * cell['accuracy']:7.1f} %")

    for table, title in (("world", "world-state, by distance in words"), ("ledger", "ledger, by distance in words"),
                         ("unknown", "what was not told"), ("type", "by type"), ("summary", "summary"), ("all", "all")):
        if table not in summary:
            continue
        print(f"{title:36}  right  asked  accuracy")
        cells = summary[table].items()
        for key, cell in sorted(cells, key=lambda kv: (int(kv[0]) if kv[0].isdigit() else 0, kv[0])):
            row("  " + (f"{int(key):,}" if key.isdigit() else key), cell)
        print()


def run(options):
    start, records = time.monotonic(), []

    def report(record):
        if options.verbose:
            print(f"{'ok   ' if record['right'] else 'WRONG'} {record['type']:14} {record['distance']} {record['answer']!r} "
                  f"{record['reply']!r}", file=sys.stderr)

    with client.from_options(options) as model:
        documents = read_set(options.set)
        for record in ask_all(model, documents, report):
            records.append(record)
            if options.limit and len(records) >= options.limit:
                break
    if not records:
        raise ValueError(f"{options.set}: no questions")
    summary = summarise(records)
    print_tables(summary)
    print(f"{len(records)} questions in {time.monotonic() - start:.0f} s")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"set": str(options.set), "summary": summary, "questions": records}, out, indent=1)
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, help="JSON lines of generate.py")
    parser.add_argument("--json", help="write the tables and every answer to this file")
    parser.add_argument("--limit", type=int, help="at most so many questions")
    parser.add_argument("--verbose", action="store_true", help="print every question's outcome")
    client.add_options(parser, 128)
    return client.main(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
