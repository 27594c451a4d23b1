"""Questions about a world, with the one answer that its state gives."""
import re

from . import forms
from .narrator import in_place, pronouns, the
from .words import NUMBERS, article, capital, listing

STATE_TYPES = tuple(forms.STATE_WORDS)


def normalise(text):
    """What is compared: lower case, words only, without articles."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(w for w in words if w not in ("the", "a", "an"))


def matches(reply, accept):
    """Whether a model's reply is one of the acceptable forms; thinking before it does not count."""
    reply = reply.rsplit("</think>", 1)[-1].strip()
    got = normalise(reply)
    return any(got == normalise(form) for form in accept)


def located(entity, value):
    """(sentence, short forms) for a "where" value."""
    if value is None or value[0] == "lost":
        return forms.UNKNOWN, ["I don't know."]
    if value[0] == "with":
        holder = the(value[1])
        return f"{capital(holder)} has {the(entity)}.", [holder, f"with {holder}", f"{the(entity)} is with {holder}",
                                                        f"{holder} has it"]
    if value[0] == "at":
        return f"{capital(the(entity))} is {in_place(value[1])}.", [in_place(value[1]), value[1], f"it is {in_place(value[1])}"]
    spot = f"{value[0]} the {value[1]}"
    return f"{capital(the(entity))} is {spot}.", [spot, value[1], f"it is {spot}"]


def nouns(things, with_article):
    return listing([article(t) if with_article else "the " + t for t in things])


def orders(things):
    """The forms of a list of up to three, in any order."""
    from itertools import permutations
    return [nouns(order, False) for order in permutations(things)]


def answer(world, kind, subject, extra=None):
    """(answer, other acceptable forms) of a question. `extra` is the second entity of yes/no questions."""
    facts = world.facts
    if kind in ("where_thing", "where_person"):
        return located(subject, facts.get(("where", subject)))
    if kind == "who_has":
        value = facts.get(("where", subject))
        if value is not None and value[0] not in ("with", "lost"):
            return f"Nobody has the {subject}.", ["nobody", "no one", f"no one has the {subject}"]
        return located(subject, value)
    if kind == "room":
        place = world.place(subject)
        return located(subject, place and ("at", place))
    if kind in ("before_thing", "before_person"):
        value = world.previous.get(("where", subject))
        if value is None or value[0] == "lost":
            return forms.UNKNOWN, ["I don't know."]
        if value[0] == "with":
            return f"Before that, {the(value[1])} had {the(subject)}.", [the(value[1]), f"{the(value[1])} had it"]
        spot = in_place(value[1]) if value[0] == "at" else f"{value[0]} the {value[1]}"
        return f"Before that, {the(subject)} was {spot}.", [spot, value[1], f"{the(subject)} was {spot}"]
    if kind == "contents":
        relation, container = subject
        things = world.inside.get(subject, [])
        spot = f"{relation} the {container}"
        if not things:
            return f"Nothing is {spot}.", ["nothing", f"{container} is empty"]
        verb = "is" if len(things) == 1 else "are"
        lists = orders(things)
        return f"{capital(lists[0])} {verb} {spot}.", [x for item in lists for x in (item, f"{item} {verb} {spot}")]
    if kind == "belongings":
        things = world.held.get(subject, [])
        if not things:
            return f"{capital(the(subject))} has nothing.", ["nothing"]
        lists = orders(things)
        return f"{capital(the(subject))} has {lists[0]}.", [x for item in lists for x in (item, f"{the(subject)} has {item}")]
    if kind == "count":
        count = len(world.held.get(subject, []))
        if count == 0:
            return f"{capital(the(subject))} has nothing.", ["nothing", "none", "zero", "0"]
        noun = "thing" if count == 1 else "things"
        return f"{capital(the(subject))} has {NUMBERS[count]} {noun}.", [NUMBERS[count], str(count), f"{NUMBERS[count]} {noun}"]
    if kind == "has":
        value = facts.get(("where", extra))
        if value is None or value[0] == "lost":
            return forms.UNKNOWN, ["I don't know."]
        if value == ("with", subject):
            return f"Yes, {the(subject)} has the {extra}.", ["yes"]
        return f"No, {the(subject)} does not have the {extra}.", ["no"]
    if kind in ("is_at", "is_there"):
        value = facts.get(("where", subject))
        if value is None or value[0] == "lost":
            return forms.UNKNOWN, ["I don't know."]
        spot = in_place(extra[1]) if extra[0] == "at" else f"{extra[0]} the {extra[1]}"
        if value == extra:
            return f"Yes, {the(subject)} is {spot}.", ["yes"]
        return f"No, {the(subject)} is not {spot}.", ["no"]
    value = facts.get((kind, subject))
    if value is None:
        return forms.UNKNOWN, ["I don't know."]
    if kind in STATE_TYPES:
        verdict = "Yes" if value == forms.STATE_WORDS[kind][0] else "No"
        return f"{verdict}, the {subject} is {value}.", [verdict, value, f"the {subject} is {value}"]
    if kind == "colour":
        return f"The {subject} is {value}.", [value, f"it is {value}"]
    if kind == "mood":
        return f"{capital(the(subject))} is {value}.", [value]
    if kind == "job":
        return f"{subject} is {article(value)}.", [value, f"{pronouns(subject)[0]} is {value}"]
    if kind == "likes":
        return f"{subject} likes {value}.", [value, f"{pronouns(subject)[0]} likes {value}"]
    if kind == "age":
        return f"{subject} is {value} years old.", [value, f"{value} years", f"{value} years old"]
    raise KeyError(kind)


def fields(kind, subject, extra=None):
    """The fields of a question's form."""
    if kind == "contents":
        return {"r": subject[0], "c": "the " + subject[1]}
    out = {"a": the(subject), "t": the(subject)}
    if kind == "has":
        out["t"] = "the " + extra
    elif kind == "is_at":
        out["r"], out["c"] = extra[0], "the " + extra[1]
    elif kind == "is_there":
        out["ip"] = in_place(extra[1])
    return out


def ask(world, narrator, kind, subject, extra=None):
    """(question, answer, acceptable forms)."""
    form, text = narrator.question(kind, fields(kind, subject, extra))
    sentence, others = answer(world, kind, subject, extra)
    if kind in STATE_TYPES and " or " in form and sentence != forms.UNKNOWN:
        sentence = f"The {subject} is {world.facts[kind, subject]}."
        others = [world.facts[kind, subject]]
    return text, sentence, [sentence, *others]
