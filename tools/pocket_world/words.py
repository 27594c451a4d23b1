"""The words of the pocket world: who and what can be in it. One noun names one thing in one world."""


def words(text):
    """A readable table of words, one entry each; `_` stands for a space inside an entry."""
    return tuple(w.replace("_", " ") for w in text.split())


GIRLS = words("""
Ann Ada Alice Amy Anna Bella Bess Clara Cora Daisy Dora Edith Ella Elsa Emma Erin Eva Faye Fiona Flora Freya Gina Grace
Greta Hanna Hazel Helen Holly Ida Ingrid Irene Iris Ivy Jane Jill Joan Julia June Kate Kira Lara Laura Lea Lena Lily
Linda Lisa Lucy Mabel Maria Martha Mary Maya Mia Mila Mina Molly Nadia Nancy Nell Nina Nora Olga Olive Paula Pearl
Penny Petra Polly Rita Rosa Rose Ruby Ruth Sally Sara Sonia Sophie Stella Susan Tara Tess Tina Vera Viola Wanda Willa
Yara Zoe""")

BOYS = words("""
Adam Alan Albert Alex Andy Anton Arthur Basil Ben Bert Bill Bob Boris Bruno Carl Cole Colin Conrad Dan David Dean Dennis
Dirk Edgar Edwin Eli Emil Eric Erik Ezra Felix Finn Frank Fred Gabe George Glen Gus Hank Hans Harry Henry Hugo Ian Isaac
Ivan Jack Jacob James Jasper Jim Joe John Jonas Karl Kevin Kurt Leo Liam Louis Lucas Luke Marco Mark Martin Max Miles
Nick Noah Oliver Omar Oscar Otto Owen Pablo Paul Peter Philip Ralph Ray Rex Robert Roger Rolf Roy Rudy Sam Seth Simon
Stan Steve Ted Theo Tim Toby Tom Victor Walter Will""")

# Animals take part in events like people: they carry, hide and find.
ANIMALS = words("""
cat dog fox crow mouse goat horse donkey rabbit squirrel badger hedgehog owl parrot monkey bear wolf otter beaver hare
raven magpie goose duck hen rooster sheep cow pig pony camel elephant lion tiger panther leopard zebra giraffe kangaroo
koala panda raccoon weasel ferret hamster turtle frog toad lizard snake dragon penguin seal walrus dolphin heron stork
swan pigeon sparrow robin eagle hawk falcon peacock turkey lamb puppy kitten calf deer moose elk bat mole skunk""")

# Where people can be, with the word that English puts before it.
PLACES_IN = words("""
kitchen garden cellar attic hall bedroom bathroom library school barn stable forest cave castle tower church museum
theatre bakery workshop garage office hotel hospital park village valley desert jungle swamp meadow orchard vineyard
greenhouse study parlour pantry laundry nursery classroom gym chapel prison palace temple mill cottage cabin tent hut
shed factory warehouse shop bookshop pharmacy restaurant cafe inn tavern bank court courtyard alley tunnel mine quarry
canyon ravine glade thicket zoo circus aquarium laboratory observatory studio gallery dungeon vault corridor lobby
basement canteen dormitory playroom smithy brewery dairy tannery sawmill lighthouse boathouse treehouse""")
PLACES_AT = words("""
market harbour station airport beach river lake pond well fountain crossroads bridge gate farm fair stadium camp
campsite playground pier dock shore waterfall spring monument cemetery graveyard racetrack windmill""")
PLACES_ON = words("""hill island roof balcony terrace porch mountain cliff stage hilltop square deck veranda lawn field""")

# name: the ways a thing may lie there, and whether it opens.
CONTAINERS = {
    **dict.fromkeys(words("""box chest drawer cupboard wardrobe suitcase trunk cabinet fridge oven safe crate casket locker
        mailbox briefcase toolbox coffin hamper"""), (("in",), True)),
    **dict.fromkeys(words("""basket bag sack bucket jar bowl pot barrel backpack tub bin vase purse kettle pouch bathtub
        wheelbarrow cart sink cradle nest hollow_tree cauldron"""), (("in",), False)),
    **dict.fromkeys(words("""table desk bed bench chair sofa shelf stool piano stove counter windowsill armchair couch
        workbench mantelpiece dresser hammock"""), (("on", "under"), False)),
    **dict.fromkeys(words("""carpet rug blanket pillow mattress doormat"""), (("on", "under"), False)),
    **dict.fromkeys(words("""curtain mirror bush hedge fence statue bookcase screen"""), (("behind",), False)),
}
PORTABLE_CONTAINERS = frozenset(words("box basket bag sack bucket jar bowl pot suitcase briefcase backpack purse pouch toolbox crate"))

# Things that open and close but hold nothing and stay where they are.
DOORS = words("""door window trapdoor shutter garden_gate cage hatch drawbridge portal skylight back_door
front_door iron_gate""")

