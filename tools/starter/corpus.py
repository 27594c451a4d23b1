#!/usr/bin/env python3
"""Generate the starter corpus: short stories and simple chats in plain English.

    corpus.py --out corpus.jsonl --documents 40000 --seed 1

One JSON document per line, {"text": ...}; chats are already rendered in ChatML. The same seed gives the same bytes.
Every story keeps a small world (who, where, what) so that names, pronouns and outcomes agree from start to end.
"""
import argparse
import json
import random
import re

import grammar as G

CHOICE = re.compile(r"\[([^\[\]]*)\]")
FIELD = re.compile(r"\{(\w+)\}")
PRONOUNS = {"f": ("she", "her", "her"), "m": ("he", "him", "his"), "n": ("it", "it", "its")}
SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a friendly storyteller.", "You write simple English.", "You are a kind teacher.", "Answer in short sentences.",
                  "You tell stories for children.", "You are qnext, a small language model."]


class World(dict):
    """The fields that templates may name."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng

    def role(self, key, name, gender):
        subject, object_, possessive = PRONOUNS[gender]
        self.update({key: name, key + "s": subject, key + "o": object_, key + "p": possessive})
        self.update({key.capitalize() + "s": subject.capitalize(), key.capitalize() + "p": possessive.capitalize()})

    def say(self, template):
        """Fill one template and put its capitals and articles right."""
        while CHOICE.search(template) or FIELD.search(template):
            template = CHOICE.sub(lambda m: self.rng.choice(m[1].split("|")), template)
            template = FIELD.sub(lambda m: str(self[m[1]]), template)
        template = re.sub(r"\b([Aa]) (?=[aeiouAEIOU](?!ne\b|nicorn|seful))", r"\1n ", template)
        return re.sub(r"(^|[.?!] |\.\" )([a-z])", lambda m: m[1] + m[2].upper(), template.strip())

    def pick(self, options):
        return self.say(self.rng.choice(options))

    def some(self, options, count):
        options = [o for o in options if o.strip()]
        chosen = sorted(self.rng.sample(range(len(options)), min(count, len(options))))
        return [self.say(options[i]) for i in chosen]


def person(rng, avoid=()):
    gender = rng.choice("fm")
    name = rng.choice([n for n in (G.GIRLS if gender == "f" else G.BOYS) if n not in avoid])
    return name, gender


def cast(rng):
    """A child as hero, a friend and an elder."""
    w = World(rng)
    name, gender = person(rng)
    w.role("h", name, gender)
    w["hintro"] = f"a {rng.choice(G.CHILD)} {'girl' if gender == 'f' else 'boy'} [named|called] {name}"
    friend, friend_gender = person(rng, [name])
    if rng.random() < 0.2:
        animal = rng.choice(["dog", "cat", "horse", "donkey"])
        pet = rng.choice(G.PETS)
        w.role("f", pet, rng.choice("fm"))
        w["fintro"] = rng.choice([f"{{Hp}} best friend was a {animal} named {pet}, who could talk when nobody else was near.", f"{{Hs}} had a {animal} named {pet}, and the two of them could understand each other."])
    else:
        w.role("f", friend, friend_gender)
        w["fintro"] = rng.choice(["{Hp} best friend was [named|called] {f}.", "{f} was {hp} best friend.", "{Hs} had a good friend, {f}.", "{Hp} [neighbor|cousin] {f} was often with {ho}."])
    elder_gender = rng.choice("fm")
    w.role("e", rng.choice(G.ELDERS_F if elder_gender == "f" else G.ELDERS_M), elder_gender)
    w["home"], w["home2"] = rng.choice(G.HOMES)
    w["Hs2"] = rng.choice(["He", "She"])
    return w


def opening(w):
    """Who the story is about; sometimes a friend is introduced at once."""
    return [w.pick([o for o in G.OPEN_TIME if o])] + ([w.say(w["fintro"])])


def endings(w):
    return w.some(G.JOY, w.rng.choice([1, 1, 2])) + w.some(G.ENDINGS, w.rng.choice([1, 1, 2]))


def trouble(w, item, place_noun=None):
    """The middle of most stories: trouble, worry, help, steps, result."""
    problem, worry, steps, result = item
    if "{" not in problem and place_noun and place_noun not in problem and problem == "broke":
        problem = f"the {place_noun} broke"
    in_the_dark = re.search(r"fog|dark|night|lamp|lantern|light\b|storm", problem + " " + worry)
    day = w.pick(G.NIGHTS if in_the_dark else G.DAYS)
    out = [w.say(f"{day}, {problem}."), w.say(worry)]
    out += w.some(G.SAID_WORRY, w.rng.choice([0, 1, 1]))
    out += w.some(G.ASK_HELP, w.rng.choice([0, 1, 1]))
    middle = [w.say(s) for s in steps]
    if w.rng.random() < 0.12:
        middle[1:1] = w.some(G.TRY_FAIL, 1)
    return out + middle + [w.say(result)]


def place_story(rng, subject):
    w = cast(rng)
    _, where, desc, doing, troubles = G.PLACES[subject]
    near = rng.choice([f"There was an old {subject} {where}.", f"A {subject} stood {where}.", f"Not far away, {where}, there was a {subject}."])
    if subject in ("river", "beach", "cave", "park", "island", "forest", "garden", "mountain", "market", "farm", "village"):
        near = rng.choice([f"There was a {subject} {where}.", f"Not far away, {where}, there was a {subject}."])
    first = [w.say(near)] + w.some(desc, rng.choice([2, 2, 3]))
    who = opening(w)
    out = first + who if rng.random() < 0.3 else who + first
    return w, out + w.some(doing, rng.choice([1, 2])) + ["\n"] + trouble(w, rng.choice(troubles)) + ["\n"] + endings(w)


def journey_story(rng, subject):
    """The hero has heard of a place, goes there, and brings something home."""
    w = cast(rng)
    _, where, desc, _, _ = G.PLACES[subject]
    where = w.say(where)  # one choice for the whole story
    where = where[0].lower() + where[1:]
    way = ["They walked along the river until noon.", "They crossed a wooden bridge.", "They climbed over a stone wall.", "They passed a field of sunflowers.", "They rested under a tree and shared a sandwich.",
           "A farmer gave them a ride on his wagon.", "They asked a shepherd for the way.", "A light rain fell, but they did not mind.", "They sang songs so that the way would feel shorter.", "A crow flew ahead of them as if to show the way."]
    gifts = ["a smooth white stone", "a small wooden bird", "a flower for {e}", "a new song", "a story to tell", "a blue feather"]
    out = opening(w) + [w.say(f"{{h}} had [often heard|read in a book] about a {subject} {where}."), w.say("\"I want to see it [with my own eyes|one day]\", {hs} always said.".replace("\",", ",\""))]
    out += ["\n", w.say(f"{w.pick(G.DAYS)}, {{h}} packed [bread, cheese, and a bottle of water|two apples and a warm blanket|a lantern and a map]. \"Will you come with me?\" {{hs}} asked {{f}}. \"[Of course|Always|I thought you would never ask]!\" said {{f}}.")]
    out += w.some(way, rng.choice([3, 4])) + [w.say(f"At last they saw it: the {subject}, {where}.")] + w.some(desc, 3)
    out += ["\n", w.say("{h} stood still and [looked and looked|could not say a word|held {f}'s hand]."), w.say(f"\"[It is even more beautiful than I thought|It was worth every step|I will remember this forever],\" {{hs}} [said|whispered]."),
            w.say(f"Before they went home, {{h}} found {rng.choice(gifts)}.")] + w.some(G.ENDINGS, rng.choice([1, 2]))
    return w, out


def thing_story(rng, subject):
    w = cast(rng)
    _, desc, places, troubles = G.THINGS[subject]
    got = rng.choice([f"{{h}} had [an old|a beautiful|a wonderful] {subject}.", f"One day {{h}} found a {subject} {rng.choice(places)}.", f"For {{hp}} birthday, {{e}} gave {{ho}} a {subject}.", f"{{e}} had a {subject}, and {{h}} loved to look at it."])
    out = opening(w) + [w.say(got)] + w.some(desc, rng.choice([2, 3])) + w.some([f"{{h}} took good care of the {subject}.", f"{{h}} showed the {subject} to {{f}}.", "There was nothing like it in the whole world."], 1)
    return w, out + ["\n"] + trouble(w, rng.choice(troubles), subject) + ["\n"] + endings(w)


def lost_story(rng, subject):
    w = cast(rng)
    thing = G.FINDABLE.get(subject, f"a {rng.choice(G.ADJECTIVES)} {subject}")
    spots = rng.sample(G.SEARCH, 3)
    finder = rng.choice(["dog", "crow", "cat", "squirrel", "mouse", "goat"])
    how = {"dog": "The dog had carried it to its basket and was sleeping on it", "crow": "A crow had taken it up into its nest, because it liked pretty things", "cat": "The cat was playing with it behind the barn",
           "squirrel": "A squirrel had hidden it among its nuts", "mouse": "A mouse had made its bed in it", "goat": "The goat was just about to eat it"}[finder]
    out = opening(w) + [w.say(f"{{h}} had {thing}."), w.say(f"[It was a gift from {{e}}|{{e}} had given it to {{ho}}], and {{hs}} [never left home without it|loved it more than anything].")]
    out += ["\n", w.say(f"{w.pick(G.DAYS)}, the {subject} was gone."), w.say(f"{{h}} looked {spots[0]}. It was not there. {{Hs}} looked {spots[1]}. It was not there either."), w.say("\"[What is wrong|Why are you so sad|What happened]?\" asked {f}."),
            w.say(f"\"I have lost my {subject},\" said {{h}}. \"[I will help you look|Let us look together|Where did you see it last]{{q}}\" said {{f}}.".replace("{q}", ",")).replace("see it last,\"", "see it last?\"")]
    out += [w.say(f"They looked {spots[2]}, but they found only [an old spoon|a lost sock|some leaves|a sleepy beetle]."), w.say(f"Then {{f}} heard a [small|strange|soft] sound and pointed. {how}."), w.say(f"\"There it is!\" cried {{h}}. {{Hs}} took back the {subject} and [laughed|held it tight].")]
    if finder in ("crow", "squirrel", "mouse", "goat"):
        out.append(w.say(f"{{h}} gave the {finder} [a piece of bread|an apple|a cookie] instead, so that nobody had to be sad."))
    return w, out + ["\n"] + w.some(G.JOY, 1) + w.some(G.ENDINGS, 1)


def animal_story(rng, subject):
    w = cast(rng)
    _, home, color, food, sound, trait = G.ANIMALS[subject]
    name = rng.choice(G.PETS)
    w.role("h", name, rng.choice("fm"))
    other = rng.choice([a for a in G.ANIMALS if a not in (subject, "dragon", "whale")])
    f_gender = rng.choice("fm")
    w.role("f", f"the {other}", f_gender)
    w["hintro"] = rng.choice([f"a {rng.choice(['little', 'young', 'small', color])} {subject} [named|called] {name}", f"a {trait} {subject} [named|called] {name}"])
    w["home"] = w["home2"] = home
    w["food"], w["ffood"] = food, G.ANIMALS[other][3]
    want, obstacle, helped, result = rng.choice(G.WISHES)
    out = [w.pick(["Once upon a time, there was {hintro}.", "{hintro} lived {home}.", "Once there was {hintro}, who lived {home}.", "This is the story of {hintro}."])]
    if "lived" not in out[0]:
        out.append(w.say("{Hs} lived {home}."))
    out += w.some([w.rng.choice([f"{{h}} was {trait}, and {{hp}} favorite food was {food}.", f"{{h}} liked to eat {food}.", f"{{Hs}} was known to be {trait}."]), f"{{Hs}} had {color} [fur|skin] and bright eyes." if subject not in ("owl", "duck", "bird", "penguin", "swan", "crow", "bee", "butterfly", "snail", "turtle", "sheep", "hedgehog") else f"{{Hs}} was {color} and had bright eyes."], 2)
    out += [w.say("{h} " + want + "."), w.say(obstacle), "\n", w.say(w.pick(G.DAYS) + f", {{h}} met {rng.choice(['a', 'an old', 'a kind', 'a small'])} {other}. \"[Why are you so sad|What is the matter|Can I help you]?\" asked {{f}}.")]
    out += [w.say("{h} told {fo} everything."), w.say(helped), w.say(result), "\n"]
    out += w.some(["From that day on, {h} and {f} were friends.", "{h} was not sad any more.", "\"[Thank you|You are a true friend],\" said {h}.", "And if you walk there at night, you may still see the two of them together.",
                   "{h} learned that [a friend makes every road shorter|it is good to share|even the smallest can help the biggest|everyone is good at something].", "And they lived happily ever after."], rng.choice([1, 2]))
    w["also"] = other
    return w, out


def rescue_story(rng, subject):
    """A child helps a lost or hurt animal."""
    w = cast(rng)
    _, _, color, food, sound, trait = G.ANIMALS[subject]
    w["home_of"] = G.ANIMALS[subject][1]
    pet = rng.choice(G.PETS)
    out = opening(w) + ["\n", w.say(f"{w.pick(G.DAYS)}, {{h}} [heard a soft sound in the bushes|walked home from school|went to pick berries|opened the back door], and there was a [little|small|young] {subject}."),
        w.say(f"It was {rng.choice(['all alone', 'wet and cold', 'very thin', 'shaking with fear'])}, and [one of its legs was hurt|it did not know where to go|it had lost its mother]."), w.say("\"[Do not be afraid|Easy now|Hello, little one],\" {h} said softly. \"[I will not hurt you|I will take care of you].\"")]
    out += [w.say(f"{{h}} gave it some {food} and a bowl of water, and {{f}} brought a [warm blanket|box with soft hay|clean cloth]."), w.say(f"They called it {pet}."), w.say(f"{{e}} helped them. \"[It needs rest|It needs time|It will be well soon],\" {{es}} said."),
            w.say(f"Day by day {pet} grew stronger. [Soon it followed {{h}} everywhere|It ate from {{h}}'s hand|It slept at the foot of {{h}}'s bed].")]
    out += ["\n", w.say(f"Then one morning {pet} stood at the gate and looked [far away|toward the hills|at the sky]. \"It wants to go home,\" said {{h}}, and {{hs}} was [sad and happy at the same time|quiet for a while]."),
            w.say(f"Together they brought the {subject} back to its home, {{home_of}}."), w.say(f"{pet} turned around once more, as if to say [thank you|goodbye], and {rng.choice(['went to its family', 'was gone', 'ran to its mother'])}."), w.say("[Sometimes it came back to visit|In spring it came back, and three little ones were with it|{h} missed it, but {hs} knew that it was the right thing to do].")]
    return w, out


def person_story(rng, subject):
    w = cast(rng)
    _, work, place, stuff = G.PEOPLE[subject]
    w.update(role=subject, stuff=stuff)
    w["c"], w["cs"], w["Cs"], w["cp"] = w["h"], w["hs"], w["Hs"], w["hp"]
    problem, worry, deed, result = rng.choice(G.PERSON_TROUBLE)
    out = [w.pick([f"Once upon a time, there was a {subject} who {work}.", f"There was once a {subject} who {work}.", f"In a faraway land lived a {subject} who {work}.", f"Long ago, a {subject} lived in a small town. This {subject} {work}."]),
           w.say(f"[Every day|Almost every day|After school] {{hintro}} came to {place} to [watch|help|talk]."), w.say(f"\"[When I grow up, I want to be like you|You know so many things|Tell me a story],\" {{h}} [often said|said again and again].") if subject not in ("king", "queen", "princess", "giant", "witch") else w.say(f"People were [a little afraid of|very polite to] the {subject}, but {{h}} was not."),
           "\n", w.say(f"{w.pick(G.DAYS)}, {problem}."), w.say(worry)] + w.some(["{h} saw it at once.", "{h} wanted to help.", "{h} could not sleep that night, because {hs} was thinking about it."], 1)
    out += [w.say(deed), w.say(result), "\n", w.say(f"\"[Thank you, {{h}}|You are a true friend|I will never forget this],\" said the {subject}.")] + w.some(G.ENDINGS[3:8], 1)
    return w, out


def sky_story(rng, subject):
    w = cast(rng)
    beats = rng.choice(G.SKY[subject][1])
    out = []
    if "{h}" in beats[0] or rng.random() < 0.5:
        out = [w.pick([o for o in G.OPEN_TIME if o])] + ([w.say(w["fintro"])] if any("{f}" in b for b in beats) else [])
    body = [w.say(b) for b in beats]
    if rng.random() < 0.5:
        body.insert(len(body) // 2, "\n")
    return w, out + body + (w.some(G.ENDINGS, 1) if rng.random() < 0.6 else [])


def robot_story(rng, subject="robot"):
    w = cast(rng)
    index = rng.randrange(len(G.ROBOT))
    name, gender = person(rng)
    w.role("f", name, gender)
    w.role("h", rng.choice(G.ROBOTS), rng.choice("mn") if index else "m")
    start = [] if index == 0 else [f"{name} was a {rng.choice(G.CHILD)} {'girl' if gender == 'f' else 'boy'} who loved machines."]
    body = [w.say(b) for b in G.ROBOT[index]]
    if index == 0:
        body.insert(2, w.say(f"One day {{hs}} met {name}, a {rng.choice(G.CHILD)} {'girl' if gender == 'f' else 'boy'} with a [red|yellow|green] coat.")) if rng.random() < 0.9 else None
    body.insert(len(body) // 2, "\n")
    return w, start + body + w.some(["From that day on, the robot was never alone.", "And from that day on, the robot and {f} did everything together.", "The robot smiled, as well as a robot can smile.", "That evening the robot wrote a new word on a piece of paper: friend."], 1)


def contest_story(rng, subject=None):
    w = cast(rng)
    contest, did, do, best, prize = subject if subject else rng.choice(G.CONTESTS)
    rival, gender = person(rng, [w["h"], w["f"]])
    w.role("r", rival, gender)
    out = opening(w) + [w.say(f"{{h}} liked to {do}, and {{hs}} wanted to win the great {contest}. The prize was {prize}."), w.say(f"But everyone said that {rival} was {best}."), w.say(f"\"[Just do your best|Practice a little every day|It does not matter who wins],\" said {{e}}. So {{h}} practiced every day."),
        "\n", w.say(f"The day of the {contest} came. [Flags waved in the wind|The whole town was there|The square was full of people]."), w.say(f"First {rival} {did}, and the people clapped. Then it was {{h}}'s turn.") if "race" not in contest else w.say(f"\"Ready, steady, go!\" called {{e}}. {rival} was in front, and {{h}} was close behind {{ro}}.")]
    if "race" in contest and rng.random() < 0.6:
        out += [w.say(f"Then {rival} [fell and hurt {{rp}} knee|stopped and held {{rp}} foot]. {{h}} could have won now. But {{hs}} stopped too. \"[Are you all right|Can you stand up]?\" {{hs}} asked."), w.say(f"{{h}} helped {rival}, and together they came in last."),
                w.say(f"But the people clapped louder than ever, and {{e}} gave {prize} to both of them. \"[A good heart wins the best prize|Today you both won],\" {{es}} said.")]
    elif rng.random() < 0.5:
        out += [w.say(f"{{Hp}} hands shook, but {{hs}} thought of {{f}} and took a deep breath. {{Hs}} {did} better than ever before."), w.say(f"\"The winner is {{h}}!\" said {{e}}. {rival} came over and shook {{hp}} hand. \"[Well done|That was wonderful],\" {{rs}} said. \"Will you teach me?\"")]
    else:
        out += [w.say(f"{{h}} {did} as well as {{hs}} could. But in the end {rival} won."), w.say(f"{{h}} was sad for a moment. Then {{hs}} went to {rival} and said, \"[You were great|You earned it].\""), w.say(f"{rival} smiled. \"You were very good too,\" {{rs}} said. \"Next year we should practice together.\" And so they became friends.")]
    return w, out + ["\n"] + w.some(G.ENDINGS[1:9], 1)


def skill_story(rng, subject=None):
    w = cast(rng)
    skill, place, mess = subject if subject else rng.choice(G.SKILLS)
    out = opening(w) + [w.say(f"{{f}} could {skill}, and {{e}} could {skill}, but {{h}} could not."), w.say(f"\"[I will never learn it|It is too hard for me|I am not good at it],\" said {{h}}."), w.say(f"\"[Nobody is born knowing how to {skill}|I could not do it either when I was small|Every master was once a beginner],\" said {{e}}. \"[Come with me|Let us start today].\""),
        "\n", w.say(f"They went out early and practiced {place}."), w.say(f"On the first day there was only {mess} everywhere, and {{h}} [wanted to stop|was angry|almost cried]."), w.say("On the second day it was a little better. {f} [cheered for {ho}|showed {ho} a trick|stayed beside {ho}]."), w.say("On the third day it rained, but they practiced anyway."),
        w.say(f"And then, one [morning|evening], without thinking about it, {{h}} could do it. \"Look!\" {{hs}} cried. \"I can {skill}!\"")]
    return w, out + ["\n"] + w.some(G.JOY, 1) + [w.say("{h} learned that [practice makes a master|you only fail when you stop trying|small steps lead far]."), w.say(f"The next week, a little neighbor came and said, \"I cannot {skill}.\" {{h}} smiled and said, \"Not yet. Come with me.\"")]


def quarrel_story(rng, subject=None):
    w = cast(rng)
    thing = subject or rng.choice(list(G.FINDABLE) + ["ball", "kite", "sled", "book", "drum"])
    out = opening(w) + [w.say(f"They had found a {thing}, and both of them wanted it."), w.say(f"\"I saw it first!\" said {{h}}. \"But I picked it up!\" said {{f}}."), w.say("They [shouted|pulled at it from both sides|turned their backs], and {f} [ran home|walked away without a word]."),
        "\n", w.say(f"{{h}} sat alone with the {thing}. It was [pretty|new|nice], but it was no fun without {{f}}."), w.say("\"What is the matter?\" asked {e}. {h} told {eo} everything."), w.say(f"\"A {thing} cannot laugh with you,\" said {{e}}. \"A friend can.\""),
        w.say(f"{{h}} ran to {{f}}'s house and knocked. When the door opened, they both said at the same time, \"I am sorry!\" Then they [laughed|hugged]."), w.say(f"After that, [{{h}} had the {thing} on Mondays, and {{f}} had it on Tuesdays|{{h}} had the {thing} on sunny days, and {{f}} had it on rainy days|{{h}} had the {thing} in the morning, and {{f}} had it in the evening]. On Sundays they shared it.")]
    return w, out + w.some(["{h} learned that [sharing makes a thing twice as good|a friend is worth more than any treasure].", "And they never quarreled about it again."], 1)


def gift_story(rng, subject=None):
    w = cast(rng)
    made = f"a {rng.choice(G.ADJECTIVES[:-1])} {subject}" if subject else rng.choice(["a scarf", "a cake", "a picture", "a wooden bird", "a song", "a necklace of shells", "a lantern", "a book of stories", "a bird house"])
    out = opening(w) + [w.say("[Tomorrow|In three days|On Sunday] was {e}'s birthday, and {h} had no money for a gift."), w.say("\"[You could make something|The best gifts are made by hand],\" said {f}. \"I will help you.\""), w.say(f"So they decided to make {made}."),
        "\n", w.say("They worked [in secret|behind the barn|in the attic], [every day after school|until the candle burned low]."), w.say("The first one [was crooked|broke|looked funny], so they made another."), w.say(f"At last it was ready. It was not perfect, but it was made with love."),
        "\n", w.say(f"On the birthday {{h}} was nervous. \"It is only a small thing,\" {{hs}} said."), w.say("{e} opened the gift very slowly. Then {es} was quiet for a long time."), w.say("\"This is the most beautiful gift I have ever had,\" {es} said, and {ep} eyes were wet.")]
    return w, out + w.some(["{h} learned that love is the best part of every gift.", "They ate cake and sang until the moon was up.", "To this day it has a place of honor in {e}'s house."], 1)


SUBJECT_STORIES = [(G.PLACES, [place_story, place_story, place_story, journey_story]), (G.THINGS, [thing_story, thing_story, lost_story]), (G.FINDABLE, [lost_story, quarrel_story]), (G.MORE_THINGS, [lost_story, quarrel_story, gift_story]), (G.ANIMALS, [animal_story, animal_story, rescue_story]),
                   (G.PEOPLE, [person_story]), (G.SKY, [sky_story])]
FEATURED = "lighthouse lighthouse lighthouse boat fox garden clock river mountain bakery star library train robot snow moon dog cat forest storm dragon".split()
STORY_MIX = [35, 50, 15]  # percent of stories: featured subjects, all subjects, plain things
ALL_SUBJECTS = [s for table, _ in SUBJECT_STORIES for s in table if table is not G.MORE_THINGS] + ["robot"]


def join(sentences):
    text = " ".join(sentences)
    return re.sub(r" *\n *", "\n\n", text).strip()


def story(rng, subject=None):
    """Return (subject phrase, text)."""
    if subject is None and rng.random() < 0.14:
        kind = rng.randrange(4)
        if kind == 0:
            pick = rng.choice(G.CONTESTS)
            w, out = contest_story(rng, pick)
            return "a " + pick[0], join(out)
        if kind == 1:
            pick = rng.choice(G.SKILLS)
            w, out = skill_story(rng, pick)
            return f"learning to {pick[0]}", join(out)
        if kind == 2:
            return rng.choice(["two friends", "friendship", "a quarrel", "sharing"]), join(quarrel_story(rng)[1])
        return rng.choice(["a gift", "a birthday", "a birthday gift"]), join(gift_story(rng)[1])
    subject = subject or rng.choice(rng.choices([FEATURED, ALL_SUBJECTS, G.MORE_THINGS], STORY_MIX)[0])
    if subject == "robot":
        return "a robot", join(robot_story(rng)[1])
    makers = next(makers for table, makers in SUBJECT_STORIES if subject in table)
    w, out = rng.choice(makers)(rng, subject)
    article = "" if subject in ("snow", "rain") else "the " if subject in ("moon", "sun", "wind") else "an " if subject[0] in "aeiou" else "a "
    if "also" in w and rng.random() < 0.3:
        return f"{article}{subject} and {'an' if w['also'][0] in 'aeiou' else 'a'} {w['also']}", join(out)
    if subject in G.PLACES and rng.random() < 0.15:
        article = "an old "
    return article + subject, join(out)


# ---------------------------------------------------------------------------------------------------------------
# Chats

DEFINITIONS = {**{k: v[0] for t in (G.PLACES, G.THINGS, G.ANIMALS, G.PEOPLE, G.SKY) for k, v in t.items()}, **G.ABSTRACT}
ASK_STORY = ["Write a short story about {s}.", "Write a short story about {s}.", "Write a short story about {s}.", "Tell me a story about {s}.", "Tell me a short story about {s}.", "Write a story about {s}.", "Can you write a story about {s}?", "Can you tell me a story about {s}?", "Please write a short story about {s}.",
             "I would like a story about {s}.", "A story about {s}, please.", "Please tell me a bedtime story about {s}.", "write a story about {s}", "Story: {s}", "Write a little story for children about {s}.", "Make up a story about {s}."]
GREETINGS = [("Hello!", "Hello! [How can I help you|What would you like to talk about|Would you like to hear a story]?"), ("Hi", "Hi! [How can I help you today|What can I do for you]?"), ("Good morning!", "Good morning! [Did you sleep well|How can I help you|What can I do for you today]?"), ("Good evening.", "Good evening! [Would you like a bedtime story|How was your day]?"),
             ("How are you?", "I am [fine|very well], thank you. [How are you|And you]?"), ("Hey there", "Hello! [It is nice to meet you|How can I help]."), ("What is your name?", "My name is qnext. I am a small language model."), ("Who are you?", "I am [qnext, a small language model|the qnext starter model, a small language model]. I can [write short stories|tell short stories and answer simple questions]."),
             ("What can you do?", "I can write short stories, explain simple words, and do small sums. I am a very small model, so I make mistakes."), ("Are you a human?", "No, I am a small language model. [I only know simple words|I am a computer program]."), ("Who made you?", "I was trained by the qnext project. I am a small model to start from."),
             ("Thank you!", "You are welcome! [Is there anything else|I was happy to help|Have a nice day]."), ("Thanks", "You are welcome!"), ("Goodbye!", "Goodbye! [Have a nice day|See you soon|Take care]!"), ("Good night", "Good night! Sleep well."), ("I am sad.", "I am sorry to hear that. [Would you like to tell me more|Maybe a story would help|I hope you feel better soon]."),
             ("I am happy today!", "That is wonderful! [What happened|I am glad to hear it|Tell me more]."), ("I am bored.", "[Would you like to hear a story|How about a story about a fox|We could do some sums]?"), ("Tell me a joke.", "[Why did the clock go to school? It wanted to learn the time|What has a face but no eyes? A clock|What has teeth but cannot bite? A comb|What gets wetter the more it dries? A towel|Why did the book go to the doctor? It had lost its pages]."),
             ("Do you like stories?", "Yes! Stories are what I know best. [What should the next one be about|Would you like to hear one]?"), ("What is your favorite color?", "I like [blue, because it is the color of the sea|green, because it is the color of the forest|yellow, because it is the color of the sun].")]
THANKS = [("Thank you!", "You are welcome!"), ("That was nice.", "Thank you! I am glad you liked it."), ("Thanks, that was a good story.", "I am happy that you liked it. [Would you like another one|Come back any time]."), ("I liked that.", "I am glad! [Would you like to hear another story|What should the next one be about]?"), ("Good night!", "Good night! Sleep well and dream of good things.")]


def number(n):
    return G.COUNT_WORDS[n] if n <= 10 else str(n)


def question(rng):
    """One short question and its answer."""
    w = World(rng)
    kind = rng.random()
    if kind < 0.45:
        word = rng.choice(list(DEFINITIONS))
        bare = word in ("snow", "rain", "wind", "music", "water", "bread", "winter", "summer", "spring", "autumn", "honey", "fire", "ice", "soup", "cheese", "friendship", "courage", "kindness", "patience", "honesty")
        noun = word if bare else ("the " if word in ("moon", "sun", "sea") else "an " if word[0] in "aeiou" else "a ") + word
        return w.say(rng.choice([f"What is {noun}?", f"What is {noun}?", f"Explain what {noun} is.", f"What does the word {word} mean?", f"Tell me what {noun} is.", f"what is {noun}"])), DEFINITIONS[word]
    if kind < 0.60:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        if rng.random() < 0.6:
            return rng.choice([f"What is {a} + {b}?", f"What is {a} plus {b}?", f"{a} + {b} =", f"How much is {a} and {b}?"]), rng.choice([f"{a} + {b} = {a + b}.", f"{a} plus {b} is {a + b}."])
        a, b = max(a, b), min(a, b)
        return rng.choice([f"What is {a} - {b}?", f"What is {a} minus {b}?", f"{a} - {b} ="]), rng.choice([f"{a} - {b} = {a - b}.", f"{a} minus {b} is {a - b}."])
    if kind < 0.72:
        table, word = rng.choice([(t, k) for t in (G.PLACES, G.THINGS) for k in t])
        entry = table[word]
        desc = entry[2] if table is G.PLACES else entry[1]
        w = cast(rng)
        return rng.choice([f"Describe a {word}.", f"Describe a {word} in a few sentences.", f"What does a {word} look like?"]).replace("a island", "an island").replace("a umbrella", "an umbrella"), " ".join([entry[0]] + w.some(desc, 2))
    if kind < 0.80:
        thing, color = rng.choice(list(G.COLORS_OF.items()))
        return f"What color is {thing}?", f"{thing[0].upper() + thing[1:]} is {color}."
    if kind < 0.90:
        a, b = rng.choice(G.OPPOSITES).split()
        a, b = rng.choice([(a, b), (b, a)])
        return rng.choice([f"What is the opposite of {a}?", f"Give me the opposite of {a}."]), f"The opposite of {a} is {b}."
    animal = rng.choice([a for a in G.ANIMALS if a != "dragon"])
    _, home, color, food, sound, trait = G.ANIMALS[animal]
    article = "an" if animal[0] in "aeiou" else "a"
    return rng.choice([(f"Where does {article} {animal} live?", f"In many stories {article} {animal} lives {home}."), (f"What does {article} {animal} eat?", f"{article.capitalize()} {animal} likes to eat {food}."), (f"Describe {article} {animal}.", DEFINITIONS[animal] + f" In stories it is often {trait}.")])


def recall(rng):
    """Turns whose answer stands in the question or earlier in the chat: these teach a model to look back."""
    names = rng.sample(G.GIRLS + G.BOYS, 4)
    words = rng.sample(list(DEFINITIONS) + G.MORE_THINGS + G.ADJECTIVES, 8)
    kind = rng.randrange(6)
    if kind == 0:
        items = ", ".join(rng.sample(names + words, rng.randint(2, 9)))
        return [(rng.choice(["Repeat after me: {}", "Say this: {}", "Repeat: {}", "Please repeat these words: {}"]).format(items), items)]
    if kind == 1:
        turns = [(rng.choice(["My name is {}.", "Hello, I am {}.", "Hi! My name is {}."]).format(names[0]), rng.choice(["Hello, {}! It is nice to meet you.", "Nice to meet you, {}!", "Hello, {}! How can I help you?"]).format(names[0]))]
        return turns + [("What is my name?", f"Your name is {names[0]}.")] * rng.randint(0, 1)
    if kind == 2:
        animal, pet = rng.choice(["dog", "cat", "horse", "rabbit", "bird", "mouse", "donkey", "duck"]), rng.choice(G.PETS)
        return [(f"I have a {animal} named {pet}.", rng.choice([f"{pet} is a nice name for a {animal}.", f"A {animal}! {pet} must be a good friend."])), (rng.choice([f"What is the name of my {animal}?", f"What is my {animal} called?"]), f"Your {animal} is called {pet}.")]
    if kind == 3:
        owners = list(zip(names, rng.sample(list(G.FINDABLE) + G.MORE_THINGS, rng.randint(2, 4))))
        facts = " ".join(f"{n} has the {t}." for n, t in owners)
        (name, thing), (other, its) = rng.choice(owners), rng.choice(owners)
        return [(f"{facts} Who has the {thing}?", f"{name} has the {thing}."), (f"What does {other} have?", f"{other} has the {its}.")]
    if kind == 4:
        subject, adjective, spot = rng.choice(ALL_SUBJECTS), rng.choice(G.ADJECTIVES[:18]), rng.choice(G.SEARCH[:-1])
        return [(f"Write a sentence with the words {adjective} and {subject}.", World(rng).say(f"[The {adjective} {subject} was {spot}|{names[0]} dreamed of a {adjective} {subject}|{names[1]} drew a {adjective} {subject}]."))]
    girl, thing = names[0] in G.GIRLS, rng.choice(G.MORE_THINGS)
    return [(f"Write a sentence about {names[0]} and a {thing}.", World(rng).say(f"[{names[0]} told {'her' if girl else 'his'} friend {names[1]} about a {thing}|{names[0]} wanted to have a {thing}|One day {names[0]} read a book about a {thing}]."))]


def story_turn(rng):
    subject, text = story(rng)
    return rng.choice(ASK_STORY).replace("{s}", subject), text


def small_talk(rng):
    w = World(rng)
    ask, answer = rng.choice(GREETINGS)
    return ask, w.say(answer)


def chat(rng):
    kind = rng.random()
    if kind < 0.36:
        turns = [story_turn(rng)]
    elif kind < 0.62:
        turns = [turn for _ in range(rng.randint(1, 4)) for turn in recall(rng)]
    elif kind < 0.70:
        turns = [small_talk(rng), story_turn(rng)]
    elif kind < 0.78:
        ask, answer = rng.choice(THANKS)
        turns = [story_turn(rng), (ask, World(rng).say(answer))]
    elif kind < 0.84:
        turns = [question(rng), story_turn(rng)]
    elif kind < 0.95:
        turns = [question(rng) for _ in range(rng.choice([1, 2, 3, 4, 5, 6]))]
    else:
        turns = [small_talk(rng) for _ in range(rng.choice([1, 1, 2]))]
    text = f"<|im_start|>system\n{rng.choice(SYSTEM_PROMPTS)}<|im_end|>\n" if rng.random() < 0.15 else ""
    for user, assistant in turns:
        text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"
    return text


def short_chat(rng):
    """Recall and questions only: the curriculum's middle stage."""
    turns = recall(rng) if rng.random() < 0.6 else [question(rng)]
    return "".join(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n" for user, assistant in turns)


def document(rng, short=0.0):
    if rng.random() < short:
        return short_chat(rng) + "<|endoftext|>"
    return (chat(rng) if rng.random() < 0.72 else story(rng)[1] + "\n") + "<|endoftext|>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--documents", type=int, default=40000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", type=float, default=0.0, help="share of documents that are one short recall or question chat")
    parser.add_argument("--featured", type=int, default=35, help="percent of stories about the featured subjects")
    args = parser.parse_args()
    STORY_MIX[:] = [args.featured, (100 - args.featured) * 10 // 13, (100 - args.featured) * 3 // 13]
    rng = random.Random(args.seed)
    with open(args.out, "w", encoding="utf-8") as file:
        for _ in range(args.documents):
            file.write(json.dumps({"text": document(rng, args.short)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
