"""The word lists and sentence templates of the generated corpus.

`[a|b|c]` picks one alternative and may nest; `{x}` is a field of the story's world (corpus.py): {h} hero, {f} friend,
{e} elder, each with the pronouns {hs} he/she/it, {ho} him/her/it, {hp} his/her/its, and capitalised {Hs}, {Hp}.
"""

GIRLS = """Mia Lily Anna Rose Ella Nora Ruby Clara Sophie Emma Grace Lucy Ivy Hazel Maya Zoe Tess Alice Daisy June Molly
Nina Olive Penny Sara Tara Wendy Lena Eva Kate Bella Cora Dora Fern Gwen Holly Iris Jane Kira Luna""".split()
BOYS = """Tom Ben Sam Max Leo Jack Finn Noah Oscar Theo Henry Milo Luke Adam Peter Hugo Felix Jonas Eli Toby Ned Ravi
Paul Simon Otto Will Jasper Kai Liam Mark Nick Owen Rory Seth Tim Victor Walter Zack Arthur Charlie""".split()
PETS = "Pip Biscuit Rusty Pepper Button Maple Clover Acorn Pebble Ginger Smoky Nutmeg Patch Honey Bramble Cricket Willow".split()
ROBOTS = "Bolt Beep Tiny Sprocket Gizmo Rivet Zip Copper Widget Dot".split()

CHILD = "curious kind brave little quiet clever cheerful gentle shy patient lively thoughtful".split()

ELDERS_F = ["Grandma Rose", "Grandmother", "Aunt Martha", "old Mrs. Hill", "Miss Green", "old Mrs. Bell", "Aunt Lucia"]
ELDERS_M = ["Grandpa Joe", "Grandfather", "Uncle Ted", "old Mr. Hill", "Mr. Brown", "old Mr. Stone", "Uncle Ivan"]

OPEN_TIME = """[Once upon a time,|Long ago,|Many years ago,|One summer,|One spring,|Not so long ago,] there [was|lived] {hintro}.
There [was once|once lived] {hintro}.
{hintro} lived {home}.
{home} lived {hintro}.
[In a small town|In a quiet village|Far away], there lived {hintro}.
This is the story of {hintro}.
Everyone {home2} knew {hintro}.""".split("\n")
HOMES = [("in a small house by the sea", "in the town by the sea"), ("in a village between two hills", "in the village"),
         ("in a [red|blue|yellow|white] house at the end of the street", "in the street"), ("on a farm near the woods", "in the valley"),
         ("in a busy town", "in the town"), ("in a cottage beside the river", "along the river"), ("in a tall house in the city", "in the neighborhood"),
         ("at the edge of the forest", "near the forest"), ("in a little wooden house on the hill", "on the hill")]

DAYS = """One [sunny|bright|cold|windy|rainy|foggy|quiet|warm] [morning|afternoon|day]
One [Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday] [morning|afternoon]
One day in [spring|summer|autumn|winter]
Early one morning
One evening, [just before dinner|as the sun went down|when the sky was pink]
On the first day of [spring|summer|autumn|winter]
One morning, after breakfast
A few days later""".split("\n")

NIGHTS = ["One night", "One [stormy|dark|cold|foggy] [evening|night]", "Late one evening", "One [autumn|winter] night", "One evening, when the sun had gone down", "On a night without a moon", "In the middle of the night"]

SAID_WORRY = """"What [can|shall|should] we do?" [asked|whispered] {h}.
"Oh no," said {h}. "[This is terrible|This is not good|Somebody has to help]."
"[Do not worry|Stay calm|We will find a way]," said {f}. "[We can do it together|Every problem has an answer|Let us think]."
{h} [felt worried|felt sad|was afraid], but {hs} did not give up.
{h} took a deep breath and [thought hard|tried to think|looked around].
"[We must try|I will not give up|I want to help]," said {h}.
At first nobody knew what to do.
{h} wanted to cry, but {hs} [wiped {hp} eyes|stood up straight] instead.""".split("\n")

ASK_HELP = """{h} ran to {f} and [told {fo} everything|asked for help].
"Can you help me?" {h} asked {f}. "[Of course|Yes, of course|I would love to]," said {f}.
So {h} [went to see|called|visited] {e}. "[Listen|Come here|Sit down]," said {e}. "I [know what to do|have an idea|saw this once before]."
{f} came at once. "[Two heads are better than one|Friends help each other|I am here now]," {fs} said.
{h} and {f} [sat down and made a plan|talked about it for a while|looked at each other and nodded].""".split("\n")

TRY_FAIL = """First they tried to [do it fast|guess], but it did not work.
The first try [failed|did not work|went wrong], and [both of them sighed|{f} laughed a little|{h} frowned].
It was [harder|slower|more difficult] than they thought.
"[It will not work|It is too hard|I am tired]," said {h}. "[Try once more|Try again|One more time]," said {f}.
It took [all morning|a long time|the whole afternoon], but they [kept going|did not stop|worked on].
""".split("\n")

JOY = """{h} [smiled|laughed|jumped for joy|clapped {hp} hands].
"[We did it|It worked|Hooray|Look at that]!" [cried|shouted|said] {f}.
Everyone [cheered|clapped|was happy|was proud of them].
{h} felt [proud|warm inside|very happy|as light as a feather].
{e} [hugged them both|shook their hands|gave them each a warm roll with butter|smiled from ear to ear].
"[Thank you|Well done|I am so proud of you]," said {e}. "[You have a good heart|You were very brave|You never gave up]." """.split("\n")

ENDINGS = """From that day on, {h} and {f} were [best friends|the best of friends|always together].
That night, {h} [slept well|fell asleep with a smile|dreamed of new adventures].
And {h} never forgot that day.
{h} learned that [even small hands can do great things|it is good to ask for help|being kind is the best gift|patience is worth more than speed|we are stronger together|being brave means trying even when you are afraid].
And they all lived happily ever after.
Then they walked home together [under the stars|hand in hand|singing a song|in the golden light].
After that, {h} [came back|visited] every [week|Sunday|summer|day].
"[Tomorrow|Next time]," said {h}, "we will [do it again|have another adventure|bring more friends]."
It was the best day of the whole year.
{h} went home, [ate a bowl of hot soup|drank a cup of warm milk|sat by the fire], and told {hp} family all about it.
Sometimes, when the nights are quiet, {h} still thinks about it and smiles.
The end.""".split("\n")