# Things that people carry, by what can happen to them.
BREAKABLE = words("""
cup plate glass mug bottle teapot saucer clock watch lens flute violin guitar drum trumpet radio camera telescope
microscope umbrella toy doll kite robot puppet snow_globe crystal teacup dish jug pitcher thermometer compass
hourglass spyglass telephone computer typewriter sewing_machine bicycle scooter sled skateboard wagon pen pencil ruler
necklace bracelet figurine ornament chessboard racket fishing_rod bow harp accordion harmonica whistle bell
fan hammer axe shovel rake spade ladder rope_ladder broom wheel lock keyboard calculator tablet monocle bulb""")
LIGHTABLE = words("""lamp lantern candle torch flashlight oil_lamp heater nightlight
chandelier firework""")
PLAIN_THINGS = words("""
ball book key coin ring apple pear plum peach lemon banana cherry grape melon carrot potato onion tomato
cabbage turnip pumpkin mushroom walnut acorn chestnut egg loaf cake pie biscuit cookie muffin sandwich sausage cheese_wheel
fish pancake waffle doughnut pretzel candy lollipop map letter envelope stamp postcard newspaper magazine notebook diary
ticket card photograph painting poster flag banner hat cap scarf coat jacket shirt dress skirt sock shoe boot glove mitten
belt tie ribbon button needle thread spool pin brush comb towel soap_bar sponge feather leaf flower rose tulip lily_bulb
daisy_chain sunflower twig branch log stone pebble shell pearl diamond emerald ruby_stone sapphire crown sceptre sword
shield dagger spear arrow helmet knife fork spoon ladle pan lid whisk rolling_pin apron napkin tablecloth cushion quilt
rope chain hook nail screw bolt brick tile plank board chalk crayon eraser stapler folder magnet battery cable marble dice
puzzle domino whip saddle bridle horseshoe collar leash bone seed nut berry fig olive_branch pepper garlic radish beet
corn_cob wheat_sheaf medal trophy token badge mask wig cape cloak robe wand scroll potion amulet talisman locket
brooch earring thimble bobbin anchor oar paddle net bait_tin float buoy lifebelt sail""")
THINGS = BREAKABLE + LIGHTABLE + PLAIN_THINGS

FILLABLE = frozenset(words("cup glass mug bottle teapot jug pitcher teacup bucket jar bowl pot barrel tub vase kettle bathtub sink cauldron"))
WASHABLE = frozenset(words("""cup plate glass mug dish hat cap scarf coat jacket shirt dress skirt sock shoe boot glove
mitten towel apron napkin tablecloth cushion quilt blanket knife fork spoon pan window carpet rug table cloak cape"""))

# "the small key" and "the old key" are different things of one world.
MODIFIERS = words("""old small big wooden silver golden iron glass paper stone long round heavy new little tiny clay
leather copper plastic square thin thick""")

COLOURS = words("""red blue green yellow black white brown grey orange purple pink golden silver turquoise violet crimson
beige scarlet""")
MOODS = words("happy sad angry tired hungry thirsty afraid proud bored sleepy calm nervous lonely cheerful excited jealous ill")
JOBS = words("""baker farmer teacher doctor nurse sailor soldier painter singer writer judge king queen tailor carpenter
gardener fisherman hunter miner pilot driver cook waiter butcher shepherd blacksmith librarian mechanic plumber
electrician engineer scientist astronomer dentist barber potter weaver clown dancer musician detective lawyer merchant
knight monk guard firefighter postman beekeeper shoemaker clockmaker""")
FOODS = words("""apples bread cheese soup honey rice pasta pizza chocolate cake fish eggs milk tea grapes berries nuts
pancakes potatoes carrots plums pears salad noodles beans cherries melons ice_cream porridge butter toast jam""")
NUMBERS = words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""")
DIRECTIONS = words("north south east west up down")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east", "up": "down", "down": "up"}

# Ledgers: what has a code, a price, a password.
LEDGER_OWNERS = words("""house door gate safe room locker box boat ship train bus car truck plane garden farm shop hotel
school tower castle bridge mill barn well island station harbour office library museum bakery cabin cottage tent wagon
chest drawer cupboard vault cellar attic garage kitchen stable church market theatre""")
LEDGER_FIELDS = ("code", "number", "price", "weight", "age", "size")
PASSWORDS = words("""sunrise copper willow thunder marble velvet harvest lantern meadow silver winter cinnamon falcon
granite orchid pepper rocket saffron timber violet walnut zephyr amber bamboo cactus domino ember fossil ginger hazel
indigo jasmine kernel lemon mango nectar onyx papaya quartz raven salmon tulip umber vanilla""")
# Few words would be learned by heart; of many only what was read helps.
PASSWORDS += tuple(w for w in THINGS + ANIMALS + FOODS + JOBS if " " not in w)
CITIES = words("""London Paris Rome Berlin Madrid Vienna Prague Lisbon Dublin Oslo Athens Cairo Delhi Tokyo Lima Boston
Chicago Sydney Toronto Moscow Geneva Milan Naples Porto Zurich""")

PLACES = {**dict.fromkeys(PLACES_IN, "in"), **dict.fromkeys(PLACES_AT, "at"), **dict.fromkeys(PLACES_ON, "on")}


def article(noun):
    """'a' or 'an' with the noun."""
    first = noun[0].lower()
    if first in "aeio" or (first == "u" and not noun.startswith(("uni", "use", "eu"))) or noun.startswith("hour"):
        return "an " + noun
    return "a " + noun


def listing(parts):
    """'x', 'x and y', 'x, y and z'."""
    parts = list(parts)
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def capital(text):
    return text[:1].upper() + text[1:]
