#!/usr/bin/env python3
"""The pocket world: its state, its text read again by an independent reader, and the counts it promises.

    tests/pocket_world/pocket_world_test.py [-k PATTERN]
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(pathlib.Path(__file__).resolve().parent)]
import oracle  # noqa: E402
from pocket_world import adventure, arithmetic, chats, evaluate, filler, generate, glossary, ledger, parsing, questions, stats, tool_chats  # noqa: E402
from pocket_world.story import Story  # noqa: E402
from pocket_world.world import World, WorldError  # noqa: E402

HAS_WORDNET = os.path.exists(os.path.join(glossary.DIRECTORY, "data.noun"))


class WorldState(unittest.TestCase):
    def test_a_thing_is_in_one_place_whatever_happens(self):
        for seed in range(40):
            story = Story(random.Random(seed), 40 << (seed % 6))
            while story.position < story.length:
                story.tell(1)
                story.world.check()

    def test_check_notices(self):
        world = World()
        world.apply({"kind": "person_at", "a": "Ann", "p": "hall"}, 1)
        world.apply({"kind": "thing_with", "a": "Ann", "t": "ball"}, 2)
        world.check()
        world.facts["where", "ball"] = ("at", "hall")
        self.assertRaises(WorldError, world.check)
        world.facts["where", "ball"] = ("with", "Ann")
        world.inside["in", "box"] = ["ball"]
        self.assertRaises(WorldError, world.check)

    def test_what_cannot_happen(self):
        world = World()
        for person, place in (("Ann", "hall"), ("Bob", "attic")):
            world.apply({"kind": "person_at", "a": person, "p": place}, 1)
        world.apply({"kind": "container_at", "c": "box", "p": "hall"}, 1)
        world.apply({"kind": "thing_by", "t": "key", "r": "in", "c": "box"}, 1)
        world.apply({"kind": "thing_with", "a": "Ann", "t": "ball"}, 1)
        impossible = [
            {"kind": "take", "a": "Bob", "t": "key"}, {"kind": "take", "a": "Bob", "t": "ball"}, {"kind": "give", "a": "Bob", "b": "Ann", "t": "ball"},
            {"kind": "steal", "a": "Bob", "b": "Ann", "t": "key"}, {"kind": "find", "a": "Bob", "t": "ball"},
            {"kind": "drop", "a": "Ann", "t": "key", "p": "hall"}, {"kind": "put", "a": "Ann", "t": "key", "r": "in", "c": "box"},
            {"kind": "go_with", "a": "Ann", "t": "key", "p": "attic"}, {"kind": "fly", "a": "Ann", "t": "ball"}]
        for event in impossible:
            with self.subTest(event=event):
                before = dict(world.facts)
                self.assertRaises(WorldError, world.apply, event, 2)
                self.assertEqual(world.facts, before)
        world.apply({"kind": "close", "a": "Ann", "t": "box"}, 2)
        self.assertRaises(WorldError, world.apply, {"kind": "take_from", "a": "Ann", "t": "key", "c": "box"}, 3)
        world.apply({"kind": "open", "a": "Ann", "t": "box"}, 4)
        world.apply({"kind": "take_from", "a": "Ann", "t": "key", "c": "box"}, 5)
        self.assertEqual(world.held["Ann"], ["ball", "key"])


class TextAgainstReader(unittest.TestCase):
    """Every answer is derived again from the text alone."""

    def read_story(self, document, told_by):
        reader, asked = oracle.Reader(), {q["message"]: q for q in document["meta"]["questions"]}
        kinds = []
        for index, message in enumerate(document["messages"]):
            text = message["content"]
            if message["role"] == "assistant":
                if index in asked:
                    reader.position += oracle.pieces(text)
                elif told_by == "assistant" and index and text != "I see." and text not in filler.ENDINGS:
                    for sentence in oracle.sentences(text):
                        reader.read(sentence)
                continue
            for start in filler.LISTEN:
                if start and text.startswith(start):
                    text = text[len(start):]
            parts = oracle.sentences(text)
            if index + 1 in asked:
                question = asked[index + 1]
                *story, line = parts
                for sentence in story:
                    reader.read(sentence)
                if line in filler.RECITE:
                    known = [reader.answer("where_thing", key[1], None) for key in reader.history
                             if key[0] == "where" and reader.now(key) is not None]
                    self.assertEqual(question["answer"], " ".join(known))
                    reader.position += oracle.pieces(line)
                    kinds.append("recital")
                    continue
                parsed = parsing.parse(line)
                self.assertIsNotNone(parsed, line)
                kind, subject, extra = parsed
                if kind in ("where_thing", "where_person", "before_thing", "before_person", "room"):
                    kind = question["type"]  # "where is the fox" and "where is the box" look the same
                self.assertEqual(kind, question["type"], line)
                self.assertEqual(reader.answer(kind, subject, extra, " or " in line), question["answer"], line)
                self.assertEqual(document["messages"][index + 1]["content"], question["answer"])
                if kind in ("where_thing", "where_person", "colour", "mood", "job", "likes", "age", *questions.STATE_TYPES):
                    key = ("where", subject) if kind.startswith("where") else (kind, subject)
                    self.assertEqual(question["distance"], reader.since(key), line)
                reader.position += oracle.pieces(line)
                kinds.append(kind)
            elif told_by == "user":
                for sentence in parts:
                    reader.read(sentence)
        return kinds

    def test_stories(self):
        kinds = {}
        for index in range(260):
            kind = "quiz" if index % 4 == 3 else "story"
            document = generate.document(kind, "oracle", index, 60, 3000 if index % 10 == 0 else 400, accept=True)
            first = document["messages"][0]["content"]
            titles = [re.escape(t).replace(r"\{x\}", ".*") for t in filler.TITLES]
            told = any(re.fullmatch(t, first) for t in titles)
            for kind in self.read_story(document, "assistant" if told else "user"):
                kinds[kind] = kinds.get(kind, 0) + 1
        self.assertGreater(sum(kinds.values()), 1500)
        expected = set(questions.STATE_TYPES) | {k for k in ("where_thing", "where_person", "who_has", "room", "contents", "belongings",
                                                            "count", "before_thing", "before_person", "has", "is_at", "is_there",
                                                            "colour", "mood", "job", "likes", "age", "recital")}
        self.assertLessEqual(set(kinds), expected)
        self.assertLessEqual(expected - {"is_lit", "is_full"}, set(kinds))  # lamps and jugs are rare

    def test_a_reader_notices_a_wrong_answer(self):
        document = generate.document("story", "oracle", 0, 100, 200, accept=True)
        for question in document["meta"]["questions"]:
            question["answer"] = "The moon is in the box."
            document["messages"][question["message"]]["content"] = question["answer"]
        with self.assertRaises(AssertionError):
            self.read_story(document, "user")
            self.read_story(document, "assistant")

    def test_days(self):
        asked = 0
        for index in range(12):
            document = generate.evaluation("oracle", index, (200, 2000))
            if document["meta"]["questions"][0]["type"] == "ledger":
                continue
            asked += len(self.read_story(document, "user"))
        self.assertGreater(asked, 10)

    def test_echoes(self):
        pairs = re.compile(r"(Beside|To|With|After) (\S+) (?:stands|belongs|goes|comes) (\S+)\.")
        row = re.compile(r"(?:Here is a row of words|Look at this row|The words are):? ((?:\S+ )+\S+)\. What")
        asked = 0
        for index in range(120):
            document = generate.document("echo", "oracle", index, 20, 300)
            told, neighbours = {}, {}
            for turn, reply in zip(document["messages"][::2], document["messages"][1::2]):
                text, answer = turn["content"], reply["content"]
                asked += 1
                if again := re.fullmatch(r"(?:Repeat|Please say after me|Say this again|Write this once more): (.*)\.", text):
                    self.assertEqual(answer, f"You said: {again[1]}.")
                    continue
                if found := row.match(text):
                    words = found[1].split()
                    told, neighbours = dict(zip(words, words[1:])), dict(zip(words[1:], words))
                elif found := pairs.findall(text):
                    told = {key: value for _, key, value in found}
                verb, key = re.search(r"What (stands beside|belongs to|goes with|comes after|comes before) (\S+)\?$", text).groups()
                value = neighbours[key] if verb == "comes before" else told[key]
                self.assertEqual(put_together(answer), (key, value), text)
        self.assertGreater(asked, 400)

    def test_ledgers(self):
        asked = recitals = 0
        for index in range(80):
            values, names = {}, {}
            document = generate.document("ledger", "oracle", index, 40, 800)
            for number, message in enumerate(document["messages"]):
                if message["role"] == "assistant":
                    continue
                for sentence in oracle.sentences(message["content"]):
                    match = re.search(r"(the (?:\w+) of (?:the \w+ \w+|[A-Z]\w+)) .*?([A-Z]?\w+)\.$", sentence, re.IGNORECASE)
                    if match and not sentence.startswith(("Tell", "I need")):
                        values[match[1].lower()] = match[2]
                        names[match[1][0].lower() + match[1][1:]] = match[2]
                        continue
                    match = re.search(r"(the \w+ of (?:the \w+ \w+?|[A-Z]\w+?))( now)?[.?]$", sentence, re.IGNORECASE)
                    if match:
                        values["asked"] = match[1]
                    if sentence in filler.READ_OUT:
                        values["asked"] = sentence
                question = values.pop("asked")
                answer = document["messages"][number + 1]["content"]
                if question in filler.READ_OUT:
                    self.assertEqual(answer, " ".join(f"{key[0].upper()}{key[1:]} is {value}." for key, value in names.items()))
                    recitals += 1
                    continue
                value = values.get(question.lower())
                self.assertEqual(answer, "I do not know." if value is None else f"{question[0].upper()}{question[1:]} is {value}.")
                asked += 1
        self.assertGreater(asked, 500)
        self.assertGreater(recitals, 10)

    def test_adventures(self):
        played = 0
        for index in range(150):
            document = generate.document("adventure", "oracle", index, 100, 900)
            messages = document["messages"]
            spec, _, command = messages[0]["content"].rpartition("\n")
            player = oracle.Player(spec)
            for i in range(0, len(messages), 2):
                expected = player.do(command if i == 0 else messages[i]["content"])
                self.assertTrue(adventure.same_reply(messages[i + 1]["content"], expected),
                                f"{messages[i]['content']}: {messages[i + 1]['content']} / {expected}")
                played += 1
        self.assertGreater(played, 2000)

    def test_arithmetic(self):
        for index in range(150):
            document = generate.document("arithmetic", "oracle", index, 60, 300, accept=True)
            for question in document["meta"]["questions"]:
                a, operation, b = re.fullmatch(r"(\d+) ([-+*]) (\d+)", question["expression"]).groups()
                value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operation]
                text = document["messages"][question["message"]]["content"]
                thinking, answer = re.fullmatch(r"<think>\n(.*)\n</think>\n\n(.*)", text, re.DOTALL).groups()
                self.assertEqual(int(re.findall(r"\d+", answer.split("=")[-1])[0]), value)
                for left, right in re.findall(r"([\d +*-]+) = (\d+)", thinking):
                    total = sum(eval_product(term) for term in re.sub(r" - ", " + -", left).split("+"))
                    self.assertEqual(total, int(right), thinking)
                written = re.findall(r"write (\d+)", thinking)
                if written:  # the digits as they were written, last first
                    self.assertEqual("".join(reversed(written)).lstrip("0") or "0", str(value))
                self.assertTrue(questions.matches(text, question["accept"]))
                self.assertTrue(questions.matches(str(value), question["accept"]))
                self.assertFalse(questions.matches(str(value + 1), question["accept"]))

    def test_tools(self):
        calls = 0
        for index in range(100):
            document = generate.document("tools", "oracle", index, 60, 600)
            names = {t["function"]["name"] for t in document["tools"]}
            notes, messages = {}, document["messages"]
            for i, message in enumerate(messages):
                for call in message.get("tool_calls", ()):
                    calls += 1
                    name, arguments = call["function"]["name"], call["function"]["arguments"]
                    self.assertIn(name, names)
                    said, result, answer = messages[i - 1]["content"], messages[i + 1], messages[i + 2]["content"]
                    self.assertEqual(result["role"], "tool")
                    if name == "calculator":
                        self.assertIn(arguments["expression"], said)
                        self.assertEqual(int(result["content"]), int(eval_product_or_sum(arguments["expression"])))
                        self.assertEqual(answer, f"{arguments['expression']} = {result['content']}.")
                    elif name == "write_note":
                        self.assertIn(arguments["key"], said)
                        notes[arguments["key"]] = arguments["text"]
                    else:
                        self.assertEqual(result["content"], notes.get(arguments["key"], "no such note"))
                        self.assertIn(notes.get(arguments["key"], "I do not know."), answer)
        self.assertGreater(calls, 200)


def put_together(answer):
    """The two words that a sentence of an echo puts together, in its order."""
    return re.fullmatch(r"(?:Beside|To|With|After|Before) (\S+) (?:stands|belongs|goes|comes) (\S+)\.", answer).groups()


def eval_product(term):
    value = 1
    for factor in term.split("*"):
        value *= int(factor)
    return value


def eval_product_or_sum(text):
    a, operation, b = text.split()
    return int(a) * int(b) if operation == "*" else int(a) + (int(b) if operation == "+" else -int(b))


class Sets(unittest.TestCase):
    def generate(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.jsonl"
            self.assertEqual(generate.main([*map(str, arguments), "--out", str(out)]), 0)
            return out.read_bytes()

    @unittest.skipUnless(HAS_WORDNET, "wordnet-base is not installed")
    def test_same_arguments_same_bytes(self):
        one = self.generate("--documents", 60, "--seed", 5, "--limit", 1500)
        self.assertEqual(one, self.generate("--documents", 60, "--seed", 5, "--limit", 1500, "--jobs", 2))
        self.assertNotEqual(one, self.generate("--documents", 60, "--seed", 6, "--limit", 1500))
        self.assertEqual({json.loads(line)["meta"]["kind"] for line in self.generate("--documents", 400, "--limit", 200).splitlines()},
                         {*generate.KINDS, "needle"})

    def test_a_process_elsewhere_makes_the_same(self):
        ours = json.dumps(generate.document("story", 3, 4, 100, 300))
        program = "import json; from pocket_world import generate; print(json.dumps(generate.document('story', 3, 4, 100, 300)))"
        theirs = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "tools", check=True, capture_output=True, text=True,
                                env={**os.environ, "PYTHONHASHSEED": "77"}).stdout
        self.assertEqual(ours, theirs.strip())

    def test_megabytes_and_lengths(self):
        text = self.generate("--kind", "ledger", "--megabytes", 0.05, "--words-min", 50, "--words-max", 60)
        self.assertGreaterEqual(len(text), 50000)
        self.assertLess(len(text), 55000)
        lengths = [json.loads(line)["meta"]["words"] for line in text.splitlines()]
        self.assertTrue(all(50 <= n < 250 for n in lengths), lengths)

    def test_conversations_alternate(self):
        for kind in ("story", "adventure", "ledger", "arithmetic"):
            for index in range(40):
                document = generate.document(kind, "turns", index, 50, 500)
                roles = [m["role"] for m in document["messages"]]
                self.assertEqual(roles, ["user", "assistant"] * (len(roles) // 2), kind)
                for question in document["meta"]["questions"]:
                    self.assertEqual(roles[question["message"]], "assistant")

    def test_distances_are_controlled(self):
        for index in range(30):
            document = generate.evaluation("d", index, (50, 200, 500, 1000, 8000))
            bucket = document["meta"]["bucket"]
            for question in document["meta"]["questions"]:
                self.assertLess(abs(question["distance"] - bucket), 0.32 * bucket + 12, document["meta"])
                self.assertIn(question["answer"], question["accept"])

    def test_bad_arguments(self):
        for arguments in (["--words-min", "5"], ["--words-min", "50", "--words-max", "40"], ["--jobs", "0"], ["--kind", "poem"]):
            done = subprocess.run([sys.executable, ROOT / "tools/pocket_world/generate.py", *arguments], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn("error:", done.stderr)
        done = subprocess.run([sys.executable, ROOT / "tools/pocket_world/generate.py", "--kind", "glossary", "--wordnet", "/nowhere"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("wordnet-base", done.stderr)

    def test_vocabulary_and_forms(self):
        counts = stats.collect(1000, glossary=HAS_WORDNET)
        self.assertGreaterEqual(counts["words"], 2500)
        self.assertGreaterEqual(counts["forms_without_scenery"], 400)
        if HAS_WORDNET:
            self.assertGreater(counts["words_with_glossary"], counts["words"] + 500)

    def test_long_documents_take_little_memory(self):
        program = ("import json, resource; from pocket_world import generate\n"
                   "for kind in ('day', 'ledger'):\n"
                   "    rng = generate.random.Random(kind)\n"
                   "    make = generate.chats.day if kind == 'day' else generate.ledger.needle\n"
                   "    document = make(rng, 262144, distance=100000)\n"
                   "    print(document['meta']['words'])\n"
                   "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n")
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "tools", check=True, capture_output=True, text=True, timeout=600)
        *words, kilobytes = map(int, done.stdout.split())
        self.assertTrue(all(262144 <= n < 270000 for n in words), words)
        self.assertLess(kilobytes, 200000)

    @unittest.skipUnless(HAS_WORDNET, "wordnet-base is not installed")
    def test_glossary(self):
        known = glossary.definitions()
        self.assertGreater(len(known), 400)
        for word, gloss in known.items():
            self.assertNotIn(word, gloss.split())
            self.assertRegex(gloss, r"^[\x20-\x7e]+$")
        document = generate.document("glossary", 1, 1, 100, 200)
        for question in document["meta"]["questions"]:
            self.assertTrue(question["answer"].endswith(known[question["word"]] + "."))


class Judging(unittest.TestCase):
    def test_short_forms(self):
        accept = ["The ball is in the box.", "in the box", "the box"]
        for reply in ("The ball is in the box.", "in the box", "The box", "box.", "<think>\nhm\n</think>\n\nThe ball is in the box."):
            self.assertTrue(questions.matches(reply, accept), reply)
        for reply in ("", "The ball is in the bag.", "The ball is not in the box.", "The ball is in the box. Or in the bag."):
            self.assertFalse(questions.matches(reply, accept), reply)

    def test_tool_calls(self):
        question = {"type": "tool_call", "answer": "calculator", "call": {"name": "calculator", "arguments": {"expression": "1 + 2"}}}
        good = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "1 + 2"}}\n</tool_call>'
        self.assertTrue(evaluate.judge(good, question))
        for reply in ("", "3", good.replace("2", "3"), good.replace("}}", "}"), good.replace("calculator", "read_note")):
            self.assertFalse(evaluate.judge(reply, question), reply)

    def test_adventure_lists_in_any_order(self):
        same = adventure.same_reply
        self.assertTrue(same("You see a lamp, a box and Ann. Exits: north, south.", "You see Ann, a box and a lamp. Exits: south, north."))
        self.assertFalse(same("You see a lamp and a box.", "You see a lamp."))
        self.assertFalse(same("You see a lamp. Exits: north.", "You see a lamp. Exits: south."))

    def test_every_accepted_form_is_accepted(self):
        for index in range(30):
            for question in generate.document("story", "accept", index, 60, 300, accept=True)["meta"]["questions"]:
                for form in question["accept"]:
                    self.assertTrue(questions.matches(form, question["accept"]))

    def test_summary(self):
        records = [{"type": "where_thing", "bucket": b, "right": r} for b, r in ((50, 1), (2000, 0), (2000, 1), (32000, 1), (None, 1))]
        records += [{"type": "ledger", "bucket": 50, "right": 0}, {"type": "adventure", "bucket": None, "right": 1}]
        summary = evaluate.summarise(records)
        self.assertEqual(summary["world"]["2000"], {"right": 1, "asked": 2, "accuracy": 0.5})
        self.assertEqual(summary["summary"]["world-state, at most 2,000 words"]["asked"], 3)
        self.assertEqual(summary["summary"]["world-state, 32,000 words"]["accuracy"], 1)
        self.assertEqual(summary["unknown"]["not told"]["asked"], 1)
        self.assertEqual(summary["ledger"]["50"]["right"], 0)
        self.assertEqual(summary["all"]["all"]["asked"], 7)


if __name__ == "__main__":
    unittest.main()
