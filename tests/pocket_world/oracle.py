"""Reads the text of generated stories, adventures and ledgers as a reader would, and answers the questions in it.

It shares with the generator the sentence forms and the noun lists, and nothing else: no simulator, no state, no answers.
"""
import re

from pocket_world import adventure, filler, forms, words as W

PEOPLE, ANIMALS = set(W.GIRLS + W.BOYS), set(W.ANIMALS)
CONTAINERS, DOORS, PLACES = set(W.CONTAINERS), set(W.DOORS), W.PLACES
NOUNS = set(W.THINGS) | CONTAINERS | DOORS
SCENERY = set(filler.SCENERY)
PRONOUN = {**dict.fromkeys(W.GIRLS, "she"), **dict.fromkeys(W.BOYS, "he"), **dict.fromkeys(W.ANIMALS, "it")}
VALUES = {"colour": W.COLOURS, "paint": W.COLOURS, "mood": W.MOODS, "job": W.JOBS, "likes": W.FOODS, "age": W.NUMBERS}
STATE = {"open": ("is_open", "open"), "close": ("is_open", "closed"), "break": ("is_broken", "broken"),
         "repair": ("is_broken", "whole"), "light": ("is_lit", "on"), "put_out": ("is_lit", "off"), "fill": ("is_full", "full"),
         "empty": ("is_full", "empty"), "wash": ("is_dirty", "clean"), "soil": ("is_dirty", "dirty")}


class Unreadable(Exception):
    pass


def noun(text):
    """A thing, container or door without its article, or None."""
    text = re.sub(r"^(the|a|an) ", "", text.lower())
    last = text.split(" ", 1)[-1]
    return text if text in NOUNS or (" " in text and text.split(" ")[0] in W.MODIFIERS and last in NOUNS) else None


def being(text):
    if text in PEOPLE:
        return text
    text = re.sub(r"^(the|a|an) ", "", text.lower())
    return text if text in ANIMALS else None


def place(text):
    text = re.sub(r"^the ", "", text.lower())
    return text if text in PLACES else None


def place_with_preposition(text):
    match = re.fullmatch(r"(in|at|on) the (.+)", text.lower())
    return match[2] if match and PLACES.get(match[2]) == match[1] else None


FIELDS = {"a": being, "b": being, "t": noun, "nt": noun, "c": noun, "nc": noun, "p": place, "q": place, "ip": place_with_preposition,
          "iq": place_with_preposition, "r": lambda x: x.lower() if x.lower() in ("in", "on", "under", "behind") else None}
SHAPES = {"t": r"([Tt]he [\w ]+?)", "c": r"([Tt]he [\w ]+?)", "nt": r"([Aa]n? [\w ]+?)", "nc": r"([Aa]n? [\w ]+?)", "p": r"(the [\w ]+?)",
          "q": r"(the [\w ]+?)", "ip": r"((?:[Ii]n|[Aa]t|[Oo]n) the [\w ]+?)", "iq": r"((?:in|at|on) the [\w ]+?)", "v": r"(\w+(?: cream)?)",
          "r": "([Ii]n|[Oo]n|[Uu]nder|[Bb]ehind)", "a": r"([A-Z]\w+|[Tt]he \w+)", "b": r"([A-Z]\w+|[Tt]he \w+)"}
ASIDES = [f for f in filler.WITH_PEOPLE]


def compiled(form):
    """A form as a pattern, with numbered groups and the fields they stand for."""
    names = []

    def group(match):
        names.append(match[1])
        return SHAPES.get(match[1], r"([\w ]+?)")
    pattern = re.sub(r"\\\{(\w+)\\\}", group, re.escape(form))
    return re.compile(pattern), names, max(re.split(r"\{\w+\}", form), key=len).strip(" .")


PATTERNS = [(kind, False, *compiled(form)) for kind, options in forms.EVENTS.items() for form in options]
PATTERNS += [(kind, True, *compiled(form)) for kind, options in forms.PRONOUN_FORMS.items() for form in options]
ASIDE_PATTERNS = [compiled(form) for form in ASIDES]


