"""The sentence forms of events, questions and answers. The first forms of each list are the plain ones, and most frequent.

Fields: {a} who acts, {b} another, {t} "the ball", {nt} "a ball", {c} "the box", {nc} "a box", {r} in/on/under/behind,
{p} "the kitchen", {ip} "in the kitchen", {q} and {iq} the place before, {v} a value, {s} {o} {h} she/her/her of {a}.
"""

EVENTS = {
    "person_at": [
        "{a} is {ip}.", "{a} was {ip}.", "{a} is {ip} today.",
        "{ip}, {a} was waiting.", "{a} stood {ip}.", "{a} sat {ip}.", "{a} was {ip} early that day.",
        "You could see {a} {ip}.", "{a} had slept {ip}.", "{a} was resting {ip}.", "{a} was alone {ip}.",
    ],
    "thing_at": [
        "There is {nt} {ip}.", "{t} is {ip}.", "There was {nt} {ip}.",
        "{nt} lay {ip}.", "Someone had left {nt} {ip}.", "{ip} there was {nt}.", "{ip} lay {nt}.",
        "{nt} had been lying {ip} for a long time.", "{nt} could be seen {ip}.",
    ],
    "thing_by": [
        "There is {nt} {r} {c}.", "{t} is {r} {c}.", "There was {nt} {r} {c}.",
        "{nt} lay {r} {c}.", "{r} {c} there was {nt}.", "Somebody had left {nt} {r} {c}.", "{r} {c} lay {nt}.",
        "{nt} had been {r} {c} since yesterday.",
    ],
    "thing_with": [
        "{a} has {nt}.", "{a} had {nt}.", "{a} has {t}.",
        "{a} had brought {nt}.", "{a} was holding {nt}.", "{nt} belonged to {a}, who held it.", "{a} carried {nt}.",
        "{nt} was in the hands of {a}.",
    ],
    "container_at": [
        "There is {nc} {ip}.", "{c} is {ip}.", "There was {nc} {ip}.",
        "{nc} stood {ip}.", "{ip} there was {nc}.", "{ip} stood {nc}.", "Everybody knew {c} that stood {ip}.",
    ],
    "door_at": [
        "There is {nt} {ip}.", "There was {nt} {ip}.", "{nt} could be seen {ip}.", "{ip} there was {nt}.",
    ],
    "go": [
        "{a} went to {p}.", "{a} walked to {p}.", "{a} is now {ip}.",
        "{a} moved to {p}.", "{a} ran to {p}.", "{a} went from {q} to {p}.", "{a} left {q} and went to {p}.",
        "Then {a} went to {p}.", "After that, {a} walked to {p}.", "{a} hurried to {p}.", "{a} came to {p}.",
        "{a} strolled over to {p}.", "{a} travelled to {p}.", "{a} made {h} way to {p}.", "{a} returned to {p}.",
        "Soon {a} was {ip}.", "{a} wandered off to {p}.", "{a} rushed to {p} without a word.",
        "{a} decided to go to {p}, and went.", "It was too loud {iq}, so {a} went to {p}.", "{a} crept quietly to {p}.",
        "{a} marched to {p}.", "{a} did not want to stay {iq} and left for {p}.", "{a} headed for {p} and arrived there.",
        "At noon {a} was {ip}.", "{a} was called to {p} and went there.", "{a} followed the path to {p}.",
    ],
    "go_with": [
        "{a} took {t} to {p}.", "{a} carried {t} to {p}.", "{a} went to {p} with {t}.",
        "With {t}, {a} walked to {p}.", "{a} brought {t} to {p}.", "{a} went to {p} and kept {t}.",
        "{a} hurried to {p} and held {t} tight.",
    ],
    "take": [
        "{a} took {t}.", "{a} picked up {t}.", "{a} got {t}.",
        "{a} grabbed {t}.", "Then {a} took {t}.", "{a} lifted {t} and kept it.", "{a} reached for {t} and took it.",
        "{a} picked {t} up from the ground.", "{a} wanted {t}, so {s} took it.", "{a} seized {t}.",
        "{a} bent down and picked up {t}.", "Without asking, {a} took {t}.", "{a} now has {t}.",
        "{a} collected {t}.", "{t} was picked up by {a}.",
    ],
    "take_from": [
        "{a} took {t} from {c}.", "{a} got {t} from {c}.", "{a} removed {t} from {c}.",
        "{a} picked up {t} from {c}.", "From {c}, {a} took {t}.", "{a} went to {c} and took {t}.",
        "{a} pulled {t} away from {c}.", "{t} was taken from {c} by {a}.", "{a} fetched {t} from {c}.",
    ],
    "drop": [
        "{a} dropped {t} {ip}.", "{a} put down {t} {ip}.", "{a} left {t} {ip}.",
        "{a} laid {t} down {ip}.", "{a} set {t} down {ip}.", "{t} was left {ip} by {a}.", "{a} let go of {t} {ip}.",
        "{a} was tired of {t} and left it {ip}.", "{a} threw {t} away, and now it lies {ip}.",
        "{a} placed {t} on the ground {ip}.", "{ip}, {a} put {t} down.",
    ],
    "put": [
        "{a} put {t} {r} {c}.", "{a} placed {t} {r} {c}.", "{a} left {t} {r} {c}.",
        "{a} laid {t} {r} {c}.", "Then {a} put {t} {r} {c}.", "{a} set {t} down {r} {c}.", "{t} was put {r} {c} by {a}.",
        "{a} stored {t} {r} {c}.", "{a} carefully put {t} {r} {c}.", "{a} kept {t} {r} {c} from then on.",
        "{a} found a good spot for {t} {r} {c}.", "{r} {c}, {a} put {t}.", "{a} tossed {t}, and it landed {r} {c}.",
    ],
    "hide": [
        "{a} hid {t} {r} {c}.", "{a} secretly put {t} {r} {c}.", "{a} has hidden {t} {r} {c}.",
        "{t} was hidden {r} {c} by {a}.", "When nobody was looking, {a} hid {t} {r} {c}.",
        "{a} thought that {t} was safe {r} {c} and hid it there.", "{a} tucked {t} away {r} {c}.",
    ],
    "give": [
        "{a} gave {t} to {b}.", "{a} handed {t} to {b}.", "{b} got {t} from {a}.",
        "{a} passed {t} to {b}.", "{a} gave {b} {t}.", "{a} lent {t} to {b}.", "{b} was given {t} by {a}.",
        "{a} threw {t} to {b}, who caught it.", "{a} offered {t} to {b}, and {b} took it.", "{b} received {t} from {a}.",
        "{a} made {b} a present of {t}.", "{b} asked {a} for {t} and got it.", "{a} sold {t} to {b}.",
        "{a} had no use for {t} and gave it to {b}.",
    ],
    "steal": [
        "{a} took {t} from {b}.", "{a} stole {t} from {b}.", "{a} snatched {t} from {b}.",
        "{a} quietly took {t} away from {b}.", "{b} lost {t} to {a}, who stole it.", "{a} tricked {b} and got {t}.",
        "{a} won {t} from {b}.", "While {b} was dreaming, {a} took {t} from {b}.",
    ],
    "lose": [
        "{a} lost {t}.", "{a} has lost {t}.", "{a} lost {t}, and nobody knows where it is.",
        "{t} is gone: {a} lost it.", "{a} looked for {t}, but it was lost.", "Somehow {a} lost {t} on the way.",
        "{t} slipped away from {a} and was lost.",
    ],
    "find": [
        "{a} found {t}.", "{a} found {t} and took it.", "{a} found {t} again.",
        "After a long search, {a} found {t} and kept it.", "By chance {a} found {t} and picked it up.",
        "{a} discovered {t} and took it.", "{t} was found by {a}, who took it.",
    ],
    "push": [
        "{a} pushed {c} to {p}.", "{a} moved {c} to {p}.", "{a} pulled {c} to {p}.",
        "{a} dragged {c} to {p}.", "With a lot of effort, {a} pushed {c} to {p}.", "{a} rolled {c} to {p}.",
    ],
    "open": [
        "{a} opened {t}.", "{t} was opened by {a}.", "{a} opened {t} slowly.",
        "{a} pushed {t} open.", "With a creak, {a} opened {t}.", "{a} unlocked and opened {t}.", "{t} is open now.",
        "{a} went to {t} and opened it.", "{a} left {t} open.",
    ],
    "close": [
        "{a} closed {t}.", "{t} was closed by {a}.", "{a} shut {t}.",
        "{a} slammed {t} shut.", "{a} went to {t} and closed it.", "{t} is closed now.", "{a} closed {t} without a sound.",
        "There was a draught, so {a} closed {t}.",
    ],
    "break": [
        "{a} broke {t}.", "{t} is broken.", "{a} broke {t} by accident.",
        "{t} fell and broke.", "{a} stumbled, and {t} broke.", "With a crash, {t} broke.", "{t} broke into two pieces.",
        "{a} stepped on {t} and broke it.",
    ],
    "repair": [
        "{a} repaired {t}.", "{a} fixed {t}.", "{t} was repaired by {a}.",
        "{a} mended {t}.", "{a} worked for an hour and repaired {t}.", "With glue and patience, {a} fixed {t}.",
        "{t} is whole again, for {a} repaired it.",
    ],
    "light": [
        "{a} lit {t}.", "{a} turned on {t}.", "{a} switched on {t}.",
        "It was dark, so {a} lit {t}.", "{t} was lit by {a}.", "{a} made {t} burn brightly.",
    ],
    "put_out": [
        "{a} put out {t}.", "{a} turned off {t}.", "{a} switched off {t}.",
        "{t} went out.", "{a} blew, and {t} went out.", "It was bright enough, so {a} put out {t}.",
    ],
    "fill": [
        "{a} filled {t}.", "{a} filled {t} with water.", "{t} was filled by {a}.",
        "{a} poured water until {t} was full.", "{a} made {t} full to the brim.",
    ],
    "empty": [
        "{a} emptied {t}.", "{t} was emptied by {a}.", "{a} emptied {t} completely.",
        "{a} poured everything out, and {t} was empty.", "{a} drained {t} to the last drop.",
    ],
    "wash": [
        "{a} washed {t}.", "{a} cleaned {t}.", "{t} was washed by {a}.",
        "{a} scrubbed {t} until it was clean.", "{a} rinsed {t}, and it was clean.",
    ],
    "soil": [
        "{a} made {t} dirty.", "{t} got dirty.", "{a} spilled mud, and {t} got dirty.",
        "{t} fell into a puddle and was dirty.", "{a} smeared jam on {t}, so it was dirty.",
    ],
    "colour": [
        "{t} is {v}.", "The colour of {t} is {v}.", "{t} was {v}.",
        "{t} was as {v} as could be.", "Everyone could see that {t} was {v}.", "{t} had a fine {v} colour.",
    ],
    "paint": [
        "{a} painted {t} {v}.", "{a} painted {t}, and now it is {v}.", "{t} was painted {v} by {a}.",
        "{a} coloured {t} {v}.", "{a} gave {t} a new coat of {v} paint.", "{a} took a brush and painted {t} {v}.",
        "Thanks to {a}, {t} is {v} now.", "{a} dyed {t} {v}.",
    ],
    "mood": [
        "{a} is {v}.", "{a} was {v}.", "{a} became {v}.",
        "{a} felt {v}.", "Suddenly {a} was {v}.", "{a} looked {v}.", "By then {a} had become {v}.", "All this made {a} {v}.",
    ],
    "job": [
        "{a} is {nv}.", "{a} works as {nv}.", "{a} became {nv}.",
        "{a} had always wanted to be {nv}, and now {s} was one.", "{a} earns {h} bread as {nv}.",
    ],
    "likes": [
        "{a} likes {v}.", "{a} likes {v} best.", "The favourite food of {a} is {v}.",
        "{a} cannot get enough of {v}.", "Of all foods, {a} likes {v} most.",
    ],
    "age": [
        "{a} is {v} years old.", "The age of {a} is {v}.", "{a} is now {v} years old.",
        "{a} had a birthday and is {v} years old.",
    ],
}