# ---------------------------------------------------------------------------------------------------------------
# Places: (definition, where, descriptions, things one does there, [(trouble, worry, steps, result)])
PLACES = {
"lighthouse": ("A lighthouse is a tall tower by the sea. Its bright light shows ships where the rocks are.",
  "[on a rocky cliff above the sea|on a small island|at the end of a long beach|on the rocks near the harbor]",
  ["The lighthouse was [tall and white|white with red stripes|old but strong].", "Every night its [bright|great] lamp turned round and round.",
   "Its light showed the ships the [safe way|way] home.", "A hundred stone steps went up to the lamp.", "From the top you could see [the whole bay|boats as small as toys|far across the water]."],
  ["{h} loved to climb the long stairs and look at the sea.", "{h} liked to count the ships from the top window.", "In the evening, {h} watched the beam of light move over the waves.", "{h} helped {e} polish the glass of the lamp."],
  [("the old lighthouse keeper fell ill", "The sun was going down, and nobody was there to light the lamp.",
    ["\"I will do it,\" said {h}, and {hs} ran up the hundred steps with a match and a can of oil.", "{Hs} had watched the keeper many times, so {hs} knew what to do.", "{Hs} cleaned the glass, filled the lamp, and lit the flame, and {f} kept watch at the window."],
    "All night the light shone over the sea. In the morning the keeper opened his eyes and smiled. \"Now the lighthouse has two keepers,\" he said."),
   ("a lost seagull sat on the window of the lighthouse", "Its wing was hurt, and the wind outside was wild and cold.",
    ["{h} opened the window and lifted it in with both hands.", "They made a nest of old sails beside the warm lamp.", "{f} brought a little fish and some water."],
    "After a week the seagull could fly again. It circled three times around the lighthouse, and every evening it came back to sit beside the light."),
   ("the lamp in the lighthouse went out", "Out at sea, a [fishing boat|ship|little boat] was coming home in the dark, and the rocks were near.",
    ["They climbed up all the steps to the lamp room.", "{f} held a lantern while {h} cleaned the black smoke from the glass.", "They filled the lamp with fresh oil, and {h} lit it with a match."],
    "The light shone over the dark water again. The [sailors|fishermen] saw it, turned away from the rocks, and came home safe."),
   ("a thick fog rolled in, and nobody could see the light", "A ship was somewhere out there, lost in the white fog.",
    ["\"The light is not enough,\" said {e}. \"We need a sound.\"", "{h} found the old brass bell in the cellar of the lighthouse.", "All night they rang the bell, once every minute."],
    "At last a horn answered from the sea. The ship followed the sound of the bell and reached the harbor safely."),
   ("a great storm broke the window at the top of the lighthouse", "The wind blew in, and the flame began to shake.",
    ["{h} held a wooden board against the window.", "{f} hammered in one nail after another.", "Then they sat beside the lamp all night and kept the flame alive."],
    "In the morning the sea was calm, and every boat had come home. The captain of the biggest ship waved his hat at the lighthouse.")]),
"garden": ("A garden is a piece of land where people grow flowers, fruit, or vegetables.",
  "[behind the house|behind an old stone wall|next to the school|at the end of the lane]",
  ["In the garden there were [roses and tulips|sunflowers as tall as a door|beans, carrots, and round red tomatoes].", "Bees hummed from flower to flower.", "A small path led to a bench under the apple tree.", "It smelled of [mint and wet earth|roses and honey]."],
  ["Every morning {h} watered the plants.", "{h} knew the name of every flower.", "{h} liked to dig in the soft brown earth.", "{h} planted a tiny seed and waited."],
  [("all the flowers hung their heads", "It had not rained for weeks, and the ground was as hard as stone.",
    ["They carried buckets of water from the [well|river].", "{f} put straw around the roots to keep them cool.", "Every evening {h} gave each plant a drink and a kind word."],
    "A week later the garden was green again, and the first rose opened its petals."),
   ("something had eaten the lettuce in the garden", "There were small round bites in every leaf.",
    ["That night they hid behind the apple tree and waited.", "In the moonlight a hungry little rabbit hopped through a hole in the fence.", "\"{Hs2} is only hungry,\" said {h}, and they planted a small bed of clover outside the fence."],
    "After that the rabbit ate the clover, and the lettuce grew big and green.")]),
"river": ("A river is a long stream of water that flows across the land to a lake or to the sea.",
  "[between green hills|at the bottom of the valley|through the middle of the village]",
  ["The river was [wide and slow|clear and cold|never quiet].", "Silver fish swam between the stones.", "Willow trees touched the water with their long branches.", "It came from the mountains and went all the way to the sea."],
  ["{h} liked to throw flat stones and count the jumps.", "In summer {h} swam in the river.", "{h} often sat on the bank and listened to the water.", "{h} made little boats out of leaves."],
  [("the river rose higher and higher", "It had rained for three days, and the water was close to the first houses.",
    ["{h} rang the bell to wake the village.", "Everyone filled bags with sand and passed them from hand to hand.", "{f} and {h} worked in the rain until their arms were sore."],
    "In the morning the rain stopped. The wall of sand had held, and every house was dry."),
   ("the bridge over the river broke", "Now nobody could reach the [school|market|mill] on the other side.",
    ["They found a long rope and two strong logs.", "{f} tied the rope to a tree on one side.", "{h} crossed in a small boat and tied it on the other side."],
    "Soon there was a new bridge, and {h} was the first to walk across it.")]),
"mountain": ("A mountain is very high land with steep sides. Its top is called the peak.",
  "[behind the village|far to the north|above the dark forest]",
  ["The mountain was so high that its top was white with snow even in summer.", "Eagles circled around the peak.", "A narrow path went up between the rocks.", "In the evening the mountain turned pink and gold."],
  ["{h} dreamed of standing on the top.", "Every day {h} looked up at the mountain.", "{h} drew the mountain again and again.", "{h} knew every path at the foot of the mountain."],
  [("a young goat was stuck on a ledge of the mountain", "It cried, and its mother cried below.",
    ["They climbed slowly, one step at a time.", "{f} held the end of the rope while {h} crawled out onto the ledge.", "{h} put the goat on {hp} shoulders and climbed back."],
    "The little goat jumped down and ran to its mother."),
   ("a cloud came down and hid the path on the mountain", "Everything was white, and they could not see their own feet.",
    ["\"Stay close to me,\" said {f}.", "{h} found a pile of stones that showed the way.", "From one pile of stones to the next, they went down step by step."],
    "When they came out of the cloud, they saw the lights of the village below.")]),
"bakery": ("A bakery is a shop where bread and cakes are made and sold.",
  "[on the corner of the square|in a narrow street|next to the fountain]",
  ["The bakery smelled of warm bread and cinnamon.", "In the window there were round loaves, [honey cakes|apple pies|buns with sugar], and small rolls.", "The oven was already hot before the sun came up.", "A little bell rang when someone opened the door."],
  ["Every morning {h} bought a warm roll there.", "{h} liked to watch the dough rise.", "On Saturdays {h} helped {e} in the bakery.", "{h} wanted to become a baker one day."],
  [("there was no bread in the bakery", "The baker was ill in bed, and the whole street was hungry.",
    ["{h} found the recipe in a drawer.", "{f} mixed the flour, the water, the salt, and the yeast.", "They kneaded the dough, let it rise, and put it into the hot oven."],
    "Soon the smell of fresh bread filled the street, and people came from every house."),
   ("the big birthday cake in the bakery fell on the floor", "The party was only three hours away.",
    ["They washed the table and started again.", "{h} beat the eggs while {f} melted the butter.", "They covered the new cake with cream and [strawberries|cherries|blue flowers of sugar]."],
    "The new cake was even better than the old one, and not one crumb was left.")]),
"library": ("A library is a place with many books. People can read there or borrow books and take them home.",
  "[in the middle of the town|in an old brick house|across from the park]",
  ["The library was [quiet and cool|full of soft light].", "The shelves went all the way up to the ceiling.", "It smelled of old paper and wood.", "There were books about ships, stars, animals, and kings."],
  ["{h} went there every day after school.", "{h} read until the lamps were turned off.", "{h} liked the chair by the window best.", "{h} wanted to read every book in the library."],
  [("rain began to drip through the roof of the library", "The drops fell right beside the oldest books.",
    ["They put bowls and buckets under the holes.", "{h} and {f} carried the books to a dry room, one pile after another.", "{e} climbed up and nailed new boards on the roof."],
    "Not a single page was lost, and that evening everyone sat together and read aloud."),
   ("the most important book was missing from the library", "It held the old stories of the town, and there was no other copy.",
    ["They looked on every shelf and under every table.", "{f} found a note inside another book. It said, \"I could not stop reading.\"", "They followed the note to an old sailor who sat on a bench, reading the last page."],
    "\"I am sorry,\" said the sailor, and he gave back the book. After that he came every week and read stories to the children.")]),
"train station": ("A train station is a place where trains stop so that people can get on and off.",
  "[at the edge of the town|near the river|in the valley]",
  ["A big clock hung above the platform.", "Trains came from the mountains and from the sea.", "People with heavy bags hurried up and down.", "There was a smell of smoke and coffee."],
  ["{h} liked to wave at the trains.", "{h} knew all the trains by their whistles.", "{h} often sat on the bench and watched the people."],
  [("a little child stood alone on the platform of the train station", "The train had left, and the child's mother was not there.",
    ["{h} took the child's hand and spoke softly.", "{f} told the station master, who sent a message to the next station.", "They shared an apple and waited together on the bench."],
    "One hour later the next train came back, and the mother jumped out and hugged her child.")]),
"forest": ("A forest is a large piece of land covered with many trees. Deer, foxes, owls, and many other animals live there.",
  "[beyond the last field|behind the hills|on the other side of the river]",
  ["The forest was [deep and green|old and quiet].", "The tall trees whispered in the wind.", "Mushrooms grew in the soft moss.", "Sunlight fell through the leaves like gold coins."],
  ["{h} liked to listen to the birds.", "{h} collected pine cones and smooth stones.", "{h} built a small house of branches there.", "{h} knew where the blackberries grew."],
  [("{h} and {f} lost the path in the forest", "The sun was going down, and all the trees looked the same.",
    ["\"Let us listen,\" said {f}.", "Far away they heard the sound of a stream.", "They followed the stream down the hill, over roots and stones."],
    "At last they saw the warm lights of home between the trees."),
   ("a big tree fell in the forest and closed the door of a badger's home", "They could hear the badger scratching inside.",
    ["{h} pulled at the branches, but the tree was too heavy.", "{f} brought a strong stick to use as a lever.", "They pushed down with all their strength until the tree rolled away."],
    "The badger looked out, blinked at them, and bowed its striped head as if to say thank you.")]),
"castle": ("A castle is a large, strong building with thick walls and towers. Kings and queens lived in castles long ago.",
  "[on a high hill|beside a blue lake|at the end of a winding road]",
  ["The castle had four towers and a heavy gate.", "Ivy covered its gray walls.", "Long ago a king and a queen had lived there.", "At night the wind sang in the empty halls."],
  ["{h} loved to explore its rooms.", "{h} imagined knights and horses in the yard.", "{h} liked to look out of the highest window."],
  [("a strange sound came from the tower of the castle", "\"It is a ghost,\" the people whispered, and nobody went near it.",
    ["{h} lit a candle and went up the dark stairs.", "{f} was right behind {ho}.", "In the tower they found a young owl with its foot caught in a string, and they set it free."],
    "The owl flew out into the night, and there was no more talk of ghosts.")]),
"island": ("An island is a piece of land with water all around it.",
  "[far out in the sea|in the middle of the lake|a short way from the shore]",
  ["The island had a beach of white sand.", "Palm trees and wild flowers grew on it.", "Only birds and turtles lived there.", "In the middle there was a small green hill."],
  ["{h} often looked at it and wondered what was there.", "{h} rowed there to pick shells.", "{h} made a map of the whole island."],
  [("the tide took their boat away from the island", "They stood on the sand and watched it float off.",
    ["They gathered dry wood from the beach.", "{h} made a fire, and {f} put wet leaves on it to make white smoke.", "They waved a red scarf from the top of the hill."],
    "A fisherman saw the smoke. He came in his boat, with their own boat tied behind it, and took them home.")]),
"farm": ("A farm is land where people grow food and keep animals such as cows, sheep, and hens.",
  "[between yellow fields|at the end of a dusty road|in the green valley]",
  ["There were cows, hens, two horses, and a very fat pig.", "The barn was red and smelled of hay.", "A rooster woke everyone at sunrise.", "Fields of wheat moved like a golden sea."],
  ["{h} fed the hens every morning.", "{h} liked to ride on top of the hay.", "{h} brushed the brown horse until its coat was shiny."],
  [("the gate of the farm was open and all the sheep were gone", "There were wolves in the hills, and night was coming.",
    ["They followed the small footprints across the field.", "{f} heard a bell behind the hill.", "{h} led the first sheep by its collar, and all the others followed."],
    "They counted them at the gate. Not one sheep was missing.")]),
"market": ("A market is a place where people come together to buy and sell food, clothes, and other things.",
  "[in the old square|beside the harbor|under the chestnut trees]",
  ["The market was full of noise and color.", "There were baskets of plums, cheese, eggs, and bright cloth.", "Someone played a fiddle near the fountain.", "The sellers called, \"Fresh fish! Sweet pears!\""],
  ["{h} sold apples there on Saturdays.", "{h} loved to look at all the things.", "{h} had three coins to spend."],
  [("an old woman dropped her basket at the market", "Her eggs were broken and her oranges rolled in every direction.",
    ["{h} ran after the oranges, under tables and between feet.", "{f} wiped the basket clean.", "They went from seller to seller, and each one gave a single egg."],
    "When they came back, the basket was full. The old woman had tears of joy in her eyes.")]),
"school": ("A school is a place where children go to learn.",
  "[near the church|at the top of the hill|beside the park]",
  ["The school had a blue door and a big yard.", "Pictures of animals hung on the walls.", "There was a round stove that kept everyone warm.", "A bell rang at eight o'clock."],
  ["{h} liked the lessons about faraway lands.", "{h} sat in the first row, next to the window.", "{h} was good at drawing, but numbers were hard."],
  [("a new child came to the school and sat all alone", "Nobody had talked to the new child the whole morning.",
    ["{h} remembered how it felt to be alone.", "\"Would you like to play with us?\" asked {h}.", "They shared a sandwich and laughed about the teacher's funny hat."],
    "By the end of the day, the new child had two friends.")]),
"beach": ("A beach is a strip of sand or small stones beside the sea or a lake.",
  "[below the dunes|not far from the harbor|on the warm side of the bay]",
  ["The beach was long and golden.", "Waves rolled in and left white foam on the sand.", "Crabs ran sideways between the shells.", "Gulls cried in the blue sky."],
  ["{h} built a castle of sand.", "{h} collected shells in a small tin.", "{h} liked to run where the water met the sand."],
  [("a baby whale lay on the beach and could not swim away", "The sun was hot, and the sea was far out.",
    ["They covered its back with wet towels.", "{f} ran to fetch the fishermen.", "All day they poured water over the whale, and at high tide everyone pushed."],
    "With a great splash the whale swam into the deep water. Far out, its mother blew a fountain into the air.")]),
"mill": ("A mill is a building where grain is ground into flour. Some mills are turned by wind and some by water.",
  "[on the windy hill|beside the stream|outside the village]",
  ["The mill had four big wooden arms.", "Inside, the heavy stones turned and turned.", "White flour covered everything like snow.", "The miller's cat slept on the sacks."],
  ["{h} carried small sacks of grain there.", "{h} liked the creak of the old wheels.", "{h} counted the turns of the arms."],
  [("the mill stopped turning", "Without flour there would be no bread in the village.",
    ["They climbed up among the dusty wheels.", "{h} saw that a small bird had built a nest between two of them.", "Very carefully {f} moved the nest to a safe place on the roof."],
    "The wheels began to turn again, and the bird sang from its new home.")]),
"cave": ("A cave is a large hole in a hill or under the ground.",
  "[in the side of the mountain|behind the waterfall|near the sea]",
  ["The cave was dark and cool.", "Water dripped from the ceiling, drop by drop.", "Strange pictures of animals were painted on the walls.", "Every word came back as an echo."],
  ["{h} liked to call into it and hear the echo.", "{h} wanted to know how deep it was.", "{h} went there with a lantern."],
  [("their lantern went out in the cave", "It was so dark that {h} could not see {hp} own hand.",
    ["\"Do not run,\" said {f}. \"Hold my hand.\"", "{h} felt a little wind on {hp} face.", "They walked slowly toward the wind, with one hand on the cold wall."],
    "A spot of light appeared, and it grew bigger and bigger, until they stood outside in the sunshine.")]),
"park": ("A park is a green place in a town where people walk, rest, and play.",
  "[in the middle of the city|behind the museum|along the river]",
  ["There was a pond with seven ducks.", "Old oak trees gave cool shade.", "Children played on the swings.", "A man sold balloons by the gate."],
  ["{h} went there every afternoon.", "{h} liked to feed the ducks.", "{h} raced around the pond."],
  [("the park was full of rubbish after the festival", "The ducks had nowhere to swim.",
    ["{h} got two big bags and a pair of gloves.", "{f} painted a sign that said, \"Please help us.\"", "First one child came, then another, and soon there were twenty."],
    "By evening the park was clean, and the ducks swam in a line across the pond.")]),
"village": ("A village is a small group of houses in the country, smaller than a town.",
  "[in a deep valley|beside a lake|on the edge of the moor]",
  ["The village had twelve houses and one shop.", "Smoke rose from the chimneys.", "Everyone knew everyone.", "In the middle stood a well under a lime tree."],
  ["{h} knew every dog and every cat there.", "{h} brought the letters from door to door."],
  [("the well in the village was dry", "Without water nobody could cook or wash.",
    ["{e} remembered an old spring on the hill.", "They cut back the thorns and found wet stones.", "Then the whole village dug a small channel down the hill."],
    "Clear water ran down to the houses, and the people danced around the well.")]),
}