def readings(sentence, last):
    """Every event that a sentence may tell, as (kind, fields)."""
    out = []
    for kind, pronoun, pattern, names, literal in PATTERNS:
        if literal.lower() not in sentence.lower():
            continue
        match = pattern.fullmatch(sentence) or pattern.fullmatch(sentence[0].lower() + sentence[1:])
        if not match:
            continue
        found = {}
        for name, text in zip(names, match.groups()):
            if name in ("s", "o", "h"):
                if pronoun and name == "s":
                    if last is None or PRONOUN[last] != text.lower():
                        break
                    found["a"] = last
                continue
            if name == "nv":
                name, text = "v", re.sub(r"^an? ", "", text)
            value = text if name == "v" else FIELDS[name](text)
            if value is None or (name == "v" and value not in VALUES[kind]):
                break
            key = {"nt": "t", "nc": "c", "ip": "p", "iq": "q"}.get(name, name)
            if found.setdefault(key, value) != value:
                break
        else:
            if kind == "container_at" and found["c"] not in CONTAINERS or kind == "door_at" and found["t"] not in DOORS:
                continue
            if kind in ("take_from", "put", "hide", "thing_by", "push") and found["c"] not in CONTAINERS:
                continue
            if kind == "thing_at" and found["t"] in CONTAINERS | DOORS:
                continue
            out.append((kind, found))
    return out


def pieces(text):
    return len(text.split()) + sum(text.count(mark) for mark in ".,?!:")


