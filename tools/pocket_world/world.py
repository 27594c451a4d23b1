"""The state of the pocket world: the only truth. Narrators and referees read it; events alone change it.

A fact has a key, (property, entity), and one value:
    ("where", x): ("at", place), (relation, container), ("with", person) or ("lost",)
    ("colour" | "mood" | "job" | "likes" | "age" | "is_open" | "is_broken" | "is_lit" | "is_full" | "is_dirty", x): a word
What was never told has no key. An event is a dict: "kind" (a key of forms.EVENTS) and the entities by their field letters.
"""

# kind: (property, who is changed, the value; None means the event's "v")
STATES = {
    "open": ("is_open", "t", "open"), "close": ("is_open", "t", "closed"),
    "break": ("is_broken", "t", "broken"), "repair": ("is_broken", "t", "whole"),
    "light": ("is_lit", "t", "on"), "put_out": ("is_lit", "t", "off"),
    "fill": ("is_full", "t", "full"), "empty": ("is_full", "t", "empty"),
    "wash": ("is_dirty", "t", "clean"), "soil": ("is_dirty", "t", "dirty"),
    "colour": ("colour", "t", None), "paint": ("colour", "t", None),
    "mood": ("mood", "a", None), "job": ("job", "a", None), "likes": ("likes", "a", None), "age": ("age", "a", None),
}


class WorldError(Exception):
    """An event that cannot happen in this state."""


class World:
    def __init__(self):
        self.facts = {}
        self.previous = {}  # key: the value before the present one, where there was another
        self.changed = {}   # key: position in the text after which the present value holds
        self.told = {}      # key: position of the last sentence that repeats it
        self.held = {}      # person: things, in the order they came
        self.inside = {}    # (relation, container): things, in the order they came
        self.held_changed = {}    # person: position of the last change of held
        self.inside_changed = {}
        self.log = []

    def where(self, entity):
        return self.facts.get(("where", entity))

    def place(self, entity):
        """The place of an entity, through whatever holds it; None where nobody knows."""
        for _ in range(8):
            value = self.facts.get(("where", entity))
            if value is None or value[0] == "lost":
                return None
            entity = value[1]
            if value[0] == "at":
                return entity
        raise WorldError(f"a circle of containers around {entity}")

    def reachable(self, thing):
        """Not lost and not in a closed container."""
        value = self.facts.get(("where", thing))
        if value is None or value[0] == "lost":
            return False
        return value[0] != "in" or self.facts.get(("is_open", value[1])) != "closed"

    def apply(self, event, position):
        """Lets an event happen, told at `position`. Raises WorldError when it cannot."""
        kind = event["kind"]
        state = STATES.get(kind)
        if state:
            prop, who, value = state
            self._set((prop, event[who]), event["v"] if value is None else value, position)
        elif kind in ("go", "go_with", "person_at"):
            if kind == "go_with":
                self._require(self.where(event["t"]) == ("with", event["a"]), event)
                self.told["where", event["t"]] = position
            self._set(("where", event["a"]), ("at", event["p"]), position)
        elif kind in ("container_at", "push", "door_at"):
            self._set(("where", event.get("c") or event["t"]), ("at", event["p"]), position)
        else:
            self._move(kind, event, position)
        self.log.append(event)

    def _move(self, kind, event, position):
        thing, actor = event["t"], event.get("a")
        if kind in ("put", "drop", "hide", "give", "lose"):
            self._require(self.where(thing) == ("with", actor), event)
        if kind in ("take", "take_from"):
            self._require(self.reachable(thing) and self.place(thing) == self.place(actor), event)
            self._require(self.where(thing)[0] != "with", event)
        if kind == "steal":
            self._require(self.where(thing) == ("with", event["b"]), event)
        if kind == "find":
            self._require(self.where(thing) == ("lost",), event)
        if kind in ("take", "take_from", "find", "steal", "thing_with"):
            value = ("with", actor)
        elif kind == "give":
            value = ("with", event["b"])
        elif kind in ("put", "hide", "thing_by"):
            self._require(event["c"] != thing, event)
            value = (event["r"], event["c"])
        elif kind in ("drop", "thing_at"):
            value = ("at", event["p"])
        elif kind == "lose":
            value = ("lost",)
        else:
            raise WorldError(f"no such event: {kind}")
        old = self.where(thing)
        if old is not None:
            if old[0] == "with":
                self.held[old[1]].remove(thing)
                self.held_changed[old[1]] = position
            elif old[0] not in ("at", "lost"):
                self.inside[old].remove(thing)
                self.inside_changed[old] = position
        self._set(("where", thing), value, position)
        if value[0] == "with":
            self.held.setdefault(value[1], []).append(thing)
            self.held_changed[value[1]] = position
        elif value[0] not in ("at", "lost"):
            self.inside.setdefault(value, []).append(thing)
            self.inside_changed[value] = position

    def _set(self, key, value, position):
        old = self.facts.get(key)
        if old is not None and old != value:
            self.previous[key] = old
        self.facts[key] = value
        self.changed[key] = self.told[key] = position

    @staticmethod
    def _require(condition, event):
        if not condition:
            raise WorldError(f"cannot happen: {event}")

    def check(self):
        """Everything is in exactly one place, and the two directions of every relation agree."""
        seen = {}
        for person, things in self.held.items():
            for thing in things:
                seen.setdefault(thing, []).append(("with", person))
        for relation, things in self.inside.items():
            for thing in things:
                seen.setdefault(thing, []).append(relation)
        for (prop, entity), value in self.facts.items():
            if prop != "where":
                continue
            expected = [] if value[0] in ("at", "lost") else [value]
            if seen.pop(entity, []) != expected:
                raise WorldError(f"{entity} is held otherwise than {value}")
            self.place(entity)
        if seen:
            raise WorldError(f"held, but nowhere: {seen}")