# With a pronoun for the actor of the sentence before.
PRONOUN_FORMS = {
    "go": ["Then {s} went to {p}.", "{s} went to {p}.", "After that, {s} walked to {p}.", "Next {s} ran to {p}."],
    "take": ["{s} took {t}.", "Then {s} picked up {t}.", "There {s} took {t}."],
    "take_from": ["{s} took {t} from {c}.", "Then {s} got {t} from {c}."],
    "put": ["{s} put {t} {r} {c}.", "Then {s} put {t} {r} {c}."],
    "drop": ["{s} left {t} {ip}.", "Then {s} dropped {t} {ip}."],
    "give": ["{s} gave {t} to {b}.", "Then {s} handed {t} to {b}."],
    "open": ["{s} opened {t}.", "Then {s} opened {t}."],
    "close": ["{s} closed {t}.", "Then {s} closed {t}."],
    "paint": ["{s} painted {t} {v}.", "Then {s} painted {t} {v}."],
}

# question type: (forms of the question, forms of the answer by case). Every case has one answer form.
QUESTIONS = {
    "where_thing": ["Where is {t}?", "Where is {t} now?", "Where can I find {t}?", "Do you know where {t} is?", "Tell me where {t} is."],
    "where_person": ["Where is {a}?", "Where is {a} now?", "Where can I find {a}?", "In which place is {a}?", "Tell me where {a} is."],
    "who_has": ["Who has {t}?", "Who has {t} now?", "Who holds {t}?", "In whose hands is {t}?"],
    "room": ["In which place is {t}?", "In which place would I find {t}?"],
    "contents": ["What is {r} {c}?", "What is {r} {c} now?", "What can I find {r} {c}?"],
    "belongings": ["What does {a} have?", "What does {a} have now?", "What is {a} carrying?"],
    "count": ["How many things does {a} have?", "How many things does {a} have now?"],
    "before_thing": ["Where was {t} before that?", "Where was {t} before?"],
    "before_person": ["Where was {a} before that?", "Where was {a} before?"],
    "has": ["Does {a} have {t}?", "Does {a} have {t} now?"],
    "is_at": ["Is {t} {r} {c}?", "Is {t} {r} {c} now?"],
    "is_there": ["Is {a} {ip}?", "Is {a} {ip} now?"],
    "is_open": ["Is {t} open?", "Is {t} open now?", "Is {t} open or closed?"],
    "is_broken": ["Is {t} broken?", "Is {t} broken now?", "Is {t} broken or whole?"],
    "is_lit": ["Is {t} on?", "Is {t} on now?", "Is {t} on or off?"],
    "is_full": ["Is {t} full?", "Is {t} full now?", "Is {t} full or empty?"],
    "is_dirty": ["Is {t} dirty?", "Is {t} dirty now?", "Is {t} dirty or clean?"],
    "colour": ["What colour is {t}?", "What colour is {t} now?", "Which colour does {t} have?", "What is the colour of {t}?"],
    "mood": ["How does {a} feel?", "How is {a} feeling now?"],
    "job": ["What does {a} do for a living?", "What is the job of {a}?", "What does {a} work as?"],
    "likes": ["What does {a} like to eat?", "What food does {a} like?", "What is the favourite food of {a}?"],
    "age": ["How old is {a}?", "What is the age of {a}?"],
}

STATE_WORDS = {  # question type: (value that "yes" means, the other)
    "is_open": ("open", "closed"), "is_broken": ("broken", "whole"), "is_lit": ("on", "off"),
    "is_full": ("full", "empty"), "is_dirty": ("dirty", "clean"),
}
UNKNOWN = "I do not know."
