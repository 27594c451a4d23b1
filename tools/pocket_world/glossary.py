"""Definitions of common words from WordNet (Debian's wordnet-base), as short chats."""
import os
import re
from functools import lru_cache

from . import words as W
from .chats import Chat

DIRECTORY = "/usr/share/wordnet"
ASK = ["What is {n}?", "What is {n}?", "What does the word \"{w}\" mean?", "Can you explain what {n} is?", "Define \"{w}\".", "Do you know what {n} is?"]

COMMON = W.words("""
music water fire earth cloud rain snow ice storm thunder lightning wind sky sun moon star planet ocean sea coast desert
forest volcano glacier continent country city street road railway ship aeroplane tractor engine machine tool doctor
hospital medicine school university lesson poem novel story song dance sport football tennis chess money price market
trade factory law king queen president parliament army war peace friend family mother father child baby uncle aunt
cousin neighbour breakfast lunch dinner bread butter cheese salt sugar pepper coffee tea juice milk wine fruit vegetable
insect bird mammal reptile fish spider ant bee butterfly eagle whale shark horse tree flower grass leaf root seed wood
metal iron copper gold silver stone glass paper plastic cotton wool silk leather colour shape circle triangle square
cube line number fraction arithmetic geometry hour minute week month year century season spring summer autumn winter
morning evening night dream memory hope courage honesty patience luck danger secret promise question answer word letter
sentence language alphabet dictionary photograph film theatre orchestra harvest orchard shepherd carpenter astronomer
telescope microscope thermometer compass magnet battery electricity gravity energy heat shadow mirror echo tunnel""")


MASS = frozenset(W.words("""music water fire earth rain snow ice lightning wind medicine money trade law war peace bread butter
cheese salt sugar pepper coffee tea juice milk wine fruit grass wood metal iron copper gold silver glass paper plastic cotton
wool silk leather arithmetic geometry courage honesty patience luck danger electricity gravity energy heat breakfast lunch
dinner football tennis chess spring summer autumn winter chalk garlic thunder hope memory bait corn"""))

# WordNet's lexicographer files: animal, artifact, food, location, object, person, plant.
THING_SENSES = frozenset(("05", "06", "13", "15", "17", "18", "20"))


class MissingWordNet(Exception):
    pass


@lru_cache(maxsize=4)
def definitions(directory=DIRECTORY):
    """{noun: first sentence of the first sense's gloss}, for the words of this world and COMMON."""
    index, data = os.path.join(directory, "index.noun"), os.path.join(directory, "data.noun")
    if not (os.path.exists(index) and os.path.exists(data)):
        raise MissingWordNet(f"{directory}: expected WordNet's index.noun and data.noun (Debian package wordnet-base)")
    things = {*W.ANIMALS, *W.PLACES, *W.CONTAINERS, *W.THINGS, *W.JOBS, *W.DOORS}
    nouns = things.union(COMMON)
    offsets = {}
    with open(index, encoding="ascii") as lines:
        for line in lines:
            if line[0] == " ":
                continue
            fields = line.split()
            word = fields[0].replace("_", " ")
            if word in nouns:
                offsets[word] = [int(x) for x in fields[6 + int(fields[3]):]]
    found = {}
    with open(data, "rb") as file:
        for word in sorted(offsets):
            senses = []
            for offset in offsets[word]:
                file.seek(offset)
                fields, gloss = file.readline().decode("ascii").split("|", 1)
                senses.append((fields.split()[1], gloss.strip()))
            # A thing of this world is meant as a thing: the first sense of such a kind, else the first of all.
            gloss = next((g for kind, g in senses if word in things and kind in THING_SENSES), senses[0][1])
            gloss = re.sub(r"\([^)]*\)", "", gloss.split(";")[0].split('"')[0])
            gloss = re.sub(r"\s+", " ", gloss).strip(" ,:")
            if 3 <= len(gloss.split()) <= 16 and word not in gloss.split() and gloss.isascii() and not gloss[0].isupper():
                found[word] = gloss
    return found


def glossary(rng, words, accept=False, log=False, directory=DIRECTORY):
    known = definitions(directory)
    names = list(known)
    chat = Chat("glossary")
    for _ in range(max(1, min(60, int(words / 25)))):
        word = names[int(rng.random() * len(names))]
        text = ASK[int(rng.random() * len(ASK))].format(n=word if word in MASS else W.article(word), w=word)
        answer = f"{W.capital(word)}: {known[word]}."
        chat.questions.append({"message": len(chat.messages) + 1, "type": "glossary", "answer": answer,
                               "accept": [answer, known[word]], "distance": None, "word": word})
        chat.add("user", text)
        chat.add("assistant", answer)
    return chat.document(accept)