class Reader:
    """What a reader knows: the history of every fact, as (value, position)."""

    def __init__(self):
        self.history, self.position, self.last = {}, 0, None

    def _know(self, key, value):
        entries = self.history.setdefault(key, [])
        if not entries or entries[-1][0] != value:
            entries.append((value, self.position))
        else:
            entries[-1] = (value, self.position)

    def read(self, sentence):
        self.position += pieces(sentence)
        if sentence in SCENERY or any(sentence.startswith(o) for o in filler.OPENINGS):
            self.last = None
            return
        events = readings(sentence, self.last)
        if not events:
            if any(p.fullmatch(sentence) or p.fullmatch(sentence[0].lower() + sentence[1:]) for p, _, _ in ASIDE_PATTERNS):
                self.last = None
                return
            raise Unreadable(sentence)
        effects = {self._effect(kind, found) for kind, found in events}
        if len(effects) != 1:
            raise Unreadable(f"{sentence} may mean {events}")
        kind, found = events[0]
        self.last = None if "b" in found or kind == "steal" else found.get("a")
        key, value = effects.pop()
        self._know(key, value)

    @staticmethod
    def _effect(kind, e):
        if kind in STATE:
            prop, value = STATE[kind]
            return (prop, e["t"]), value
        if kind in VALUES:
            return ("colour" if kind == "paint" else kind, e["t"] if kind in ("colour", "paint") else e["a"]), e["v"]
        if kind in ("person_at", "go", "go_with"):
            return ("where", e["a"]), ("at", e["p"])
        if kind in ("container_at", "push"):
            return ("where", e["c"]), ("at", e["p"])
        if kind in ("thing_at", "door_at", "drop"):
            return ("where", e["t"]), ("at", e["p"])
        if kind in ("thing_by", "put", "hide"):
            return ("where", e["t"]), (e["r"], e["c"])
        if kind in ("thing_with", "take", "take_from", "find", "steal"):
            return ("where", e["t"]), ("with", e["a"])
        if kind == "give":
            return ("where", e["t"]), ("with", e["b"])
        if kind == "lose":
            return ("where", e["t"]), None
        raise Unreadable(kind)

    def now(self, key):
        entries = self.history.get(key)
        return entries[-1][0] if entries else None

    def since(self, key):
        """Words between the sentence that decided a fact and here."""
        entries = self.history.get(key)
        return None if not entries else self.position - entries[-1][1]

    # Answers, as the reader would give them.

    def holdings(self, value):
        """Things whose place is `value`, in the order in which they came there."""
        found = [(h[-1][1], key[1]) for key, h in self.history.items() if key[0] == "where" and h[-1][0] == value]
        return [thing for _, thing in sorted(found)]

    def place_of(self, entity):
        value = self.now(("where", entity))
        while value is not None and value[0] != "at":
            value = self.now(("where", value[1]))
        return value

    def answer(self, kind, subject, extra, alternatives=False):
        the = lambda x: x if x in PEOPLE else f"the {x}"
        up = lambda x: x[0].upper() + x[1:]
        spot = lambda v: f"{PLACES[v[1]]} the {v[1]}" if v[0] == "at" else f"{v[0]} the {v[1]}"
        unknown = "I do not know."
        series = lambda things: " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
        if kind in ("where_thing", "where_person", "who_has", "room"):
            value = self.place_of(subject) if kind == "room" else self.now(("where", subject))
            if value is None:
                return unknown
            if value[0] == "with":
                return up(f"{the(value[1])} has {the(subject)}.")
            return f"Nobody has the {subject}." if kind == "who_has" else up(f"{the(subject)} is {spot(value)}.")
        if kind.startswith("before"):
            entries = self.history.get(("where", subject), [])
            value = entries[-2][0] if len(entries) > 1 else None
            if value is None:
                return unknown
            if value[0] == "with":
                return f"Before that, {the(value[1])} had {the(subject)}."
            return f"Before that, {the(subject)} was {spot(value)}."
        if kind == "contents":
            things = self.holdings(subject)
            if not things:
                return f"Nothing is {spot(subject)}."
            return up(f"{series([the(t) for t in things])} {'is' if len(things) == 1 else 'are'} {spot(subject)}.")
        if kind == "belongings":
            things = self.holdings(("with", subject))
            return up(f"{the(subject)} has {series([the(t) for t in things]) if things else 'nothing'}.")
        if kind == "count":
            count = len(self.holdings(("with", subject)))
            return up(f"{the(subject)} has " + ("nothing." if not count else "one thing." if count == 1 else
                                                f"{W.NUMBERS[count]} things."))
        if kind == "has":
            value = self.now(("where", extra))
            if value is None:
                return unknown
            return f"Yes, {the(subject)} has the {extra}." if value == ("with", subject) else \
                f"No, {the(subject)} does not have the {extra}."
        if kind in ("is_at", "is_there"):
            value = self.now(("where", subject))
            if value is None:
                return unknown
            return f"Yes, {the(subject)} is {spot(extra)}." if value == extra else f"No, {the(subject)} is not {spot(extra)}."
        value = self.now((kind, subject))
        if value is None:
            return unknown
        if kind.startswith("is_"):
            yes = {"is_open": "open", "is_broken": "broken", "is_lit": "on", "is_full": "full", "is_dirty": "dirty"}[kind]
            return f"The {subject} is {value}." if alternatives else f"{'Yes' if value == yes else 'No'}, the {subject} is {value}."
        return {"colour": f"The {subject} is {value}.", "mood": up(f"{the(subject)} is {value}."),
                "job": f"{subject} is {'an' if value[0] in 'aeiou' else 'a'} {value}.", "likes": f"{subject} likes {value}.",
                "age": f"{subject} is {value} years old."}[kind]


def sentences(text):
    return [s for line in text.split("\n") for s in re.split(r"(?<=[.?!]) ", line.strip()) if s]