# Things: (definition, descriptions, where it may be found, [(trouble, worry, steps, result)])
FIX_WOOD = ("broke", "One piece of it lay on the ground.", ["They took it to {e}'s workshop.", "{h} sanded the wood while {f} mixed the glue.", "They tied it with string and let it dry overnight."], "In the morning it was as good as new.")
THINGS = {
"clock": ("A clock is a machine that shows what time it is.", ["The clock was tall and made of dark wood.", "It said tick, tock, all day and all night.", "Every hour a little bird came out and sang."], ["in the attic", "in the hall", "on the kitchen wall"],
  [("the old clock stopped", "The house was suddenly very quiet.", ["{h} opened the small door at the back.", "{f} held a candle and pointed at a tiny wheel with dust on it.", "They cleaned the wheel with a feather and put one drop of oil on it."], "Tick, tock, said the clock. The little bird came out and sang seven times.")]),
"boat": ("A boat is a small vehicle that carries people over water.", ["The boat was small and [blue|green|red], with a white sail.", "It had two oars and a name painted on its side.", "It rocked gently on the waves."], ["in the harbor", "under the willow tree", "on the beach"],
  [("the boat began to fill with water", "There was a hole in the bottom, and the shore was far away.", ["{h} pulled off {hp} scarf and pushed it into the hole.", "{f} threw the water out with a bucket.", "Then they rowed as fast as they could."], "The boat slid onto the sand just in time. The next day they mended it with a new board and some tar."),
   ("the wind pushed the boat far out to sea", "They could not see the land any more.", ["\"Look at the gulls,\" said {f}. \"In the evening they fly home.\"", "{h} turned the sail and followed the birds.", "They sailed until the sky was red."], "There was the harbor, with all its little lights, and the people on the shore waved and cheered.")]),
"train": ("A train is a row of cars that runs on rails and carries people or goods.", ["The train was [green|black|red] and shiny.", "It puffed white smoke and blew its whistle.", "It went through tunnels and over high bridges."], ["at the station", "in the valley", "on the long bridge"],
  [("the train stopped in the middle of the snow", "A high white wall of snow lay across the rails.", ["The driver gave everyone a shovel.", "{h} and {f} dug until their cheeks were red.", "The cook brought hot chocolate, and all the people sang together."], "At last the way was clear. The train blew its whistle and rolled on through the white hills.")]),
"kite": ("A kite is a light frame with paper or cloth that flies in the wind on a long string.", ["The kite was [red|yellow|blue] with a long tail of ribbons.", "It was shaped like a [dragon|bird|star].", "It danced high in the wind."], ["on the hill", "in the top of a tree", "on the roof"],
  [("the string of the kite broke", "The kite flew away over the roofs.", ["They ran down the street with their eyes on the sky.", "{f} saw it first, caught in the top of a tall tree.", "{h} climbed from branch to branch and set it free."], "They tied on a new, stronger string, and the kite flew higher than before.")]),
"lantern": ("A lantern is a lamp with a glass case that you can carry.", ["The lantern was made of copper and green glass.", "Its light was warm and soft.", "It had belonged to a sailor."], ["in the cellar", "on a hook by the door", "in the old shed"],
  [("the lantern would not burn", "The night was black, and {e} had not come home yet.", ["{h} shook the lantern, but it was empty.", "{f} found a little oil in the shed.", "They lit it and held it up high at the crossroads."], "Soon they heard steps. It was {e}, who had seen the light from far away.")]),
"key": ("A key is a small piece of metal that opens a lock.", ["The key was small and made of [gold|silver|iron].", "It had the shape of a leaf at one end.", "Nobody knew which door it opened."], ["under the mat", "in a bird's nest", "in an old coat"],
  [("the key did not fit any door in the house", "They had tried the kitchen, the cellar, and the attic.", ["\"Maybe it is not for a door,\" said {f}.", "{h} remembered the dusty chest under the bed.", "They pushed the key into the lock and turned it slowly."], "The chest opened. Inside there were old letters, a music box, and a picture of {e} as a child.")]),
"map": ("A map is a drawing that shows where places are.", ["The map was old and yellow.", "A red cross was marked near the river.", "One corner was missing."], ["in an old book", "in a bottle", "behind a picture"],
  [("{h} could not read the map", "The lines went in every direction.", ["{f} turned the map upside down, and suddenly it made sense.", "They walked twenty steps from the oak tree and ten steps from the well.", "There {h} began to dig."], "Their shovel hit a wooden box. It was full of smooth colored stones and a letter that said, \"You found my treasure. Now hide one of your own.\"")]),
"book": ("A book is a set of pages with words or pictures, held together in a cover.", ["The book had a red cover and gold letters.", "It was full of stories about the sea.", "Some of its pages were loose."], ["on the highest shelf", "in a box in the attic", "on a park bench"],
  [("the last page of the book was missing", "Nobody knew how the story ended.", ["They asked {e}, but {e} did not know.", "They asked the teacher, but the teacher did not know.", "\"Then let us write it ourselves,\" said {f}, and {h} fetched a pen."], "They wrote the ending together, and everyone said it was the best part of the book.")]),
"bell": ("A bell is a hollow piece of metal that rings when it is struck.", ["The bell was made of bronze.", "Its voice could be heard in three villages.", "A thick rope hung down from it."], ["in the church tower", "over the school door", "in the barn"],
  [("the bell did not ring", "Nobody knew that it was time for the feast.", ["They climbed the ladder into the tower.", "{h} found a family of bats sleeping inside the bell.", "They waited quietly until evening, when the bats flew out to hunt."], "Then they pulled the rope, and the bell rang out over the hills.")]),
"umbrella": ("An umbrella is a round cover on a stick that keeps the rain off.", ["The umbrella was [yellow|purple|green] with white dots.", "It was big enough for two.", "It had a handle like a duck's head."], ["on the bus", "at the bakery", "behind the door"],
  [("the wind turned the umbrella inside out and carried it away", "The rain fell harder and harder.", ["They ran after it through the puddles.", "{f} jumped and missed it.", "{h} caught it at the edge of the pond."], "They were both wet from head to foot, and they laughed all the way home.")]),
"violin": ("A violin is a small wooden instrument with four strings. You play it with a bow.", ["The violin was brown and smooth.", "Its sound was sweet and a little sad.", "It had belonged to {e}."], ["in a black case", "on top of the wardrobe", "in a shop window"],
  [("a string of the violin broke", "The concert was that very night.", ["They went to the music shop, but it was closed.", "{f} knew an old musician who lived above the stable.", "The old man gave them a new string and showed {h} how to put it on."], "That night {h} played, and the whole hall was silent until the last note.")]),
"box": ("A box is a container with flat sides and often a lid.", ["The box was small and covered with shells.", "Something rattled inside it.", "It was tied with a blue ribbon."], ["under the stairs", "in the sand", "in the hollow tree"],
  [("nobody could open the box", "It had no lock and no lid.", ["{h} turned it around and around.", "{f} pressed one of the shells, and something clicked.", "They pressed the shells one by one, from the smallest to the biggest."], "The box opened, and a tiny silver dancer began to turn to soft music.")]),
"ball": ("A ball is a round object that is used in games.", ["The ball was [red|blue|striped] and bouncy.", "It could jump higher than the fence."], ["in the pond", "under a car", "on the roof of the shed"],
  [("the ball flew over the wall into the garden of a grumpy neighbor", "Nobody had ever dared to knock on that door.", ["{h} knocked three times.", "An old man opened the door and frowned.", "\"Please, may we have our ball back?\" asked {h}. \"And would you like to play?\""], "The old man was quiet for a moment. Then he smiled, and he turned out to be the best player of all.")]),
"letter": ("A letter is a message on paper that is sent to someone.", ["The letter was sealed with red wax.", "The address was washed away by the rain.", "It smelled of roses."], ["on the doorstep", "in the river", "between two stones"],
  [("the name on the letter could not be read", "Somebody was waiting for that letter.", ["They went from house to house and asked.", "At the last house lived a lonely woman.", "She looked at the letter, and her hands began to shake."], "It was from her son, who was coming home from the sea after seven years.")]),
"telescope": ("A telescope is a tube with glass lenses that makes faraway things look near.", ["The telescope was long and made of brass.", "It stood on three legs by the window.", "Through it the moon looked as big as a house."], ["in the attic", "in the tower", "in a museum"],
  [("everything in the telescope was dark", "The night of the shooting stars had come.", ["{h} looked into one end and {f} looked into the other.", "They found a moth asleep on the glass.", "{h} lifted it out gently and cleaned the lens with a soft cloth."], "Then they saw it: one star after another fell across the sky, and they made a wish for each.")]),
"bicycle": ("A bicycle is a vehicle with two wheels. You ride it by pushing the pedals with your feet.", ["The bicycle was [green|blue|red] with a silver bell.", "It had a basket in front."], ["in the shed", "in the shop", "behind the school"],
  [("the chain of the bicycle came off", "They were still far from home.", ["They turned the bicycle upside down.", "{f} held the wheel while {h} put the chain back, one tooth at a time.", "Their hands were black with oil."], "{h} rang the bell, and they rode home down the long hill with the wind in their hair.")]),
"balloon": ("A balloon is a thin bag filled with air or gas. Some big balloons can carry people through the sky.", ["The balloon was as big as a house, with [red and white|blue and gold] stripes.", "A basket hung below it on strong ropes."], ["in the meadow", "behind the circus", "above the town"],
  [("the rope of the balloon came loose while they sat in the basket", "Up and up they went, over the roofs and the church.", ["\"Do not look down,\" said {f}.", "{h} pulled the string that let the warm air out, a little at a time.", "They drifted over fields and rivers."], "The balloon landed softly in a haystack, and a surprised cow looked at them.")]),
"doll": ("A doll is a toy that looks like a small person.", ["The doll had button eyes and a dress of blue cloth.", "Her hair was made of wool."], ["under the bed", "in the garden", "on the train"],
  [("the arm of the doll came off", "{h} held the little arm in {hp} hand and did not know what to do.", ["They took the doll to {e}.", "{e} fetched a needle and a strong white thread.", "{h} held the doll still while {f} counted the stitches."], "Soon the arm was as good as new, and the doll even got a tiny red scarf.")]),
"drum": ("A drum is a round instrument that you play by hitting it.", ["The drum was round and loud.", "It went boom, boom, boom."], ["in the barn", "in the music room", "on the stage"], [FIX_WOOD]),
"chair": ("A chair is a piece of furniture for one person to sit on.", ["The chair had four legs and a soft cushion.", "{e} had told many stories in that chair."], ["by the fire", "on the porch", "in the kitchen"], [FIX_WOOD]),
"sled": ("A sled is a small vehicle for riding over snow.", ["The sled was made of wood with iron runners.", "It was faster than any other sled on the hill."], ["in the barn", "on the hill", "behind the house"], [FIX_WOOD]),
"wagon": ("A wagon is a cart with four wheels that is used to carry things.", ["The wagon was painted red.", "Its wheels squeaked a little."], ["in the yard", "on the road", "in the barn"], [FIX_WOOD]),
"toy ship": ("A toy ship is a small ship that children play with in water.", ["The toy ship had three sails of white cloth.", "A tiny captain stood on its deck."], ["in the stream", "on the shelf", "in the pond"], [FIX_WOOD]),
"music box": ("A music box is a small box that plays a tune when you open it or wind it up.", ["The music box played a slow, soft song.", "A tiny bird turned on its lid."], ["in a drawer", "in the attic", "at the market"],
  [("the music box was silent", "{e} had loved its song for fifty years.", ["{h} wound the key, but nothing happened.", "{f} saw a grain of sand between two tiny teeth.", "They took it out with a needle."], "The song began again, slow and soft, and {e} closed {ep} eyes and listened.")]),
}
FINDABLE = {"ring": "a silver ring", "hat": "a green hat", "coin": "a gold coin", "scarf": "a red scarf", "button": "a shiny button", "shoe": "a brown shoe",
  "whistle": "a wooden whistle", "basket": "a round basket", "watch": "a pocket watch", "feather": "a blue feather", "mitten": "a woolen mitten", "teddy bear": "a soft teddy bear",
  "necklace": "a necklace of pearls", "compass": "a brass compass", "notebook": "a small notebook", "shell": "a pink shell"}
