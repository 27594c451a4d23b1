"""Words to say again, and pairs and rows of words to find again: any word may stand anywhere, so nothing but looking back helps."""
from . import words as W
from .chats import Chat, log_uniform
from .narrator import pieces

# Every word has a space before it wherever it stands: the tokenizer sees one word as one word.
REPEAT = ["Repeat: {x}.", "Please say after me: {x}.", "Say this again: {x}.", "Write this once more: {x}."]
OPENINGS = ["Here are some pairs.", "Remember what belongs together.", "", ""]
PAIRS = [("Beside {k} stands {v}.", "What stands beside {k}?"), ("To {k} belongs {v}.", "What belongs to {k}?"),
         ("With {k} goes {v}.", "What goes with {k}?"), ("After {k} comes {v}.", "What comes after {k}?")]
ROWS = ["Here is a row of words: {x}.", "Look at this row: {x}.", "The words are {x}."]
_LISTS = (W.GIRLS, W.BOYS, W.ANIMALS, W.PLACES, W.THINGS, W.CONTAINERS, W.COLOURS, W.MOODS, W.JOBS, W.FOODS, W.NUMBERS, W.PASSWORDS,
          W.CITIES)
WORDS = tuple(dict.fromkeys(word for words in _LISTS for word in words if " " not in word))


def _choose(rng, options):
    return options[int(rng.random() * len(options))]


def _word(rng):
    return _choose(rng, WORDS) if rng.random() < 0.85 else str(int(10 ** (1 + 3 * rng.random())))


def _different(rng, count):
    found = {}
    while len(found) < count:
        found[_word(rng)] = None
    return list(found)


def _question(text, answer, word):
    return {"text": text, "type": "echo", "answer": answer, "accept": [answer, word], "distance": None}


def _repeat(rng, longest):
    text = (", " if rng.random() < 0.5 else " ").join(_word(rng) for _ in range(int(log_uniform(rng, 2, longest))))
    return "", [_question(_choose(rng, REPEAT).format(x=text), f"You said: {text}.", text)]


def _pairs(rng, longest):
    """Some keys come twice: the later value counts."""
    count = max(2, int(log_uniform(rng, 2, longest / 5)))
    keys, values, lines = _different(rng, count), {}, [_choose(rng, OPENINGS)]
    told, asked = _choose(rng, PAIRS)
    for key in keys + [_choose(rng, keys) for _ in range(count) if rng.random() < 0.2]:
        values[key] = _word(rng)
        lines.append(told.format(k=key, v=values[key]))
    chosen = rng.sample(keys, min(count, 1 + int(rng.random() * 5)))
    return " ".join(lines).strip(), [_question(asked.format(k=k), told.format(k=k, v=values[k]), values[k]) for k in chosen]


def _row(rng, longest):
    row = _different(rng, max(3, int(log_uniform(rng, 3, longest))))
    questions = []
    for i in rng.sample(range(len(row) - 1), min(len(row) - 1, 1 + int(rng.random() * 4))):
        a, b = row[i], row[i + 1]
        if rng.random() < 0.7:
            questions.append(_question(f"What comes after {a}?", f"After {a} comes {b}.", b))
        else:
            questions.append(_question(f"What comes before {b}?", f"Before {b} comes {a}.", a))
    return _choose(rng, ROWS).format(x=" ".join(row)), questions


def echo(rng, words, accept=False, log=False):
    chat, position, done = Chat("echo"), 0, []
    while position < words:
        make = _choose(rng, (_repeat, _pairs, _pairs, _row))
        text, questions = make(rng, min(60, max(8, words / 2)))
        for question in questions:
            chat.ask(question, text)
            position += pieces(text) + pieces(question["text"]) + pieces(question["answer"])
            text = ""
        done.append(make.__name__[1:])
    return chat.document(accept, words=position, **({"log": done} if log else {}))
