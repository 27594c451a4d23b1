"""Text adventures: the player commands, the model plays the world, the simulator knows the right reply."""
import re

from . import words as W
from .chats import Chat
from .narrator import in_place, the
from .world import World
from .story import thing_names

YOU = "You"
OPENINGS = ["Let us play an adventure.", "Let us play a game. This is the world.", "You are the world, and I am the player.",
            "Play an adventure with me.", "Here is a world to play in."]


class Game:
    """A world of a few places. `reply(command)` changes it and says what the player sees."""

    def __init__(self, rng, size):
        """`size`: about how many places."""
        r = rng.random
        self.rng = rng
        self.world = World()
        places = rng.sample(list(W.PLACES), size)
        self.exits = {p: {} for p in places}
        self.spec = []
        for i, place in enumerate(places[1:], 1):
            for _ in range(20):
                other, way = places[int(r() * i)], W.DIRECTIONS[int(r() * (4 if r() < 0.9 else 6))]
                if way not in self.exits[other] and W.OPPOSITE[way] not in self.exits[place]:
                    self.exits[other][way], self.exits[place][W.OPPOSITE[way]] = place, other
                    self.spec.append(self._connection(other, way, place))
                    break
        used = [p for p in places if self.exits[p]] or places[:1]
        self.containers = rng.sample([c for c, (ways, _) in W.CONTAINERS.items() if ways == ("in",)], 1 + int(r() * min(3, size)))
        self.people = rng.sample(W.GIRLS + W.BOYS, int(r() * 3))
        for person in self.people:
            self._start({"kind": "person_at", "a": person, "p": used[int(r() * len(used))]})
            self.spec.append(f"{person} is {in_place(self.world.place(person))}.")
        for container in self.containers:
            place = used[int(r() * len(used))]
            self._start({"kind": "container_at", "c": container, "p": place})
            text = f"The {container} is {in_place(place)}"
            if W.CONTAINERS[container][1]:
                kind = "close" if r() < 0.6 else "open"
                self._start({"kind": kind, "a": YOU, "t": container})
                text += " and is " + ("closed" if kind == "close" else "open")
            self.spec.append(text + ".")
        self.things = thing_names(rng, 0)
        self.things = rng.sample(self.things, 2 + int(r() * (2 + size)))
        if r() < 0.4:
            lamp = W.LIGHTABLE[int(r() * len(W.LIGHTABLE))]
            if lamp not in self.things:
                self.things[0] = lamp
        for thing in self.things:
            if r() < 0.35:
                container = self.containers[int(r() * len(self.containers))]
                self._start({"kind": "thing_by", "t": thing, "c": container, "r": "in"})
                self.spec.append(f"The {thing} is in the {container}.")
            else:
                place = used[int(r() * len(used))]
                self._start({"kind": "thing_at", "t": thing, "p": place})
                self.spec.append(f"The {thing} is {in_place(place)}.")
            if thing in W.LIGHTABLE:
                self._start({"kind": "put_out", "a": YOU, "t": thing})
        self.places = used
        place = used[int(r() * len(used))]
        self._start({"kind": "person_at", "a": YOU, "p": place})
        self.spec.append(f"You start {in_place(place)}.")

    def _connection(self, a, way, b):
        if way in ("up", "down"):
            return f"From the {a} you can go {way} to the {b}."
        return f"The {b} is {way} of the {a}."

    def _start(self, event):
        self.world.apply(event, 0)

    def introduction(self):
        """What the player tells the model before the first command."""
        opening = OPENINGS[int(self.rng.random() * len(OPENINGS))]
        return f"{opening} {' '.join(self.spec)}\nlook"

    # What is here.

    def here(self):
        return self.world.place(YOU)

    def visible(self):
        """Entities in view, in the order of their coming."""
        place = self.here()
        out = [p for p in self.people if self.world.place(p) == place]
        out += [c for c in self.containers if self.world.where(c) == ("at", place)]
        return out + [t for t in self.things if self.world.where(t) == ("at", place)]

    def within_reach(self, thing):
        value = self.world.where(thing)
        if value == ("with", YOU) or value == ("at", self.here()):
            return True
        return bool(value) and value[0] == "in" and self.world.place(thing) == self.here() and self.world.reachable(thing)

    def description(self):
        names = [x if x[0].isupper() else W.article(x) for x in self.visible()]
        seen = f" You see {W.listing(names)}." if names else ""
        ways = [d for d in W.DIRECTIONS if d in self.exits[self.here()]]
        return f"You are {in_place(self.here())}.{seen} Exits: {', '.join(ways) or 'none'}."

    # Commands.

    def reply(self, command):
        """Carries out one command of the player."""
        for pattern, method in COMMANDS:
            match = pattern.fullmatch(command.strip().lower())
            if match:
                return method(self, *match.groups())
        return "I do not understand."

    def _name(self, text):
        """A noun as typed; names of people get their capital."""
        text = re.sub(r"^(the|a|an) ", "", text)
        return text.capitalize() if text.capitalize() in self.people else text

    def _look(self):
        return self.description()

    def _go(self, way):
        place = self.exits[self.here()].get(way)
        if place is None:
            return f"You cannot go {way}."
        self.world.apply({"kind": "go", "a": YOU, "p": place}, 0)
        return self.description()

    def _inventory(self):
        held = self.world.held.get(YOU)
        return f"You have {W.listing([W.article(t) for t in held])}." if held else "You have nothing."

    def _take(self, text):
        thing = self._name(text)
        if thing in self.people or thing in self.containers and self.within_reach(thing):
            return f"You cannot take {the(thing)}."
        value = self.world.where(thing)
        if value == ("with", YOU):
            return f"You already have the {thing}."
        if thing not in self.things or not self.within_reach(thing):
            return f"There is no {thing} here."
        self.world.apply({"kind": "take", "a": YOU, "t": thing}, 0)
        return f"You take the {thing}."

    def _held(self, thing):
        return self.world.where(thing) == ("with", YOU)

    def _drop(self, text):
        thing = self._name(text)
        if not self._held(thing):
            return f"You do not have the {thing}."
        self.world.apply({"kind": "drop", "a": YOU, "t": thing, "p": self.here()}, 0)
        self.things.remove(thing)  # it is seen last
        self.things.append(thing)
        return f"You drop the {thing}."

    def _put(self, text, into):
        thing, container = self._name(text), self._name(into)
        if not self._held(thing):
            return f"You do not have the {thing}."
        if container not in self.containers or not self.within_reach(container):
            return f"There is no {container} here."
        if self.world.facts.get(("is_open", container)) == "closed":
            return f"The {container} is closed."
        self.world.apply({"kind": "put", "a": YOU, "t": thing, "c": container, "r": "in"}, 0)
        return f"You put the {thing} in the {container}."

    def _contents(self, container):
        things = self.world.inside.get(("in", container))
        return f"In the {container} you see {W.listing([W.article(t) for t in things])}." if things else f"The {container} is empty."

    def _open(self, text):
        container = self._name(text)
        if container not in self.containers or not self.within_reach(container):
            return f"There is no {container} here."
        state = self.world.facts.get(("is_open", container))
        if state is None:
            return f"You cannot open the {container}."
        if state == "open":
            return f"The {container} is already open."
        self.world.apply({"kind": "open", "a": YOU, "t": container}, 0)
        return f"You open the {container}. {self._contents(container)}"

    def _close(self, text):
        container = self._name(text)
        if container not in self.containers or not self.within_reach(container):
            return f"There is no {container} here."
        state = self.world.facts.get(("is_open", container))
        if state is None:
            return f"You cannot close the {container}."
        if state == "closed":
            return f"The {container} is already closed."
        self.world.apply({"kind": "close", "a": YOU, "t": container}, 0)
        return f"You close the {container}."

    def _look_in(self, text):
        container = self._name(text)
        if container not in self.containers or not self.within_reach(container):
            return f"There is no {container} here."
        if self.world.facts.get(("is_open", container)) == "closed":
            return f"The {container} is closed."
        return self._contents(container)

    def _give(self, text, to):
        thing, person = self._name(text), self._name(to)
        if not self._held(thing):
            return f"You do not have the {thing}."
        if person not in self.people or self.world.place(person) != self.here():
            return f"{W.capital(person)} is not here."
        self.world.apply({"kind": "give", "a": YOU, "b": person, "t": thing}, 0)
        return f"You give the {thing} to {person}."

    def _ask(self, to, text):
        thing, person = self._name(text), self._name(to)
        if person not in self.people or self.world.place(person) != self.here():
            return f"{W.capital(person)} is not here."
        if self.world.where(thing) != ("with", person):
            return f"{person} does not have the {thing}."
        self.world.apply({"kind": "give", "a": person, "b": YOU, "t": thing}, 0)
        return f"{person} gives you the {thing}."

    def _switch(self, kind, text):
        thing, on = self._name(text), kind == "light"
        if thing not in self.things or not self.within_reach(thing):
            return f"There is no {thing} here."
        state = self.world.facts.get(("is_lit", thing))
        if state is None:
            return f"You cannot {kind} the {thing}."
        if state == ("on" if on else "off"):
            return f"The {thing} is already {'lit' if on else 'out'}."
        self.world.apply({"kind": "light" if on else "put_out", "a": YOU, "t": thing}, 0)
        return f"You {kind} the {thing}."

    # A player.

    def random_command(self):
        """A command, mostly one that makes sense here."""
        r = self.rng.random
        choose = lambda options: options[int(r() * len(options))]
        held = self.world.held.get(YOU) or []
        near = [t for t in self.things if self.within_reach(t) and t not in held]
        containers = [c for c in self.containers if self.within_reach(c)]
        people = [p for p in self.people if self.world.place(p) == self.here()]
        anything = choose(self.things) if r() < 0.8 else W.THINGS[int(r() * len(W.THINGS))]
        options = []
        ways = list(self.exits[self.here()])
        if ways:
            options += [(30, f"go {choose(ways)}")]
        options += [(2, f"go {choose(W.DIRECTIONS)}"), (4, "look"), (6, "inventory"), (3, f"take {anything}"), (2, f"drop {anything}")]
        if near:
            options += [(22, f"take {choose(near)}")]
        if held:
            options += [(8, f"drop {choose(held)}")]
            if containers:
                options += [(14, f"put {choose(held)} in {choose(containers)}")]
            if people:
                options += [(8, f"give {choose(held)} to {choose(people)}")]
        if containers:
            options += [(10, f"{choose(('open', 'open', 'close'))} {choose(containers)}"), (5, f"look in {choose(containers)}")]
        elif self.containers:
            options += [(1, f"open {choose(self.containers)}")]
        for person in people:
            theirs = self.world.held.get(person)
            options += [(6, f"ask {person} for {choose(theirs)}")] if theirs else [(1, f"ask {person} for {anything}")]
        lamps = [t for t in held + near if t in W.LIGHTABLE]
        if lamps:
            options += [(8, f"{choose(('light', 'put out'))} {choose(lamps)}")]
        pick = r() * sum(w for w, _ in options)
        for weight, command in options:
            pick -= weight
            if pick <= 0:
                return command
        return "look"