ADJECTIVES = "small old new blue red green yellow shiny beautiful strange tiny golden silver wooden soft round heavy simple lovely broken".split()
MORE_THINGS = """spoon cup lamp plate pillow blanket comb brush ribbon bottle bucket rope ladder hammer needle thread candle mirror flute guitar trumpet puzzle crayon pencil pen stamp envelope
bracelet crown sword shield helmet glove sock boot jacket belt purse suitcase backpack tent flashlight magnet marble yo-yo puppet robot spaceship rocket airplane truck tractor scooter skateboard helicopter submarine camera radio
telephone computer calendar globe vase statue pumpkin cookie cake pie sandwich pear peach banana lemon cherry walnut mushroom pine cone snowball seed leaf stone crystal pearl diamond fossil bone egg
acorn nest cage bowl jar kettle teapot pot pan fork knife napkin towel soap sponge broom shovel rake spade wheelbarrow fence gate window door rug curtain sofa table desk shelf drawer chest barrel""".replace("pine cone", "pinecone").split()
SEARCH = ["under the bed", "behind the sofa", "in the garden", "in the kitchen", "by the pond", "on the way to school", "under the big oak tree", "in the barn", "between the books", "in the laundry basket", "beside the well", "in the tall grass", "behind the curtain", "in every pocket"]