class Player:
    """A second referee of adventures, from the text of the world alone."""

    def __init__(self, spec):
        self.exits, self.where, self.open, self.people, self.lit = {}, {}, {}, [], {}
        self.order = []  # of what was named or dropped
        for s in sentences(spec):
            if s in adventure.OPENINGS or s.rstrip(".") + "." in adventure.OPENINGS or any(s in o for o in adventure.OPENINGS):
                continue
            if m := re.fullmatch(r"The ([\w ]+) is (north|south|east|west) of the ([\w ]+)\.", s):
                self._connect(m[3], m[2], m[1])
            elif m := re.fullmatch(r"From the ([\w ]+) you can go (up|down) to the ([\w ]+)\.", s):
                self._connect(m[1], m[2], m[3])
            elif m := re.fullmatch(r"You start (?:in|at|on) the ([\w ]+)\.", s):
                self.here = m[1]
            elif m := re.fullmatch(r"(?:The )?([\w ]+) is (in|at|on) the ([\w ]+?)(?: and is (open|closed))?\.", s):
                name, target = m[1], m[3]
                self.where[name] = target
                self.order.append(name)
                if name[0].isupper():
                    self.people.append(name)
                if m[4]:
                    self.open[name] = m[4] == "open"
                if name in W.LIGHTABLE:
                    self.lit[name] = False
            else:
                raise Unreadable(s)

    def _connect(self, a, way, b):
        back = dict(zip(("north", "south", "east", "west", "up", "down"), ("south", "north", "west", "east", "down", "up")))
        self.exits.setdefault(a, {})[way] = b
        self.exits.setdefault(b, {})[back[way]] = a

    def _near(self, name):
        spot = self.where.get(name)
        return spot in ("me", self.here) or (self.where.get(spot) == self.here and spot in CONTAINERS and self.open.get(spot, True))

    @staticmethod
    def _a(name):
        return name if name[0].isupper() else W.article(name)

    def _series(self, names):
        names = [self._a(n) for n in names]
        return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]

    def look(self):
        seen = [n for n in self.order if self.where[n] == self.here]
        seen = f" You see {self._series(seen)}." if seen else ""
        ways = ", ".join(sorted(self.exits.get(self.here, {}))) or "none"
        return f"You are {PLACES[self.here]} the {self.here}.{seen} Exits: {ways}."

    def inside(self, box):
        things = [n for n in self.order if self.where[n] == box]
        return f"In the {box} you see {self._series(things)}." if things else f"The {box} is empty."

    def do(self, command):
        verb, _, rest = command.partition(" ")
        if command == "look":
            return self.look()
        if command == "inventory":
            mine = [n for n in self.order if self.where[n] == "me"]
            return f"You have {self._series(mine)}." if mine else "You have nothing."
        if verb == "go":
            if rest not in self.exits.get(self.here, {}):
                return f"You cannot go {rest}."
            self.here = self.exits[self.here][rest]
            return self.look()
        if verb == "take":
            if self.where.get(rest) == "me":
                return f"You already have the {rest}."
            if not self._near(rest):
                return f"There is no {rest} here."
            self._move(rest, "me")
            return f"You take the {rest}."
        if verb == "drop":
            if self.where.get(rest) != "me":
                return f"You do not have the {rest}."
            self._move(rest, self.here)
            return f"You drop the {rest}."
        if verb == "ask":
            person, _, thing = rest.partition(" for ")
            if self.where.get(thing) != person:
                return f"{person} does not have the {thing}."
            self._move(thing, "me")
            return f"{person} gives you the {thing}."
        if verb == "give":
            thing, _, person = rest.partition(" to ")
            self._move(thing, person)
            return f"You give the {thing} to {person}."
        if command.startswith("look in "):
            box = command[8:]
            if not self._near(box):
                return f"There is no {box} here."
            return self.inside(box) if self.open.get(box, True) else f"The {box} is closed."
        if verb in ("open", "close"):
            if not self._near(rest):
                return f"There is no {rest} here."
            if rest not in self.open:
                return f"You cannot {verb} the {rest}."
            if self.open[rest] == (verb == "open"):
                return f"The {rest} is already {'open' if verb == 'open' else 'closed'}."
            self.open[rest] = verb == "open"
            return f"You {verb} the {rest}." + (f" {self.inside(rest)}" if verb == "open" else "")
        if command.startswith(("light ", "put out ")):
            thing, on = (rest, True) if verb == "light" else (command[8:], False)
            if self.lit[thing] == on:
                return f"The {thing} is already {'lit' if on else 'out'}."
            self.lit[thing] = on
            return f"You {'light' if on else 'put out'} the {thing}."
        if verb == "put":
            thing, _, box = rest.partition(" in ")
            if not self.open.get(box, True):
                return f"The {box} is closed."
            self._move(thing, box)
            return f"You put the {thing} in the {box}."
        raise Unreadable(command)

    def _move(self, thing, to):
        self.where[thing] = to
        self.order.remove(thing)
        self.order.append(thing)
