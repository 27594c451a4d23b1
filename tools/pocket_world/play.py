#!/usr/bin/env python3
"""A text adventure: you command, the model plays the world, and the simulator says whether it was right.

    ./run play                        you play (help: the commands)
    ./run play --auto --commands 30   plays by itself and prints the model's accuracy
"""
import argparse
import os
import random
import sys

if __package__ in (None, ""):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "pocket_world"

from . import adventure, client  # noqa: E402

HELP = """look, go north (south, east, west, up, down), inventory, take X, drop X, put X in Y, open Y, close Y, look in Y,
give X to SOMEONE, ask SOMEONE for X, light X, put out X; new: another world; quit: leave"""


def commands(options, game):
    """Where commands come from: the player, or the game itself."""
    if options.auto:
        for _ in range(options.commands):
            yield game.random_command()
        return
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in ("quit", "exit", "/exit"):
            return
        if line.strip() == "help":
            print(HELP)
        elif line.strip():
            yield line.strip()


def run(options):
    rng = random.Random(options.seed if options.seed is not None else None)
    right = total = 0
    with client.from_options(options) as model:
        while True:
            game = adventure.Game(rng, options.places)
            introduction, expected = game.introduction(), game.description()
            print(introduction[: -len("\nlook")] + "\n")
            reply = model.start([{"role": "user", "content": introduction}])["text"].strip()
            again = False
            command = None
            source = commands(options, game)
            while True:
                same = adventure.same_reply(reply, expected)
                right, total = right + same, total + 1
                if options.auto and command is not None:
                    print(f"> {command}")
                print(reply if same else f"{reply}\n    [the simulator says: {expected}]")
                command = next(source, None)
                if command is None or command == "new":
                    again = command == "new"
                    break
                expected = game.reply(command)
                reply = model.ask(command)["text"].strip()
            if not again:
                break
    print(f"\nthe model was right {right} of {total} times ({100 * right / total:.0f} %)")
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="play", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=3, choices=range(2, 9), metavar="2..8", help="size of the world")
    parser.add_argument("--commands", type=int, default=20, help="with --auto")
    parser.add_argument("--seed", type=int, help="the same world again (default: a new one)")
    parser.add_argument("--auto", action="store_true", help="ask nothing of the user")
    client.add_options(parser, 96)
    return client.main(run, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