# Animals: (definition, home, color, food, sound, gift)
ANIMALS = {
"fox": ("A fox is a wild animal with pointed ears and a bushy tail. It looks a little like a dog.", "in a warm den under the roots of an oak tree", "red", "berries", "barked", "clever"),
"dog": ("A dog is a friendly animal that lives with people. It can bark, run, and guard the house.", "in a basket by the kitchen door", "brown", "bones", "barked", "loyal"),
"cat": ("A cat is a small animal with soft fur and sharp claws. Many people keep cats as pets.", "on a cushion by the window", "gray", "fish", "meowed", "quick"),
"rabbit": ("A rabbit is a small animal with long ears and soft fur. It eats grass and carrots and lives in a hole.", "in a hole in the meadow", "white", "carrots", "squeaked", "fast"),
"owl": ("An owl is a bird with big round eyes that hunts at night.", "in a hollow tree", "brown", "seeds", "hooted", "wise"),
"bear": ("A bear is a large, strong animal with thick fur. Bears sleep through the winter.", "in a cave on the mountain", "black", "honey", "growled", "strong"),
"mouse": ("A mouse is a very small animal with a long tail and round ears.", "behind the wall of the kitchen", "gray", "cheese", "squeaked", "tiny"),
"duck": ("A duck is a bird that swims on ponds and rivers. It has webbed feet and says quack.", "among the reeds by the pond", "yellow", "bread", "quacked", "cheerful"),
"horse": ("A horse is a big animal with a mane and a long tail. People ride horses.", "in the stable behind the farm", "brown", "apples", "neighed", "strong"),
"frog": ("A frog is a small green animal that can jump far. It lives near water.", "on a lily pad in the pond", "green", "flies", "croaked", "funny"),
"squirrel": ("A squirrel is a small animal with a bushy tail. It climbs trees and collects nuts.", "high up in a pine tree", "red", "nuts", "chattered", "busy"),
"hedgehog": ("A hedgehog is a small animal covered with sharp spines. It rolls into a ball when it is afraid.", "under a pile of leaves", "brown", "apples", "snuffled", "careful"),
"bird": ("A bird is an animal with feathers, two legs, and two wings. Most birds can fly.", "in a nest in the cherry tree", "blue", "seeds", "sang", "lively"),
"turtle": ("A turtle is an animal with a hard shell. It moves slowly and lives for many years.", "on the warm sand near the sea", "green", "leaves", "said nothing", "patient"),
"wolf": ("A wolf is a wild animal that looks like a big dog. Wolves live in groups called packs.", "in the dark northern forest", "gray", "fish", "howled", "brave"),
"deer": ("A deer is a shy wild animal with long legs. Male deer have antlers.", "deep in the forest", "brown", "grass", "listened", "shy"),
"sheep": ("A sheep is a farm animal with thick wool. People make warm clothes from its wool.", "in the green field", "white", "grass", "bleated", "gentle"),
"goat": ("A goat is an animal with horns and a short beard. It can climb steep rocks.", "on the rocky hill", "white", "thistles", "bleated", "stubborn"),
"pig": ("A pig is a farm animal with a flat nose and a curly tail.", "in the muddy yard of the farm", "pink", "potatoes", "grunted", "happy"),
"cow": ("A cow is a large farm animal that gives milk.", "in the meadow by the stream", "brown and white", "clover", "mooed", "calm"),
"elephant": ("An elephant is the largest land animal. It has a long trunk and big ears.", "on the wide plain", "gray", "bananas", "trumpeted", "gentle"),
"lion": ("A lion is a big wild cat. The male lion has a mane around his head.", "under a tree on the golden plain", "yellow", "meat", "roared", "proud"),
"monkey": ("A monkey is a clever animal with a long tail that lives in trees.", "in the tall trees of the jungle", "brown", "bananas", "chattered", "playful"),
"penguin": ("A penguin is a black and white bird that cannot fly but swims very well.", "on the ice near the cold sea", "black and white", "fish", "called", "funny"),
"whale": ("A whale is a very large animal that lives in the sea and breathes air.", "in the deep blue sea", "gray", "tiny fish", "sang", "mighty"),
"bee": ("A bee is an insect that flies from flower to flower and makes honey.", "in a hive beside the orchard", "yellow", "nectar", "buzzed", "busy"),
"butterfly": ("A butterfly is an insect with four large, colorful wings.", "in the wild meadow", "orange", "nectar", "fluttered", "light"),
"snail": ("A snail is a small, slow animal with a round shell on its back.", "under a wet leaf", "brown", "lettuce", "said nothing", "patient"),
"crow": ("A crow is a large black bird with a loud voice.", "on the roof of the barn", "black", "corn", "cawed", "clever"),
"donkey": ("A donkey is an animal like a small horse with long ears.", "in the stable by the mill", "gray", "thistles", "brayed", "stubborn"),
"dragon": ("A dragon is a creature in old stories. It has wings and breathes fire.", "in a cave high above the clouds", "green", "hot soup", "roared", "lonely"),
"swan": ("A swan is a large white bird with a long neck that swims on lakes.", "on the silver lake", "white", "water plants", "hissed", "graceful"),
}
# What an animal wants, what is in the way, and how a friend helps.
WISHES = [
 ("wanted to see the [sea|big city|top of the mountain]", "But the way was long, and {hs} had never left home.", "\"I know the way,\" said {f}. \"We will go together, one step at a time.\"", "They walked for three days, slept under the stars, and shared their {food}. On the last evening they stood there at last, and neither of them said a word."),
 ("was afraid of the dark", "Every night {hs} hid under a leaf and shook until morning.", "\"Come out with me tonight,\" said {f}. \"I will show you something.\"", "They sat on the hill, and {f} showed {ho} the stars, the fireflies, and the quiet moon. \"The dark is full of lights,\" whispered {h}."),
 ("had no friends", "The others ran and played, and {hs} watched from far away.", "One morning {f} fell into a hole and called for help. {h} heard it and let down a long branch.", "{f} climbed out and shook off the dirt. \"You saved me,\" {fs} said. \"Will you come and play with us?\""),
 ("could not find any food", "The winter was cold, and snow covered everything.", "\"I have a little,\" said {f}, and shared {fp} last {ffood}.", "Together they dug under the snow, and they found enough for both. When spring came, {h} brought {f} the very first {food} of the year."),
 ("wanted to [sing|dance|fly|swim] better than anyone", "But every time {hs} tried, the others laughed.", "\"Do not listen to them,\" said {f}. \"Practice a little every day.\"", "So {hs} practiced in the morning and in the evening. When the day of the great feast came, everybody was silent with wonder, and then they clapped for a long time."),
 ("lost the way in a storm", "The wind howled, and the rain washed away every track.", "Then a small light moved between the trees. It was {f} with a lantern. \"Follow me,\" {fs} called.", "Soon they sat side by side in the dry, and they told stories until the storm was over."),
 ("found a shining egg in the grass", "It was cold, and there was no nest anywhere.", "\"We must keep it warm,\" said {f}. So they took turns and covered it with moss.", "After seven days the egg cracked, and a tiny bird looked out. They fed it, and they cheered when it flew for the first time."),
 ("had a thorn in {hp} foot", "It hurt so much that {hs} could not walk.", "\"Hold still,\" said {f}. \"This will take only a moment.\" And {fs} pulled out the thorn.", "\"How can I thank you?\" asked {h}. \"Be my friend,\" said {f}, and so it was."),
 ("stole {food} from the others", "Soon nobody wanted to play with {ho} any more.", "\"If you are hungry, you can ask,\" said {f}. \"But first you should say sorry.\"", "{h} brought back what was left and said, \"I am sorry.\" The others forgave {ho}, and that evening they all ate together."),
]

