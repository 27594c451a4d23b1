"""What a typed question asks, by the forms of forms.QUESTIONS."""
import re
from functools import lru_cache

from . import forms
from . import words as W

_PATTERNS = {"r": "(?P<r>in|on|under|behind)", "ip": r"(?:in|at|on) the (?P<ip>[\w ]+?)", "c": r"the (?P<c>[\w ]+?)",
             "t": r"the (?P<t>[\w ]+?)", "a": r"(?P<a>(?:the )?[\w ]+?)"}
# Types that the same words may mean, the more special first.
_ORDER = ("is_at", "is_there", "is_open", "is_broken", "is_lit", "is_full", "is_dirty", "before_thing", "before_person",
          "who_has", "has", "contents", "belongings", "count", "colour", "mood", "job", "likes", "age", "room", "where_thing",
          "where_person")


def _bare(text):
    """Without the end mark and without "now", which changes nothing."""
    return re.sub(r" now$", "", text.strip().rstrip(".?! "))


@lru_cache(maxsize=1)
def patterns():
    out = []
    for kind in _ORDER:
        for form in forms.QUESTIONS[kind]:
            text = re.sub(r"\\\{(\w+)\\\}", lambda m: _PATTERNS[m[1]], re.escape(_bare(form)))
            out.append((kind, re.compile(text, re.IGNORECASE)))
    return out


@lru_cache(maxsize=1)
def names():
    return {name.lower(): name for name in W.GIRLS + W.BOYS}


def entity(field, text):
    """The entity that a field's text names; "the rose" is a thing, "Rose" is somebody."""
    text = text.strip().lower()
    if field == "a" and not text.startswith("the ") and text in names():
        return names()[text]
    return re.sub(r"^the ", "", text)


def parse(text):
    """(type, subject, extra) for questions.answer, or None."""
    for kind, pattern in patterns():
        match = pattern.fullmatch(_bare(text))
        if not match:
            continue
        found = {key: value.lower() if key == "r" else entity(key, value) for key, value in match.groupdict().items()}
        person = found.get("a")
        if person is not None and person[0].islower() and person not in W.ANIMALS:
            if kind == "before_person":
                return "before_thing", person, None
            continue
        thing = found.get("t")
        if thing in W.ANIMALS:
            continue
        if kind == "has":
            return kind, person, thing
        if kind == "is_at":
            return kind, thing, (found["r"], found["c"])
        if kind == "is_there":
            if found["ip"] not in W.PLACES:
                continue
            return kind, person, ("at", found["ip"])
        if kind == "contents":
            return kind, (found["r"], found["c"]), None
        subject = person if person is not None else thing
        return kind, subject, None
    return None
