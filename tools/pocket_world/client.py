"""A conversation with `qnext run --chat --json`: one JSON request per line (docs/formats.md)."""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


class ModelError(Exception):
    """The program could not be started, ended, or refused a request."""


class Model:
    """A running model. Use as a context manager: the program ends with it."""

    def __init__(self, model=None, program=None, options=(), max_tokens=64, quiet=True):
        program = program or os.environ.get("QNEXT_PROGRAM") or ROOT / "build/release/bin/qnext"
        model = model or os.environ.get("QNEXT_MODEL")
        command = [str(program), "run", "--chat", "--json", *(["--model", str(model)] if model else []),
                   *(["--quiet"] if quiet else []), *options]
        self.max_tokens = max_tokens
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        except OSError as error:
            raise ModelError(f"{program}: {error.strerror}; build it with ./run --version") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()

    def request(self, on_piece=None, **request):
        """Sends one request; returns the reply. Raises ModelError where the reply is an error."""
        request = {"max_tokens": self.max_tokens, "temperature": 0, **request}
        if on_piece:
            request["stream"] = True
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ModelError("the program has ended") from None
        for line in self.process.stdout:
            reply = json.loads(line)
            if "piece" in reply:
                on_piece(reply["piece"])
            elif "error" in reply:
                raise ModelError(reply["error"])
            else:
                return reply
        raise ModelError("the program has ended")

    def ask(self, content, **more):
        """The next message of the user."""
        return self.request(content=content, **more)

    def start(self, messages, tools=None, **more):
        """A conversation anew, which ends with a message to answer."""
        return self.request(messages=messages, **({"tools": tools} if tools else {}), **more)


def add_options(parser, max_tokens=64):
    parser.add_argument("--model", help="a model directory or GGUF file (default: QNEXT_MODEL)")
    parser.add_argument("--program", help="the qnext program (default: QNEXT_PROGRAM, or the release build)")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, help="for qnext")
    parser.add_argument("--context", type=int, help="for qnext: most tokens of a conversation")


def from_options(options, quiet=True):
    more = []
    for name in ("threads", "context"):
        if getattr(options, name, None) is not None:
            more += [f"--{name}", str(getattr(options, name))]
    return Model(options.model, options.program, more, options.max_tokens, quiet)


def main(run, parser, arguments=None):
    """Runs a front-end; errors become one line."""
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (ModelError, OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print()
        return 130


def size(count):
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return None