PEOPLE = {
"baker": ("A baker is a person who makes bread and cakes.", "[rose before the sun and baked bread for the whole town|made the best cakes in the land]", "the bakery", "flour"),
"fisherman": ("A fisherman is a person who catches fish.", "went out to sea every morning in a small boat", "the harbor", "nets"),
"gardener": ("A gardener is a person who takes care of plants.", "looked after the [roses of the queen|flowers in the park]", "the garden", "seeds"),
"farmer": ("A farmer is a person who grows food and keeps animals.", "plowed the fields and fed the animals", "the farm", "grain"),
"sailor": ("A sailor is a person who works on a ship.", "had seen every ocean in the world", "the harbor", "ropes"),
"teacher": ("A teacher is a person who helps others learn.", "taught all the children to read and write", "the school", "chalk"),
"king": ("A king is a man who rules a country.", "had a golden crown and a big castle, but no friends", "the castle", "gold"),
"queen": ("A queen is a woman who rules a country.", "ruled over a land of hills and lakes", "the castle", "silver"),
"princess": ("A princess is the daughter of a king or a queen.", "lived in a high tower and loved to read about the stars", "the castle", "books"),
"knight": ("A knight was a soldier who rode a horse and wore armor long ago.", "rode through the land on a white horse", "the castle", "iron"),
"doctor": ("A doctor is a person who helps people who are ill.", "visited the sick in every house, even at night", "the village", "medicine"),
"painter": ("A painter is a person who makes pictures with paint.", "painted the sea in every color", "the harbor", "paint"),
"clockmaker": ("A clockmaker is a person who makes and repairs clocks.", "could mend every clock in the land", "the village", "tiny wheels"),
"musician": ("A musician is a person who plays music.", "played the violin on the corner of the square", "the market", "strings"),
"shepherd": ("A shepherd is a person who looks after sheep.", "watched over a hundred sheep on the green hills", "the mountain", "wool"),
"lighthouse keeper": ("A lighthouse keeper is a person who takes care of the light in a lighthouse.", "lit the great lamp every evening and put it out every morning", "the lighthouse", "oil"),
"librarian": ("A librarian is a person who works in a library and helps people find books.", "knew where every single book stood", "the library", "paper"),
"carpenter": ("A carpenter is a person who makes things out of wood.", "built tables, doors, and strong little boats", "the village", "nails"),
"miller": ("A miller is a person who makes flour from grain.", "carried heavy sacks up and down the stairs all day", "the mill", "grain"),
"postman": ("A postman is a person who brings letters.", "carried letters over the hills in sun and snow", "the village", "letters"),
"witch": ("A witch is a woman in old stories who can do magic.", "lived alone at the edge of the woods and talked to the crows", "the forest", "herbs"),
"giant": ("A giant is a very big person in old stories.", "was taller than the tallest tree", "the mountain", "bread"),
"inventor": ("An inventor is a person who makes new machines and things.", "built wonderful machines out of old wheels and wires", "the village", "wires"),
}
PERSON_TROUBLE = [
 ("the {role} ran out of {stuff}", "Without that, the work could not be done.", "\"I will go and get some,\" said {c}. {Cs} took a bag and walked all the way to [the next town|the market|the other side of the hill].", "In the evening {cs} came back with a heavy bag. The {role} could not believe it."),
 ("the {role} fell ill and had to stay in bed", "The work was waiting, and there was nobody else.", "\"Tell me what to do,\" said {c}, \"and I will do it.\" {Cs} worked from morning until night.", "After a week the {role} was well again and found that everything was in order."),
 ("the {role} felt lonely", "Nobody ever came to visit.", "{c} knocked on the door with [a warm pie|a bunch of flowers|a little cake] and a game of cards. \"May I come in?\" {cs} asked.", "They played and laughed until late. After that there was a visitor every week."),
 ("a thief took the {role}'s most precious thing", "It was [a golden cup|a silver whistle|an old picture], a gift from long ago.", "{c} saw footprints in the mud and followed them to an old barn. Inside sat a hungry boy. \"I am sorry,\" he said. \"I only wanted to sell it for bread.\"", "The {role} listened to the boy and did not shout. \"You can work with me,\" said the {role}, \"and you will never be hungry again.\""),
 ("the {role} made a big mistake", "Everyone was angry, and some people laughed.", "\"Everybody makes mistakes,\" said {c}. \"What matters is what we do next.\" Together they started again from the beginning.", "This time it went well, and the same people who had laughed came to say sorry."),
]

