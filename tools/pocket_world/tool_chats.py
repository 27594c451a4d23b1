"""Tool calls in the Qwen Instruct format: a calculator and a notebook."""
from . import words as W
from .chats import Chat

CALCULATOR = {"type": "function", "function": {
    "name": "calculator", "description": "Computes an expression.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}
NOTEBOOK_WRITE = {"type": "function", "function": {
    "name": "write_note", "description": "Writes a note.",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}, "text": {"type": "string"}},
                   "required": ["key", "text"]}}}
NOTEBOOK_READ = {"type": "function", "function": {
    "name": "read_note", "description": "Reads a note.",
    "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}}}

ASK = ["What is {x}?", "How much is {x}?", "Calculate {x}.", "Please compute {x}."]
WRITE = ["Please note: {k} is {v}.", "Write down that {k} is {v}.", "Remember in the notebook: {k} is {v}."]
READ = ["What does the notebook say about {k}?", "Look up {k}.", "Please read the note on {k}."]
SUBJECTS = [f"the {thing}" for thing in W.words("meeting party dinner lesson concert race trip match show exam visit picnic parade")]
DAYS = W.words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def run(name, arguments, notes):
    """What a tool answers; `notes` is the notebook."""
    if name == "calculator":
        left, operation, right = arguments["expression"].split()
        a, b = int(left), int(right)
        return str({"+": a + b, "-": a - b, "*": a * b}[operation])
    if name == "write_note":
        notes[arguments["key"]] = arguments["text"]
        return "saved"
    if name == "read_note":
        return notes.get(arguments["key"], "no such note")
    raise KeyError(name)


def call(chat, name, arguments, notes):
    chat.questions.append({"message": len(chat.messages), "type": "tool_call", "answer": name, "accept": [name],
                           "call": {"name": name, "arguments": arguments}, "distance": None})
    chat.add("assistant", "", tool_calls=[{"type": "function", "function": {"name": name, "arguments": arguments}}])
    result = run(name, arguments, notes)
    chat.add("tool", result)
    return result


def final(chat, answer, others=()):
    chat.questions.append({"message": len(chat.messages), "type": "tool_answer", "answer": answer,
                           "accept": [answer, *others], "distance": None})
    chat.add("assistant", answer)


def tools(rng, words, accept=False, log=False):
    chat = Chat("tools")
    chat.tools = [CALCULATOR, NOTEBOOK_WRITE, NOTEBOOK_READ]
    r, notes = rng.random, {}
    for _ in range(max(1, min(30, int(words / 70)))):
        kind = r()
        if kind < 0.5:
            a, b, operation = int(r() * 10000), int(r() * 1000), "+-*"[int(r() * 3)]
            if operation == "-" and b > a:
                a, b = b, a
            expression = f"{a} {operation} {b}"
            chat.add("user", ASK[int(r() * len(ASK))].format(x=expression))
            result = call(chat, "calculator", {"expression": expression}, notes)
            final(chat, f"{expression} = {result}.", [result])
        elif kind < 0.75 or not notes:
            key = SUBJECTS[int(r() * len(SUBJECTS))]
            text = f"on {DAYS[int(r() * 7)]}"
            chat.add("user", WRITE[int(r() * len(WRITE))].format(k=key, v=text))
            call(chat, "write_note", {"key": key, "text": text}, notes)
            final(chat, f"I have noted that {key} is {text}.")
        else:
            keys = list(notes) if r() < 0.8 else SUBJECTS
            key = keys[int(r() * len(keys))]
            chat.add("user", READ[int(r() * len(READ))].format(k=key))
            result = call(chat, "read_note", {"key": key}, notes)
            if key in notes:
                final(chat, W.capital(f"{key} is {result}."), [result])
            else:
                final(chat, "I do not know.")
    return chat.document(accept)
