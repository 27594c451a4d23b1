#!/usr/bin/env python3
"""A story of the pocket world, questions about it, and yours. The simulator knows the right answers.

    ./run tell                        a story, five questions, then ask your own
    ./run tell --auto --words 500     no questions of yours; prints the accuracy and ends
"""
import argparse
import os
import random
import sys
import textwrap

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "pocket_world"

from . import client, parsing, questions  # noqa: E402
from .chats import paragraphs, settle  # noqa: E402
from .story import Story  # noqa: E402

HELP = """Ask where someone or something is, who has it, what colour it is, whether it is open, ...
  more     the story goes on          new      another story          quit     leave (as does Ctrl-D)"""


class Score:
    def __init__(self):
        self.right = self.asked = 0

    def add(self, right):
        self.right += right
        self.asked += 1

    def __str__(self):
        share = f" ({100 * self.right / self.asked:.0f} %)" if self.asked else ""
        return f"{self.right} of {self.asked} answers right{share}"


class Session:
    def __init__(self, model, rng, words, score):
        self.model, self.score = model, score
        self.story = Story(rng, words)
        self.untold, self.anew = "", True

    def tell(self, sentences):
        text = paragraphs(self.story, sentences)
        self.untold = f"{self.untold} {text}".strip()
        for paragraph in text.split("\n"):
            print(textwrap.fill(paragraph, 100))
        print()

    def answer(self, text):
        """The model's answer; what of the story it has not heard goes with the question, as in its training text."""
        content = f"{self.untold} {text}".strip()
        self.untold = ""
        if self.anew:
            self.anew = False
            return self.model.start([{"role": "user", "content": content}])["text"].strip()
        return self.model.ask(content)["text"].strip()

    def check(self, text, question, expected, accept):
        reply = self.answer(text)
        right = questions.matches(reply, accept)
        self.score.add(right)
        print(f"> {question}\n{reply}   [{'right' if right else 'wrong: ' + expected}]")

    def quiz(self, count):
        for _ in range(count):
            question = self.story.question()
            if question is None:
                return
            self.check(question["text"], question["text"], question["answer"], question["accept"])
            settle(self.story, question)

    def own(self, text):
        """A question of the user: checked where the simulator understands it."""
        understood = parsing.parse(text)
        if understood is None:
            print(f"{self.answer(text)}   [the simulator cannot check that]")
            return
        expected, others = questions.answer(self.story.world, *understood)
        reply = self.answer(text)
        right = questions.matches(reply, [expected, *others])
        self.score.add(right)
        print(f"{reply}   [{'right' if right else 'wrong: ' + expected}]")


def run(options):
    rng = random.Random(options.seed if options.seed is not None else None)
    score = Score()
    with client.from_options(options) as model:
        while True:
            session = Session(model, rng, options.words, score)
            while session.story.position < options.words:
                session.tell(min(20, 2 + options.words // 10))
            session.quiz(options.questions)
            if options.auto:
                print(score)
                return 0
            print(f"\n{HELP}")
            while True:
                print("> ", end="", flush=True)
                line = sys.stdin.readline()
                text = line.strip()
                if not line or text in ("quit", "exit", "/exit"):
                    print(f"\n{score}")
                    return 0
                if text == "new":
                    break
                if text == "more":
                    session.tell(8)
                    session.quiz(2)
                elif text:
                    session.own(text)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="tell", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=120, help="length of the story")
    parser.add_argument("--questions", type=int, default=5)
    parser.add_argument("--seed", type=int, help="the same story again (default: a new one)")
    parser.add_argument("--auto", action="store_true", help="ask nothing of the user")
    client.add_options(parser, 48)
    return client.main(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