# Sky and weather: (definition, description, [stories as lists of beats])
SKY = {
"star": ("A star is a huge ball of hot gas in the sky. It looks like a small point of light at night.", [
  ["{h} looked at the sky every night before bed.", "There was one small star that [blinked|shone] more softly than the others.", "One night the star was gone. {h} was worried and went outside in {hp} slippers.", "Something glowed in the grass behind the house. It was the little star! \"I leaned over too far,\" it said in a thin voice, \"and I fell.\"", "\"Do not be afraid,\" said {h}. \"I will help you home.\"", "{h} and {f} carried the star to the top of the highest hill. It was warm, like a fresh roll.", "There they waited for the wind. When it came, {h} threw the star up as high as {hs} could, and the wind carried it higher and higher.", "The next night the little star was back in its place. It blinked twice, and {h} knew that it meant thank you."]]),
"moon": ("The moon is the large round object that goes around the Earth. We see it shine at night.", [
  ["Every night the moon looked in at {h}'s window.", "\"Are you not lonely up there?\" {h} asked one night.", "\"Sometimes,\" said the moon. \"I see everyone, but nobody talks to me.\"", "So {h} told the moon about {hp} day: about school, about {f}, and about the cat on the roof.", "The moon listened and grew rounder and rounder.", "After that they talked every night. And when the moon became thin and went away for a while, {h} was not sad. {Hs} knew that it would come back."]]),
"snow": ("Snow is frozen water that falls from the clouds as soft white flakes.", [
  ["When {h} woke up, the world was white and silent.", "Snow lay on the roofs, on the trees, and on the fence.", "{h} put on {hp} boots, {hp} coat, and {hp} warm red mittens and ran outside.", "{f} was already there. \"Let us make a snowman!\" {fs} called.", "They rolled one big ball, one middle ball, and one small ball. They used two stones for the eyes, a carrot for the nose, and an old hat.", "In the afternoon they went down the hill on the sled, again and again, until their cheeks were red.", "When it grew dark, {e} called them in. They drank hot chocolate by the fire and looked at the snowman in the garden. It seemed to smile."],
  ["Snow began to fall in the night, and by morning the road was gone.", "Old people in the village could not leave their houses.", "\"They will need bread and wood,\" said {h}.", "{h} and {f} loaded the sled and pulled it from door to door.", "At each door somebody smiled and gave them something: a cookie, an apple, a pair of warm socks.", "When they came home, the sled was full again. \"How strange,\" said {h}. \"The more we give, the more we have.\""]]),
"rain": ("Rain is water that falls in drops from the clouds.", [
  ["It rained and rained, and {h} had to stay inside.", "\"I do not like the rain,\" {hs} said and pressed {hp} nose to the window.", "\"Listen,\" said {e}. \"What do you hear?\"", "{h} listened. The drops went tip, tap, top on the roof. They went plink, plonk in the bucket.", "\"It is music!\" said {h}. {f} took a spoon and a pot, and they played along with the rain.", "They put on their boots and jumped into every puddle in the street.", "When the sun came out, there was a rainbow over the hills."]]),
"storm": ("A storm is very bad weather with strong wind and often rain, thunder, or snow.", [
  ["Dark clouds came over the hills, and the wind began to howl.", "\"A storm is coming,\" said {e}. \"Close the windows and bring in the animals.\"", "{h} ran to the yard. {Hs} brought in the hens, and {f} led the horse into the stable.", "But one little lamb was missing. {h} took a lantern and went out again into the rain.", "Thunder rolled, and lightning lit up the field. There, under the hedge, sat the lamb, wet and shaking.", "{h} wrapped it in {hp} coat and carried it home.", "All night the storm shook the house, but inside it was warm. The lamb slept by the fire with its head on {h}'s knee."]]),
"wind": ("Wind is air that moves.", [
  ["The wind was bored. It had blown the leaves, it had blown the clouds, and now it did not know what to do.", "It saw {h} on the hill with a kite that would not fly.", "\"I wish there was a little wind,\" said {h}.", "The wind smiled and blew softly. The kite rose up, higher and higher, with its tail dancing behind it.", "{h} laughed, and the wind had never heard a nicer sound.", "It turned the mill, it dried the washing, and it pushed the boats home.", "\"It is good to be needed,\" said the wind, and it went to sleep in the top of a tree."]]),
"rainbow": ("A rainbow is an arch of colors in the sky. You can see it when the sun shines through rain.", [
  ["After the rain, a great rainbow stood over the valley.", "\"They say there is gold at the end of it,\" said {f}. \"Let us look!\"", "{h} and {f} walked through the wet fields, over the bridge, and up the hill.", "But each time they came near, the rainbow moved a little farther away.", "On the way they helped a farmer close his gate, and they freed a sheep from a bush.", "At last the rainbow faded. They had no gold, but the farmer gave them a basket of golden apples.", "\"So there was gold after all,\" said {h}, and they both laughed."]]),
"sun": ("The sun is the star that gives light and heat to the Earth.", [
  ["One morning the sun did not want to get up.", "It pulled a gray cloud over its head and slept on.", "The rooster did not crow. The flowers stayed closed. {h} sat in the dark kitchen and wondered.", "{h} and {f} climbed the hill and called, \"Good morning, sun! We miss you!\"", "\"Do you really?\" asked the sun. \"Every day I shine, and nobody says a word.\"", "\"Thank you for the light,\" said {h}. \"Thank you for the apples and the warm sand.\"", "The sun turned red with joy and rose above the hills, and since then {h} has said good morning to it every day."]]),
"cloud": ("A cloud is a white or gray mass of tiny drops of water in the sky.", [
  ["There was a small cloud that could not rain.", "The big clouds laughed at it. \"You are good for nothing,\" they said.", "The little cloud floated away over the dry fields until it saw {h}, who sat beside a wilted sunflower.", "\"It is too hot,\" said {h}. \"My flower is dying.\"", "The little cloud moved in front of the sun and made a cool shadow. It was so sorry for the flower that it began to cry.", "Drop after drop fell on the dry earth. \"It is raining!\" cried {h}. \"Thank you, little cloud!\"", "The sunflower lifted its head, and the little cloud was the happiest cloud in the sky."]]),
"tree": ("A tree is a tall plant with a trunk, branches, and leaves.", [
  ["In the middle of the square stood an old tree.", "{e} had climbed it as a child, and now {h} climbed it every day.", "One morning two men came with a saw. \"The tree must go,\" they said. \"It is in the way of the new road.\"", "\"No!\" cried {h}. {Hs} sat down in front of the tree, and {f} sat down beside {ho}.", "Then the baker came and sat down, and the teacher, and old people and children, until the whole square was full.", "The men scratched their heads and looked at their plan. \"Well,\" one of them said, \"the road can go around it.\"", "So the tree stayed, and that evening they hung lanterns in its branches."]]),
"flower": ("A flower is the part of a plant that is often colorful and smells sweet.", [
  ["{h} found a small brown seed and planted it in a pot.", "Every day {hs} gave it water, and every day nothing happened.", "\"Maybe it is asleep,\" said {f}.", "{h} sang to it and put the pot in the sunny window.", "Then, one morning, a tiny green tip looked out of the earth. It grew one leaf, then two, then a bud.", "At last the bud opened. It was a flower, as [red as fire|blue as the sea|yellow as the sun].", "{h} carried it to {e}, who was ill in bed. \"Now I feel better already,\" said {e}."]]),
"dream": ("A dream is a story that you see in your mind while you sleep.", [
  ["{h} closed {hp} eyes, and the bed began to float.", "It floated out of the window and over the sleeping town.", "A flock of silver birds flew beside it. \"Where do you want to go?\" they asked.", "\"To the end of the world,\" said {h}.", "They flew over seas and deserts, over cities made of glass and forests of blue trees.", "At the end of the world there was a small door. {h} opened it and was back in {hp} own room.", "The sun was shining. On the pillow lay one silver feather."]]),
}
ROBOT = [
  ["{h} was a small robot with [round blue eyes|one bent arm|wheels instead of feet].", "{Hs} worked in a [factory|library|workshop] and [counted screws|sorted books|swept the floor] all day long.", "But {h} had a question that no one could answer. \"What is a friend?\" {hs} asked.", "\"A friend is somebody who helps you,\" said {f}. \"Come with me, and I will show you.\"",
   "They walked through the town. {h} saw a girl who shared her bread with a bird, and an old man who carried his neighbor's bag.", "On the way home it began to rain, and {h}'s wheels got stuck in the mud. {f} pulled and pushed until the robot was free.", "\"You helped me,\" said {h}, and a small light began to glow in {hp} chest. \"So you are my friend.\"", "\"And you are mine,\" said {f}."],
  ["{e} found an old robot in the attic. It was covered with dust, and its eyes were dark.", "\"Let us repair it,\" said {f}.", "They cleaned its arms, put in a new battery, and tightened every screw.", "Suddenly two green eyes opened. \"Hello,\" said the robot. \"My name is {h}. How can I help?\"", "{h} could [water the plants|cook soup|find lost socks|tell stories about the old days], and everyone loved the little robot.", "But one day {hs} stopped in the middle of a word. The battery was empty.", "All night {f} turned a small wheel by hand to make power. In the morning the green eyes opened again. \"Thank you,\" said {h}. \"I dreamed of you.\""],
]
CONTESTS = [("race", "ran", "run", "the fastest", "a silver cup"), ("singing contest", "sang", "sing", "the best singer", "a golden ribbon"), ("baking contest", "baked", "bake", "the best baker", "a wooden spoon painted with gold"),
  ("kite contest", "flew a kite", "fly a kite", "the best kite flyer", "a big blue kite"), ("drawing contest", "drew", "draw", "the best painter", "a box of fifty colors"), ("swimming race", "swam", "swim", "the fastest swimmer", "a shining medal"),
  ("boat race", "rowed", "row", "the fastest rower", "a new pair of oars")]
