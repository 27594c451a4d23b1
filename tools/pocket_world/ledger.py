"""Ledgers: keys and values, where the last value counts."""
import math

from . import filler, forms
from . import words as W
from .chats import Chat, log_uniform
from .narrator import pieces

ENTRIES = {
    "set": [
        "{k} is {v}.", "{k} is {v}.", "Note: {k} is {v}.", "Remember that {k} is {v}.", "Write down that {k} is {v}.",
        "For the record, {k} is {v}.", "We agreed that {k} is {v}.", "In the ledger, {k} is {v}.",
    ],
    "update": [
        "{k} is now {v}.", "{k} has changed to {v}.", "From today {k} is {v}.", "Correction: {k} is {v}.",
        "{k} was changed and is now {v}.", "The new value: {k} is {v}.", "Please note that {k} is now {v}.",
    ],
}
ASK = ["What is {k}?", "What is {k}?", "What is {k} now?", "Tell me {k}.", "Do you remember {k}?", "I need {k}."]
OPENINGS = ["Here is a ledger. ", "Please remember these entries. ", "This is my list. ", "Keep this in mind. ", "", ""]


class Ledger:
    def __init__(self, rng, words):
        self.random = rng.random
        self.values, self.changed, self.position, self.log = {}, {}, 0, []
        self.used = set()
        count = max(2, min(int(words / 18 * (0.4 + 0.6 * rng.random())), 6000))
        self.keys = [self._new_key() for _ in range(count)]
        self.order = []

    def _new_key(self):
        r = self.random
        owner = W.LEDGER_OWNERS[int(r() * len(W.LEDGER_OWNERS))]
        kind = r()
        if kind < 0.6:
            field = ("code", "code", "number", "price")[int(r() * 4)]
            return f"the {field} of the {W.COLOURS[int(r() * len(W.COLOURS))]} {owner}"
        if kind < 0.75:
            return f"the password of the {W.COLOURS[int(r() * len(W.COLOURS))]} {owner}"
        names = W.GIRLS + W.BOYS
        return f"the {('number', 'city', 'password', 'code')[int(r() * 4)]} of {names[int(r() * len(names))]}"

    def _value(self, key):
        r = self.random
        if " password " in key:
            return W.PASSWORDS[int(r() * len(W.PASSWORDS))]
        if " city " in key:
            return W.CITIES[int(r() * len(W.CITIES))]
        return str(int(10 + r() * 90)) if " price " in key else str(int(1000 + r() * 9000))

    def entry(self, update=0.2):
        """The next line."""
        if self.order and self.random() < update:
            key = self.order[int(self.random() * len(self.order))]
        else:
            key = self.keys[int(self.random() * len(self.keys))]
        known = key in self.values
        old, value = self.values.get(key), self._value(key)
        while value == old:
            value = self._value(key)
        options = ENTRIES["update" if known else "set"]
        form = options[int(self.random() * (len(options) if self.random() < 0.3 else 2))]
        self.used.add(form)
        text = W.capital(form.format(k=key, v=value))
        self.position += pieces(text)
        if not known:
            self.order.append(key)
        self.values[key], self.changed[key] = value, self.position
        self.log.append((key, value))
        return text

    def question(self, distance=None, exact=False, unknown=0.08, without=()):
        if self.random() < unknown and not exact:
            key = self._new_key()
            if key not in self.values:
                return self._ask(key, forms.UNKNOWN, ["I don't know."], None)
        distance = distance or math.exp(self.random() * math.log(max(self.position, 10)))
        sample = [k for k in self.order if k not in without] if exact else [self.order[int(self.random() * len(self.order))] for _ in range(8)]
        key = min(sample, key=lambda k: abs(math.log(max(self.position - self.changed[k], 1) / distance)))
        value = self.values[key]
        return self._ask(key, W.capital(f"{key} is {value}."), [value, f"it is {value}"], self.position - self.changed[key])

    def recital(self, most=8):
        """A question for all entries, in the order in which their keys came. None when that is too much."""
        if not 2 <= len(self.order) <= most:
            return None
        answer = " ".join(W.capital(f"{key} is {self.values[key]}.") for key in self.order)
        return {"text": filler.READ_OUT[int(self.random() * len(filler.READ_OUT))], "type": "recital", "answer": answer,
                "accept": [answer], "distance": None, "subject": None}

    def _ask(self, key, answer, others, distance):
        form = ASK[int(self.random() * len(ASK))]
        self.used.add(form)
        return {"text": form.format(k=key), "type": "ledger", "answer": answer, "accept": [answer, *others],
                "distance": distance, "subject": key}


def ledger(rng, words, accept=False, log=False):
    chat = Chat("ledger")
    book = Ledger(rng, words)
    longest = 6 if words < 200 else 20 if words < 1500 else 100
    first = OPENINGS[int(rng.random() * len(OPENINGS))]
    separator = " " if rng.random() < 0.5 else "\n"
    while book.position < words:
        text = first + separator.join([book.entry() for _ in range(int(log_uniform(rng, 2, longest)))])
        first = ""
        for _ in range(1 + int(rng.random() * 4)):
            question = book.question()
            chat.ask(question, text)
            book.position += pieces(question["text"]) + pieces(question["answer"])
            text = ""
        question = book.recital() if rng.random() < 0.3 else None
        if question:
            chat.ask(question, text)
            book.position += pieces(question["text"]) + pieces(question["answer"])
    return chat.document(accept, words=book.position, **({"log": book.log} if log else {}))


def needle(rng, words, distance=None, accept=True, count=1):
    """A long ledger and `count` questions at its end."""
    chat = Chat("needle")
    book = Ledger(rng, words)
    lines = []
    while book.position < words:
        lines.append(book.entry(update=0.1))
    told = "\n".join(lines) + "\n\n"
    asked = set()
    for i in range(count):
        question = book.question(distance or max(10, rng.random() * book.position * 0.98), exact=True, without=asked)
        asked.add(question["subject"])
        chat.ask(question, told if i == 0 else "")
        book.position += pieces(question["text"]) + pieces(question["answer"])
        if len(asked) == len(book.order):
            break
    return chat.document(accept, words=book.position)
