"""A story: a cast that comes and goes, scenes, and questions about what was told."""
import math
from bisect import bisect

from . import filler, forms, questions
from . import words as W
from .narrator import Narrator, in_place, pieces, the
from .world import World


class Pool:
    """Entities of one kind in a random order: not yet met, alive (may take part), retired."""

    def __init__(self, rng, names, total, active):
        names = list(names)
        rng.shuffle(names)
        self.total = min(total, len(names))
        self.fresh = names[: self.total][::-1]
        self.strangers = names[self.total:]  # never told of
        self.alive = []
        self.active = active
        self.met = 0
        self.random = rng.random

    def meet(self):
        if not self.fresh:
            return None
        name = self.fresh.pop()
        if len(self.alive) >= self.active:
            self.alive.pop(int(self.random() * len(self.alive)))
        self.alive.append(name)
        self.met += 1
        return name

    def due(self, progress):
        """Whether the story is far enough for one more of this kind."""
        return self.met < self.total * progress

    def some(self, count):
        alive, out = self.alive, []
        for _ in range(2 * count):
            if len(out) < count and alive:
                name = alive[int(self.random() * len(alive))]
                if name not in out:
                    out.append(name)
        return out

    def stranger(self):
        names = self.strangers or self.fresh
        return names[int(self.random() * len(names))] if names else None


# What happens, with weights.
STEPS = {
    "go": 22, "take": 16, "put": 16, "give": 9, "drop": 5, "hide": 4, "steal": 2, "lose": 1.2, "find": 2, "push": 1.5,
    "go_with": 3, "state": 11, "paint": 5, "mood": 4, "trait": 4, "colour": 3, "aside": 7, "aside_people": 6,
    "new_thing": 4, "new_container": 2, "new_door": 1,
}
_NAMES = list(STEPS)
_CUMULATIVE = []
for _w in STEPS.values():
    _CUMULATIVE.append(_w + (_CUMULATIVE[-1] if _CUMULATIVE else 0))

# Questions, with weights: by far most of them need one fact.
ASK = {
    "where_thing": 26, "where_person": 15, "who_has": 11, "has": 4, "is_at": 3, "is_there": 3, "colour": 8, "state": 8,
    "contents": 4, "belongings": 3, "count": 2.5, "before_thing": 1.5, "before_person": 1.5, "room": 2, "job": 2.5,
    "likes": 2, "age": 1.5, "mood": 2.5, "stranger": 4, "untold": 3,
}
_ASK_NAMES = list(ASK)
_ASK_CUMULATIVE = []
for _w in ASK.values():
    _ASK_CUMULATIVE.append(_w + (_ASK_CUMULATIVE[-1] if _ASK_CUMULATIVE else 0))


def thing_names(rng, total):
    """Things of one world: nouns first, with modifiers ("small key", "old key") when more are needed."""
    names = list(W.THINGS)
    if total > 120:
        names += [f"{m} {n}" for n in W.THINGS for m in W.MODIFIERS[:6] if rng.random() < 0.5]
    elif rng.random() < 0.15:
        names = [f"{W.MODIFIERS[int(rng.random() * len(W.MODIFIERS))]} {n}" for n in names]
    return names


