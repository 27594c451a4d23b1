"""python3 -m pocket_world COMMAND: generate, stats, evaluate, tell, play or needle."""
import importlib
import sys

COMMANDS = ("generate", "stats", "evaluate", "tell", "play", "needle")


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    return importlib.import_module("." + sys.argv[1], __package__).main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