COMMANDS = [(re.compile(pattern), method) for pattern, method in (
    (r"look|l|where am i\??", Game._look),
    (r"(?:go |walk )?(north|south|east|west|up|down)", Game._go),
    (r"inventory|i|what do i have\??", Game._inventory),
    (r"(?:take|get|pick up) (.+)", Game._take),
    (r"drop (.+)", Game._drop),
    (r"put (?!out )(.+?) (?:in|into) (.+)", Game._put),
    (r"open (.+)", Game._open),
    (r"close (.+)", Game._close),
    (r"look in (.+)", Game._look_in),
    (r"give (.+?) to (.+)", Game._give),
    (r"ask (.+?) for (.+)", Game._ask),
    (r"(light|put out) (.+)", Game._switch),
)]


def canonical(reply):
    """A reply with the members of every list in alphabetical order, for comparison."""
    out = []
    for sentence in re.findall(r"[^.]+\.?", reply.strip()):
        match = re.fullmatch(r"\s*(.*?(?:you see|You see|You have|Exits:)) (.+?)\.?", sentence)
        if match:
            items = sorted(re.split(r", | and ", match[2]))
            out.append(f"{match[1]} {', '.join(items)}")
        else:
            out.append(sentence.strip().rstrip("."))
    return ". ".join(out).lower()


def same_reply(reply, expected):
    return canonical(reply) == canonical(expected)


def adventure(rng, words, accept=False, log=False):
    chat = Chat("adventure")
    game = Game(rng, 2 + int(rng.random() * min(6, 2 + words / 200)))
    command, total = game.introduction(), 0
    expected = game.description()
    while True:
        chat.add("user", command)
        chat.questions.append({"message": len(chat.messages), "type": "adventure", "answer": expected,
                               "accept": [expected], "distance": None})
        chat.add("assistant", expected)
        total += len(command.split()) + len(expected.split()) + 2
        if total >= words:
            break
        command = game.random_command()
        expected = game.reply(command)
    return chat.document(accept, words=total)