class Story:
    """Tells a world of about `length` words, sentence by sentence. `position` counts the words of the document so far."""

    def __init__(self, rng, length, plain=0.7):
        self.rng, self.random = rng, rng.random
        self.length = max(length, 30)
        self.world = World()
        self.narrator = Narrator(rng, plain)
        self.position = 0
        self.sentences = 0
        size = self.length
        grow = lambda base, per: base + int(size / per * (0.6 + 0.8 * rng.random()))
        things = grow(3, 90)
        people = grow(2, 220)
        names = list(W.GIRLS + W.BOYS)
        rng.shuffle(names)
        # Mostly people; the animals are mixed in.
        names = names + list(W.ANIMALS) if size > 20000 else names[: 3 * len(W.ANIMALS)] + list(W.ANIMALS)
        self.people = Pool(rng, names, people, 3 + int(5 * rng.random()))
        self.things = Pool(rng, thing_names(rng, things), things, 5 + int(8 * rng.random()))
        self.places = Pool(rng, W.PLACES, grow(2, 300), 3 + int(5 * rng.random()))
        self.containers = Pool(rng, W.CONTAINERS, grow(1, 250), 3 + int(5 * rng.random()))
        self.doors = Pool(rng, W.DOORS, grow(0, 500) + (rng.random() < 0.3), 3)
        for _ in range(2):
            self.places.meet()
        self.keys = {}   # question type: fact keys that it may be asked about
        self.asked = {}  # key: what `changed` said when it was last asked
        self.scene_left = 0
        self.scene_people, self.scene_places = [], []
        self.queue = []

    # Telling.

    def happen(self, **event):
        """Applies an event and returns its sentence."""
        text = self.narrator.tell(event)
        self.position += pieces(text)
        known = len(self.world.facts)
        self.world.apply(event, self.position)
        if len(self.world.facts) != known:
            self._new_fact(next(reversed(self.world.facts)))
        return text

    def _new_fact(self, key):
        prop, entity = key
        if prop == "where":
            if entity in W.PLACES or entity in W.DOORS:
                return
            if entity in W.CONTAINERS:
                kinds = ("where_thing",)
            elif entity[0].isupper() or entity in W.ANIMALS:
                kinds = ("where_person", "is_there", "before_person", "belongings", "count", "has")
            else:
                kinds = ("where_thing", "who_has", "is_at", "before_thing", "room", "contents")
        elif prop.startswith("is_"):
            kinds = ("state",)
        else:
            kinds = (prop,)
        for kind in kinds:
            self.keys.setdefault(kind, []).append(key)

    def _sentence(self):
        while not self.queue:
            if self.scene_left <= 0:
                self._begin_scene()
            else:
                self.scene_left -= 1
                self._step()
        return self.queue.pop(0)

    def tell(self, count):
        """At least `count` sentences as text: all that has happened by its end is told."""
        told = [self._sentence() for _ in range(count)] + self.queue
        self.queue = []
        self.sentences += len(told)
        return " ".join(told)

    def _progress(self):
        return min(1.0, (self.position / self.length) ** 0.8 + 0.05)

    def _choose(self, options):
        return options[int(self.random() * len(options))]

    def _begin_scene(self):
        r = self.random
        self.scene_left = 6 + int(r() * min(40, 6 + self.length / 40))
        progress = self._progress()
        if self.places.due(progress):
            self.places.meet()
        self.scene_places = self.places.some(2 + int(r() * 2))
        people = self.people.some(1 + int(r() * 3))
        new = []
        while len(people) < 2 or (self.people.due(progress) and len(people) < 5):
            name = self.people.meet()
            if name is None:
                break
            people.append(name)
            new.append(name)
        self.scene_people = people
        out = self.queue
        if self.position and r() < 0.4:
            out.append(self._say_opening())
        if r() < 0.15:
            out.append(self._say(self.narrator.aside()))
        for name in people:
            place = self._choose(self.scene_places)
            if name in new:
                out.append(self.happen(kind="person_at", a=name, p=place))
            elif self.world.place(name) not in self.scene_places:
                out.append(self.happen(kind="go", a=name, p=place, q=self.world.place(name)))
        for _ in range(2):
            if self.things.due(progress):
                self._new_thing()
        if self.containers.due(progress):
            self._new_container()
        if self.doors.due(progress):
            self._new_door()

    def _say(self, text):
        self.position += pieces(text)
        return text

    def _say_opening(self):
        opening = self._choose(filler.OPENINGS)
        self.narrator.used.add(opening)
        self.narrator.last_actor = None
        options = ["it was quiet.", "nothing was as before.", "things went on.", "the story continued."]
        return self._say(f"{opening} {self._choose(options)}")

    # What there is to do.

    def _actor(self):
        return self._choose(self.scene_people)

    def _things_at(self, place):
        """Things alive at a place that an actor can take, and those people there hold are left out."""
        world = self.world
        return [t for t in self.things.alive if world.reachable(t) and world.where(t)[0] != "with" and world.place(t) == place]

    def _containers_at(self, place):
        world = self.world
        return [c for c in self.containers.alive if world.where(c) == ("at", place)]

    def _held(self, person):
        return self.world.held.get(person) or ()

    def _step(self):
        for _ in range(6):
            name = _NAMES[bisect(_CUMULATIVE, self.random() * _CUMULATIVE[-1])]
            text = getattr(self, "_do_" + name)()
            if text:
                self.queue.append(text)
                return

    def _do_go(self):
        actor = self._actor()
        old = self.world.place(actor)
        places = [p for p in self.scene_places if p != old]
        return self.happen(kind="go", a=actor, p=self._choose(places), q=old) if places else None

    def _do_go_with(self):
        actor = self._actor()
        old, held = self.world.place(actor), self._held(actor)
        places = [p for p in self.scene_places if p != old]
        if places and held:
            return self.happen(kind="go_with", a=actor, t=self._choose(held), p=self._choose(places), q=old)
        return None

    def _do_take(self):
        actor = self._actor()
        if len(self._held(actor)) >= 3:
            return None
        things = self._things_at(self.world.place(actor))
        if not things:
            return None
        thing = self._choose(things)
        value = self.world.where(thing)
        if value[0] in ("at", "with"):
            return self.happen(kind="take", a=actor, t=thing)
        return self.happen(kind="take_from", a=actor, t=thing, c=value[1])

    def _put(self, kind, relations):
        actor = self._actor()
        held = self._held(actor)
        containers = self._containers_at(self.world.place(actor)) if held else ()
        options = []
        for c in containers:
            if self.world.facts.get(("is_open", c)) != "closed":
                options += [(c, r) for r in W.CONTAINERS[c][0] if r in relations]
        options = [(c, r) for c, r in options if len(self.world.inside.get((r, c), ())) < 3]
        if not options:
            return None
        container, relation = self._choose(options)
        return self.happen(kind=kind, a=actor, t=self._choose(held), c=container, r=relation)

    def _do_put(self):
        return self._put("put", ("in", "on", "under", "behind") if self.random() < 0.4 else ("in", "on"))

    def _do_hide(self):
        return self._put("hide", ("in", "under", "behind"))

    def _do_drop(self):
        actor = self._actor()
        held = self._held(actor)
        return self.happen(kind="drop", a=actor, t=self._choose(held), p=self.world.place(actor)) if held else None

    def _other_here(self, actor):
        place = self.world.place(actor)
        others = [b for b in self.scene_people if b != actor and self.world.place(b) == place]
        return self._choose(others) if others else None

    def _do_give(self):
        actor = self._actor()
        held, other = self._held(actor), self._other_here(actor)
        if held and other and len(self._held(other)) < 3:
            return self.happen(kind="give", a=actor, b=other, t=self._choose(held))
        return None

    def _do_steal(self):
        actor = self._actor()
        other = self._other_here(actor)
        held = self._held(other) if other else ()
        if held and len(self._held(actor)) < 3:
            return self.happen(kind="steal", a=actor, b=other, t=self._choose(held))
        return None

    def _do_lose(self):
        actor = self._actor()
        held = self._held(actor)
        return self.happen(kind="lose", a=actor, t=self._choose(held)) if held else None

    def _do_find(self):
        lost = [t for t in self.things.alive if self.world.where(t) == ("lost",)]
        actor = self._actor()
        if lost and len(self._held(actor)) < 3:
            return self.happen(kind="find", a=actor, t=self._choose(lost))
        return None

    def _do_push(self):
        actor = self._actor()
        place = self.world.place(actor)
        containers, places = self._containers_at(place), [p for p in self.scene_places if p != place]
        if containers and places:
            return self.happen(kind="push", a=actor, c=self._choose(containers), p=self._choose(places))
        return None

    def _here(self, actor):
        """Things, containers and doors that the actor can touch."""
        place = self.world.place(actor)
        doors = [d for d in self.doors.alive if self.world.where(d) == ("at", place)]
        return [*self._held(actor), *self._things_at(place)], self._containers_at(place), doors

    def _toggle(self, actor, thing, prop, first, second):
        value = self.world.facts.get((prop, thing))
        if value is None:
            kind = first if self.random() < 0.7 else second
        else:
            kind = second if value == forms.STATE_WORDS[prop][0] else first
        return self.happen(kind=kind, a=actor, t=thing)

    def _do_state(self):
        actor = self._actor()
        things, containers, doors = self._here(actor)
        options = [(x, "is_open", "open", "close") for x in doors]
        options += [(x, "is_open", "open", "close") for x in containers if W.CONTAINERS[x][1]]
        for x in things + containers:
            noun = x.rsplit(" ", 1)[-1]
            if noun in _BREAKABLE:
                options.append((x, "is_broken", "break", "repair"))
            if noun in _LIGHTABLE:
                options.append((x, "is_lit", "light", "put_out"))
            if noun in W.FILLABLE and x not in W.CONTAINERS:
                options.append((x, "is_full", "fill", "empty"))
            if noun in W.WASHABLE:
                options.append((x, "is_dirty", "soil", "wash"))
        return self._toggle(actor, *self._choose(options)) if options else None

    def _do_paint(self):
        actor = self._actor()
        things, containers, doors = self._here(actor)
        options = things + containers + doors
        if not options:
            return None
        thing = self._choose(options)
        colour = self._choose(W.COLOURS)
        return None if self.world.facts.get(("colour", thing)) == colour else self.happen(kind="paint", a=actor, t=thing, v=colour)

    def _do_colour(self):
        options = [t for t in self.things.alive + self.containers.alive if ("colour", t) not in self.world.facts]
        return self.happen(kind="colour", t=self._choose(options), v=self._choose(W.COLOURS)) if options else None

    def _do_mood(self):
        actor, mood = self._actor(), self._choose(W.MOODS)
        return None if self.world.facts.get(("mood", actor)) == mood else self.happen(kind="mood", a=actor, v=mood)

    def _do_trait(self):
        actor = self._actor()
        prop, options = self._choose((("job", W.JOBS), ("likes", W.FOODS), ("age", W.NUMBERS[5:])))
        if actor in W.ANIMALS or (prop, actor) in self.world.facts and self.random() < 0.7:
            return None
        value = self._choose(options)
        return None if self.world.facts.get((prop, actor)) == value else self.happen(kind=prop, a=actor, v=value)

    def _do_aside(self):
        return self._say(self.narrator.aside())

    def _do_aside_people(self):
        actor = self._actor()
        other = self._other_here(actor)
        things = self._things_at(self.world.place(actor))
        if not other or not things:
            return None
        return self._say(self.narrator.aside(self.narrator.fields({"a": actor, "b": other, "t": self._choose(things)})))

    def _do_new_thing(self):
        if self.things.due(self._progress() + 0.15):
            self._new_thing()
        return None

    def _do_new_container(self):
        if self.containers.due(self._progress() + 0.15):
            self._new_container()
        return None

    def _do_new_door(self):
        if self.doors.due(self._progress()):
            self._new_door()
        return None

    def _new_thing(self):
        thing = self.things.meet()
        if thing is None:
            return
        r = self.random()
        place = self._choose(self.scene_places)
        containers = [c for c in self._containers_at(place) if self.world.facts.get(("is_open", c)) != "closed"]
        if r < 0.3:
            actor = self._actor()
            if len(self._held(actor)) < 3:
                self.queue.append(self.happen(kind="thing_with", a=actor, t=thing))
                return
        if r < 0.65 and containers:
            container = self._choose(containers)
            relation = W.CONTAINERS[container][0][0]
            if len(self.world.inside.get((relation, container), ())) < 3:
                self.queue.append(self.happen(kind="thing_by", t=thing, c=container, r=relation))
                return
        self.queue.append(self.happen(kind="thing_at", t=thing, p=place))

    def _new_container(self):
        container = self.containers.meet()
        if container is not None:
            self.queue.append(self.happen(kind="container_at", c=container, p=self._choose(self.scene_places)))

    def _new_door(self):
        door = self.doors.meet()
        if door is not None:
            self.queue.append(self.happen(kind="door_at", t=door, p=self._choose(self.scene_places)))

    # Asking.

    def question(self, distance=None, exact=False, kinds=None):
        """A question as a dict: text, answer, accept, type, distance in words to the deciding sentence. None when there is
        nothing to ask. `distance`: what is wanted (log-uniform by default); `exact` looks through all facts for it."""
        if distance is None:
            distance = math.exp(self.random() * math.log(max(self.position, 11)))
        for _ in range(20):
            kind = kinds[int(self.random() * len(kinds))] if kinds else _ASK_NAMES[bisect(_ASK_CUMULATIVE, self.random() * _ASK_CUMULATIVE[-1])]
            if kind in ("stranger", "untold"):
                found = self._unknown(kind)
            else:
                found = self._known(kind, distance, exact)
            if found:
                kind, subject, extra, at = found
                text, answer, accept = questions.ask(self.world, self.narrator, kind, subject, extra)
                return {"text": text, "type": kind, "answer": answer, "accept": accept, "subject": subject, "extra": extra,
                        "distance": None if at is None else self.position - at}
        return None

    def recital(self, most=8):
        """A question for the place of everything, in the order in which it came into the story. None when that is too much."""
        known = [(key[1], value) for key, value in self.world.facts.items() if key[0] == "where" and value[0] != "lost"]
        if not 2 <= len(known) <= most:
            return None
        answer = " ".join(questions.located(*entry)[0] for entry in known)
        return {"text": self._choose(filler.RECITE), "type": "recital", "answer": answer, "accept": [answer], "subject": None,
                "extra": None, "distance": None}

    def _unknown(self, kind):
        if kind == "stranger":
            if self.random() < 0.5:
                name = self.people.stranger()
                return ("where_person", name, None, None) if name else None
            name = self.things.stranger()
            kind = self._choose(("where_thing", "where_thing", "who_has", "colour"))
            return (kind, name, None, None) if name else None
        options = self.things.alive if self.random() < 0.5 else [p for p in self.people.alive if p[0].isupper()]
        if not options:
            return None
        name = self._choose(options)
        kind = self._choose(("job", "likes", "age")) if name[0].isupper() else "colour"
        return None if (kind, name) in self.world.facts else (kind, name, None, None)

    def _known(self, kind, distance, exact):
        keys = self.keys.get(kind)
        if not keys:
            return None
        sample = keys if exact else [keys[int(self.random() * len(keys))] for _ in range(8)]
        world, changed, best, best_cost = self.world, self.world.changed, None, 1e9
        for key in sample:
            at = self._decided(kind, key)
            if at is None or self.asked.get(key) == changed[key] or (world.told[key] > at and exact):
                continue
            cost = abs(math.log(max(self.position - at, 1) / distance))
            if cost < best_cost:
                best, best_cost = (key, at), cost
        if best is None or (exact and best_cost > 0.25):
            return None
        key, at = best
        self.asked[key] = changed[key]
        subject, extra = key[1], None
        value = world.facts[key]
        if kind == "state":
            kind = key[0]
        elif kind == "contents":
            subject = value
            self.asked[key] = changed[key]
        elif kind == "has":
            held = self._held(subject)
            if held and self.random() < 0.6:
                extra = held[-1]
            else:
                extra = self._choose(self.things.alive)
            at = max(changed["where", extra], 0)
        elif kind == "is_at":
            extra = value
            if self.random() < 0.5:
                extra = world.previous.get(key)
                if extra is None or extra[0] in ("with", "at", "lost"):
                    extra = next((v for v in world.inside if v != value), value)
        elif kind == "is_there":
            extra = value if self.random() < 0.5 else ("at", self._choose(self.places.alive))
        return kind, subject, extra, at

    def _decided(self, kind, key):
        """The position of the sentence that decides, or None when the question cannot be asked."""
        world = self.world
        value = world.facts[key]
        if kind in ("belongings", "count"):
            held = self._held(key[1])
            if len(held) > 3:
                return None
            return max(world.held_changed.get(key[1], 0), world.changed[key] if not held else 0)
        if kind == "contents":
            return world.inside_changed[value] if value in world.inside else None
        if kind == "who_has" and value[0] != "with" and self.random() < 0.8:
            return None
        if kind.startswith("before") and key not in world.previous:
            return None
        if kind == "is_at" and value[0] in ("with", "at", "lost"):
            return None
        if kind == "room":
            if value[0] in ("at", "lost"):
                return None
            return max(world.changed[key], world.changed.get(("where", value[1]), 0))
        if kind == "has" and not self.things.alive:
            return None
        return world.changed[key]

    def characters(self):
        """What a story could be said to be about."""
        return [the(x) if x[0].isupper() or x in W.ANIMALS else W.article(x) for x in self.people.alive[:2] + self.things.alive[:1]]


_BREAKABLE, _LIGHTABLE = frozenset(W.BREAKABLE), frozenset(W.LIGHTABLE)

__all__ = ["Story", "in_place"]