SKILLS = [("swim", "in the lake", "water"), ("bake bread", "in the kitchen", "flour"), ("ride a horse", "in the field", "dust"), ("play the piano", "in the music room", "wrong notes"), ("whistle", "on the hill", "air"), ("skate", "on the frozen pond", "snow"),
  ("knit", "by the fire", "knots"), ("row a boat", "on the river", "water"), ("juggle", "in the yard", "lost balls"), ("read", "in the library", "long words"), ("fish", "on the pier", "weeds"), ("paint", "in the garden", "blue spots")]

ABSTRACT = {
"friendship": "Friendship is the bond between people who like and trust each other.", "courage": "Courage means doing what is right even when you are afraid.",
"kindness": "Kindness means being good and helpful to others.", "patience": "Patience means waiting calmly without getting angry.",
"honesty": "Honesty means telling the truth.", "music": "Music is sound with rhythm and melody that people make with voices or instruments.",
"water": "Water is a clear liquid. All plants, animals, and people need it to live.", "bread": "Bread is food made from flour, water, and yeast, and baked in an oven.",
"winter": "Winter is the coldest season of the year. It comes after autumn.", "summer": "Summer is the warmest season of the year. It comes after spring.",
"spring": "Spring is the season after winter, when plants begin to grow.", "autumn": "Autumn is the season after summer, when the leaves fall from the trees.",
"robot": "A robot is a machine that can do work by itself. Some robots can move and talk.", "computer": "A computer is a machine that can store information and work with it very quickly.",
"ship": "A ship is a large boat that carries people or goods across the sea.", "bridge": "A bridge is a structure that carries a road or a path over a river or a valley.",
"house": "A house is a building where people live.", "sea": "The sea is the large body of salt water that covers much of the Earth.", "lake": "A lake is a large body of water with land all around it.",
"desert": "A desert is a large dry place with very little rain and few plants.", "apple": "An apple is a round fruit that grows on trees. It can be red, green, or yellow.",
"honey": "Honey is a sweet, golden food that bees make from flowers.", "fire": "Fire is the heat and light that come from something that burns.", "ice": "Ice is water that is frozen hard.",
"teapot": "A teapot is a pot with a handle and a spout that is used to make and pour tea.", "hammer": "A hammer is a tool with a heavy head that is used to hit nails.",
"piano": "A piano is a large instrument with black and white keys.", "candle": "A candle is a stick of wax with a string in it that burns and gives light.",
"mirror": "A mirror is a piece of glass in which you can see yourself.", "window": "A window is an opening in a wall, usually with glass, that lets in light.",
"door": "A door is a flat piece that opens and closes the way into a room or a house.", "pencil": "A pencil is a thin wooden stick that you use to write or draw.",
"airplane": "An airplane is a machine with wings that flies through the air.", "bus": "A bus is a large vehicle that carries many people.", "planet": "A planet is a large round body that moves around a star. The Earth is a planet.",
"volcano": "A volcano is a mountain that can throw out hot melted rock, ash, and gas.", "soup": "Soup is a hot liquid food made from vegetables, meat, or fish.", "cheese": "Cheese is a food made from milk.",
}
COLORS_OF = {"the sky": "blue", "grass": "green", "snow": "white", "a lemon": "yellow", "a strawberry": "red", "an orange": "orange", "coal": "black", "milk": "white", "a banana": "yellow", "a leaf in summer": "green", "the sea": "blue", "chocolate": "brown"}
OPPOSITES = "hot cold;big small;day night;up down;fast slow;happy sad;old young;open closed;hard soft;light dark;high low;wet dry;early late;full empty;long short;loud quiet;strong weak;near far;left right;begin end;clean dirty;rich poor;thick thin;sweet sour".split(";")
COUNT_WORDS = "zero one two three four five six seven eight nine ten".split()
