"""Events into English. Counts the forms it uses, for the statistics."""
from . import filler, forms
from .words import BOYS, GIRLS, PLACES, article, capital

_BOYS, _GIRLS = frozenset(BOYS), frozenset(GIRLS)


def the(entity):
    return entity if entity[0].isupper() else "the " + entity


def in_place(place):
    return f"{PLACES[place]} the {place}"


def pieces(text):
    """About the number of tokens: words and punctuation marks."""
    return len(text.split()) + text.count(".") + text.count(",") + text.count("?") + text.count("!") + text.count(":")


def pronouns(entity):
    if entity in _BOYS:
        return "he", "him", "his"
    if entity in _GIRLS:
        return "she", "her", "her"
    return "it", "it", "its"


class Narrator:
    """Tells events in one story. `plain` is the share of sentences in one of the first three forms of their kind."""

    def __init__(self, rng, plain=0.7):
        self.random = rng.random
        self.plain = plain
        self.last_actor = None
        self.used = set()  # forms

    def pick(self, options):
        count = len(options)
        if count > 3 and self.random() < self.plain:
            count = 3
        return options[int(self.random() * count)]

    def fields(self, event):
        out = {}
        for key, value in event.items():
            if key == "p":
                out["p"], out["ip"] = "the " + value, in_place(value)
            elif key == "q":
                out["q"], out["iq"] = "the " + value, in_place(value)
            elif key == "v":
                out["v"], out["nv"] = value, article(value)
            elif key in "tc":
                out[key], out["n" + key] = "the " + value, article(value)
            elif key in "ab":
                out[key] = the(value)
            else:
                out[key] = value
        if "a" in event:
            out["s"], out["o"], out["h"] = pronouns(event["a"])
        return out

    def tell(self, event):
        kind, actor = event["kind"], event.get("a")
        options = forms.EVENTS[kind]
        if actor is not None and actor == self.last_actor and kind in forms.PRONOUN_FORMS and self.random() < 0.3:
            options = forms.PRONOUN_FORMS[kind]
        form = self.pick(options)
        named = "{a}" in form or options is not forms.EVENTS[kind]
        self.last_actor = actor if named and "b" not in event else None  # whom "she" may mean in the next sentence
        self.used.add(form)
        return capital(form.format_map(self.fields(event)))

    def aside(self, fields=None):
        """A sentence that changes nothing."""
        self.last_actor = None
        options = filler.SCENERY if fields is None else filler.WITH_PEOPLE
        form = options[int(self.random() * len(options))]
        self.used.add(form)
        return form if fields is None else capital(form.format_map(fields))

    def question(self, kind, fields, index=None):
        options = forms.QUESTIONS[kind]
        form = self.pick(options) if index is None else options[index]
        self.used.add(form)
        return form, form.format_map(fields)
