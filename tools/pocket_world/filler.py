"""Sentences that change nothing: weather, sounds, thoughts. They carry most of the vocabulary."""

SCENERY = """
The wind blew softly over the hills.
A cold rain fell on the roofs.
The sun shone through thin clouds.
Snowflakes whirled around the chimneys.
Far away a train whistled twice.
The air smelled of wet grass and smoke.
A rainbow stretched across the horizon.
Thunder rumbled behind the mountains.
The moon was pale and almost full.
Stars twinkled above the silent fields.
Fog crept slowly along the ditch.
The church tower struck the hour.
Bees hummed in the clover.
Crickets chirped until midnight.
A spider spun its web in a corner.
Dry leaves rustled under every step.
Somebody whistled a merry tune.
The floorboards creaked now and then.
Dust danced in a narrow beam of light.
A draught made the flames flicker.
Nobody spoke for a while.
It was a peaceful afternoon.
The evening was mild and quiet.
The morning was bright and fresh.
The night was long and starless.
Frost painted ferns on the panes.
The puddles had frozen overnight.
A heavy cloud hid the sun.
The heat made everyone lazy.
Swallows circled high above the street.
An engine coughed and fell silent.
The smell of roasted coffee filled the air.
Children laughed somewhere nearby.
A distant choir rehearsed an old hymn.
The shadows grew longer and longer.
Waves splashed against the rocks.
The tide rose inch by inch.
Seagulls screamed above the masts.
A ship sounded its horn.
The current carried twigs and foam downstream.
The meadow was full of dandelions.
Mist floated over the water.
The soil was soft after the storm.
An apple tree was in blossom.
Ripe fruit weighed down the branches.
The harvest had been excellent that autumn.
Spring had come early that year.
Summer seemed endless.
Winter was just around the corner.
The calendar on the wall showed Tuesday.
It was Monday, and the week was young.
On Sunday everything was closed and calm.
Saturday was a day for games.
The newspaper said that Friday would be stormy.
The festival was only three weeks away.
A parade marched past with drums and banners.
The orchestra tuned its instruments.
Fireworks crackled in the distance.
The mayor gave a short speech.
A stranger asked for directions and left.
A traveller rested and told of deserts and oceans.
The postman delivered a parcel to a neighbour.
A peddler sold ribbons and combs at the corner.
The baker pulled warm rolls out of the stove.
A carriage rattled over the cobblestones.
A motorbike roared and vanished around the bend.
The bus was late, as usual.
Two cyclists raced each other down the slope.
An aeroplane drew a white line across the sky.
A balloon drifted over the rooftops.
The traffic lights turned amber.
Sirens wailed and faded.
The fountain splashed cheerfully.
Pigeons quarrelled over crumbs.
A snail crossed the path without haste.
A butterfly settled on a petal.
Ants carried grains of sugar in a row.
An eagle soared above the valley.
Wolves howled in the dark forest.
A woodpecker knocked against a trunk.
The pond was covered with lilies.
Moss grew thick on the northern side.
Ivy climbed up the ancient wall.
The ruins were haunted, people said.
Legends tell of a treasure under the ruins.
The map showed a route that no longer existed.
Rumours spread quickly in a small community.
Everybody was curious about the outcome.
No one suspected anything.
The secret was well kept.
The mystery remained unsolved for the moment.
The plan sounded simple, yet it was risky.
Patience is a virtue, grandmother used to say.
Practice makes perfect, as the proverb goes.
Honesty is the best policy.
Better late than never, they thought.
All is well that ends well.
A good neighbour is worth more than gold.
Every journey begins with a single step.
Laughter is the best medicine.
Time passed as slowly as resin.
An hour went by.
Minutes later the clouds parted.
Half the morning was gone already.
Suddenly there was a loud bang.
Then it was silent again.
Something rattled upstairs.
Footsteps echoed and died away.
A telephone rang, but no one answered.
The radio announced sunshine and light winds.
An advertisement promised cheap holidays.
The bill was higher than expected.
The recipe called for flour, yeast and salt.
The soup simmered gently.
A delicious smell came from a pan.
Breakfast had been plentiful.
Lunch was served at one.
Supper would be late.
The dishes were piled up high.
The laundry fluttered on the line.
The carpenter next door was sawing planks.
The blacksmith's hammer rang out all day.
The miller complained about the price of grain.
The fishermen mended their nets.
The shepherd counted his flock.
The hunter followed a fresh track.
The farmer ploughed his largest field.
The gardener watered the seedlings.
The librarian dusted the upper rows.
The professor explained gravity with an example.
The pupils recited a poem by heart.
The examination was harder than usual.
The chemist mixed acid and powder.
The astronomer waited for the comet.
The engineer measured the width of the gap.
The architect sketched an arch.
The sculptor chipped away at the granite.
The tailor shortened a sleeve.
The dentist hummed while he worked.
The nurse bandaged a swollen ankle.
The judge postponed the trial.
The lawyer demanded proof.
The general inspected his troops.
The captain studied the chart.
The sailors hoisted the flag.
The pilot checked the fuel.
The conductor clipped the tickets.
The driver apologised for the delay.
The waiter bowed politely.
The butcher sharpened his blade.
The barber told his favourite joke.
The musicians improvised until dawn.
The actors bowed to thunderous applause.
The magician pulled a scarf from thin air.
The acrobats practised on the trapeze.
The clown juggled five oranges.
The audience held its breath.
The goalkeeper dived to the left.
The referee blew the final signal.
The runners were exhausted but content.
The champion smiled modestly.
The loser congratulated the winner.
The scouts pitched their tents before dusk.
The campfire glowed and sparks flew up.
The ranger warned about bears.
The guide pointed to the summit.
The climbers roped up below the glacier.
The avalanche had blocked the pass.
The volcano had been asleep for centuries.
The earthquake had cracked several walls.
The flood had reached the second stair.
The drought lasted until August.
A hurricane was expected by Thursday.
The thermometer fell below zero.
The humidity was almost unbearable.
The breeze carried the scent of lavender.
The hedgerow was alive with sparrows.
A beetle with shiny wings crawled by.
A caterpillar nibbled at a leaf.
A hungry fox barked beyond the fence.
The hens cackled excitedly.
The geese protested noisily.
The cows chewed patiently.
A donkey brayed from far off.
The sheep huddled together.
A horse neighed and stamped its hoof.
The kennel was empty and quiet.
The parrot repeated everything it heard.
The aquarium bubbled in the background.
The clockwork ticked steadily.
The chandelier sparkled like ice.
The wallpaper was yellowed with age.
The ceiling had a crack shaped like Italy.
The staircase spiralled upwards.
The corridor seemed to have no end.
The cellar steps were slippery.
The walls were damp and bare.
The attic beams were full of woodworm.
The keyhole was rusty.
The hinges needed oil.
The banister had been polished.
The furniture was covered with sheets.
The fireplace was cold.
The embers glowed faintly.
The candlelight made long shadows.
The lantern swung in the breeze.
The old portrait seemed to smile.
The orchestra of frogs began its concert.
The juggler dropped a club and grinned.
The empire had fallen long ago.
The queen's jubilee was celebrated everywhere.
The treaty was signed in silence.
The election was a close contest.
The budget was discussed at length.
The committee adjourned at seven.
The invention was ahead of its time.
The experiment failed for the third time.
The theory was elegant but wrong.
The evidence pointed in another direction.
The witness hesitated before answering.
The burglar had left muddy footprints.
The inspector scribbled something illegible.
The reward was doubled on Wednesday.
The expedition needed more supplies.
The caravan rested at the oasis.
The camels drank greedily.
The dunes shimmered in the heat.
The jungle was noisy after nightfall.
The canoe glided between the reeds.
The raft bumped against a sandbank.
The anchor chain clanked.
The lighthouse beam swept over the bay.
The coral reef was full of colours.
A dolphin leapt beside the bow.
A whale blew a jet of spray.
The net came up full of herring.
The market stalls were crowded.
The bargain was too good to miss.
The merchant praised his carpets loudly.
The scales were slightly wrong.
Spices from faraway lands filled the sacks.
The jeweller examined a ruby with care.
The bank closed early because of the holiday.
The postage had become more expensive.
The library would be renovated in December.
The museum showed fossils and meteorites.
The bridge was being painted again.
The factory chimney gave off steam.
The turbine hummed day and night.
The windmill turned lazily.
The tractor was stuck in the mud.
The scarecrow wore a top hat.
The pumpkins were enormous that October.
The vineyard slopes turned crimson and gold.
The chestnuts were ready to be gathered.
The first strawberries tasted sweet.
The jam was still warm.
The butter had melted.
The bread crust was crisp.
The tea was too bitter.
The lemonade was ice cold.
The honey dripped from the comb.
The cheese had a strong flavour.
The pepper made everyone sneeze.
The garlic hung in long braids.
The accountant added columns of figures.
The optician adjusted a pair of spectacles.
The surgeon washed his fingers thoroughly.
The veterinarian vaccinated a nervous pup.
The plumber tightened the leaking tap.
The welder lowered his visor.
The glazier replaced a shattered pane.
The chauffeur polished the limousine.
The cashier counted bundles of banknotes.
The auctioneer raised his gavel.
The diplomat spoke fluent Portuguese.
The translator searched for a synonym.
The typist misspelled a surname.
The editor deleted an entire paragraph.
The novelist suffered from writer's block.
The poet rhymed silver with nothing.
The philosopher doubted his own doubts.
The historian deciphered a faded inscription.
The geologist labelled his samples.
The botanist discovered an unknown fern.
The zoologist tagged migrating cranes.
The meteorologist predicted scattered showers.
The mathematician proved a lemma before dinner.
The physicist calibrated the spectrometer.
The programmer fixed an annoying bug.
The janitor mopped the gymnasium.
The seamstress embroidered initials on linen.
The cobbler glued a loose heel.
The goldsmith melted scraps in a crucible.
The cooper bent oak staves with steam.
The beekeeper inspected each hive.
The vintner tasted last season's vintage.
The cheesemaker stirred curds in a vat.
The fishmonger arranged mackerel on crushed ice.
The greengrocer stacked cucumbers into pyramids.
The florist trimmed thorny stems.
The pastry chef whipped cream into peaks.
The choir sang three verses and a refrain.
The soprano held the highest note.
The cellist broke a string.
The drummer lost the rhythm.
The ballerina twirled across the parquet.
The puppeteer untangled invisible threads.
The ventriloquist argued with his dummy.
The fortune teller gazed into a murky globe.
The gambler bluffed with a terrible hand.
The smuggler hid behind the dunes.
The pirate buried his loot at low tide.
The admiral commanded the fleet from a frigate.
The sergeant shouted orders at sleepy recruits.
The cavalry galloped across the plain.
The archers practised on straw targets.
The messenger brought tidings from the frontier.
The ambassador presented an ornate casket of gifts.
The duchess fanned herself impatiently.
The squire saddled a dappled mare.
The wizard mumbled a forgotten spell.
The giant snored beneath the boulders.
The dwarves hammered deep underground.
The fairy vanished in a puff of glitter.
The ghost complained about the noise.
The mermaid combed her hair with a shell comb.
The sphinx asked its usual riddle.
The unicorn was shy and seldom seen.
The witch collected herbs by moonlight.
Hailstones drummed against the greenhouse glass.
Lightning zigzagged over the ridge.
The blizzard buried the signposts.
Icicles hung from every gutter.
The thaw turned lanes into streams.
Pollen floated through the sunshine.
Cobwebs glistened with dew.
Mushrooms sprouted beside rotten stumps.
Acorns pattered onto the shed.
The brook gurgled over smooth gravel.
The marsh smelled of peat and mint.
The waterfall thundered into a narrow basin.
The glacier retreated a little every decade.
The lagoon was turquoise and shallow.
The peninsula reached far into the gulf.
The archipelago had hundreds of islets.
The plateau was barren and windswept.
The savannah baked beneath a cloudless sky.
The tundra seemed infinite.
The equator was thousands of miles away.
The constellation Orion rose in the east.
Jupiter was visible without binoculars.
The eclipse lasted four minutes.
The satellite blinked as it orbited overhead.
The rocket launch was delayed again.
The submarine surfaced near the breakwater.
The ferry carried passengers and livestock.
The tugboat pulled a barge upstream.
The yacht leaned dangerously.
The kayak overturned in the rapids.
The locomotive puffed through the tunnel entrance.
The tram squealed in the curve.
The taxi stopped with a jerk.
The lorry unloaded crates of ceramics.
The ambulance raced along the avenue.
The escalator was out of order.
The elevator smelled of perfume.
The thermostat clicked.
The refrigerator hummed a low note.
The dishwasher flooded the pantry floor.
The vacuum cleaner swallowed a sock.
The printer ran out of ink.
The alarm rang at half past six.
The antique clock was nineteen minutes slow.
The gramophone played a scratchy waltz.
The television showed a documentary on volcanoes.
The headline mentioned an unexpected merger.
The crossword contained an obscure term.
The cartoon made everybody chuckle.
The brochure advertised luxurious cruises.
The invitation was printed on parchment.
The manuscript had been censored.
The encyclopedia had twenty volumes.
The dictionary was missing its cover.
The receipt had faded completely.
The contract required two signatures.
The passport expired in November.
The luggage was delayed in Lisbon.
The souvenirs were overpriced.
The banquet began with asparagus.
The dessert was raspberry sorbet.
The omelette was seasoned with chives.
The stew contained lentils, celery and spinach.
The curry was dangerously spicy.
The dough doubled in volume.
The gingerbread smelled of cinnamon and cloves.
The oysters came with vinegar.
The marmalade was bitter but delicious.
The cocoa was topped with marshmallows.
The vinegar stung his nostrils.
The syrup trickled across the griddle.
The almonds were roasted and salted.
The apricots were bruised.
The pineapple was surprisingly juicy.
The watermelon was shared by seven cousins.
The stadium lights dazzled the spectators.
The marathon attracted athletes from abroad.
The fencing match ended in a draw.
The gymnast balanced on the beam.
The skater traced perfect figures.
The wrestler apologised to his opponent.
The jockey whispered encouragement.
The umpire consulted the rulebook.
The tournament was cancelled because of hail.
The rehearsal dragged on.
The curtain rose after a fanfare.
The critics praised the costumes.
The sequel disappointed its admirers.
The exhibition attracted scholars and tourists.
The mosaic depicted a chariot.
The fresco had been restored twice.
The tapestry showed a medieval hunt.
The obelisk cast a slender shadow.
The catacombs were closed for repairs.
The aqueduct still supplied the suburbs.
The pagoda had seven curved tiers.
The minaret gleamed at sunset.
The synagogue was lit by hundreds of lamps.
The abbey owned orchards and fishponds.
The parliament debated a new tariff.
The referendum divided the province.
The census counted fewer bachelors than before.
The inflation rate rose slightly.
The archive was stored underground.
The orphanage received generous donations.
The kindergarten rehearsed a pantomime.
The sculpture garden was open until dusk.
The labyrinth confused even its designer.
The hermit refused all visitors.
The nomads folded their tents before sunrise.
The twins swapped identities for fun.
The toddler mispronounced hippopotamus.
The grandfather exaggerated as always.
The bride wore ivory satin.
The bridegroom misplaced the cufflinks.
The orchestra's bassoon was out of tune.
""".strip().splitlines()

# About {a}, {b} or {t}, and true of any of them.
WITH_PEOPLE = """
{a} hummed a little tune.
{a} thought about the weather.
{a} yawned.
{a} laughed out loud.
{a} looked around carefully.
{a} listened to the silence.
{a} told a joke that nobody understood.
{a} counted to ten.
{a} dreamed of faraway islands.
{a} scratched {h} head.
{a} was in no hurry.
{a} sneezed three times.
{a} watched the clouds.
{a} remembered an old song.
{a} waited for a moment.
{a} smiled and said nothing.
{a} whispered something.
{a} had a brilliant idea but forgot it at once.
{a} wondered what tomorrow would bring.
{a} practised a difficult dance.
{a} stretched and blinked.
{a} solved a riddle.
{a} made a wish.
{a} nodded thoughtfully.
{a} sighed deeply.
{a} wished for a longer holiday.
{a} pretended to be a statue.
{a} was lost in thought.
{a} admired the view.
{a} heard a strange noise.
{a} said hello to {b}.
{a} and {b} talked for a while.
{a} winked at {b}.
{a} told {b} about a dream.
{a} asked {b} a question.
{b} thanked {a} politely.
{a} and {b} played a guessing game.
{a} argued with {b} about politics.
{a} and {b} laughed together.
{a} waved to {b}.
{a} sang a duet with {b}.
{b} teased {a} a little.
{a} forgave {b}.
{a} promised {b} to write soon.
{a} looked at {t}.
{a} talked about {t}.
{a} admired {t}.
{a} asked {b} about {t}, but got no answer.
{a} made a drawing of {t}.
{a} walked around {t} twice.
{a} pointed at {t}.
{a} dreamed about {t}.
{a} wondered how old {t} was.
""".strip().splitlines()

# Openings of a scene; the day's number may be told.
OPENINGS = """
One morning,
In the afternoon,
Later that day,
In the evening,
The next day,
At dawn,
At noon,
After breakfast,
After lunch,
Before supper,
A week later,
On Monday,
On Tuesday,
On Wednesday,
On Thursday,
On Friday,
On Saturday,
On Sunday,
Some time later,
Meanwhile,
Early in the morning,
Late at night,
In spring,
In summer,
In autumn,
In winter,
""".strip().splitlines()

TITLES = """
Tell me a story.
Please tell me a story.
Tell me a story about {x}.
I would like to hear a story about {x}.
Can you tell me what happened to {x}?
Write a story about {x}.
Tell me about a day with {x}.
Make up a story with {x} in it.
""".strip().splitlines()

CONTINUE = ["Go on.", "Please go on.", "What happened next?", "Continue.", "And then?", "Tell me more."]

# What asks for the place of everyone and everything, and for all entries of a ledger.
RECITE = ["Where is everything?", "Where is everyone and everything?", "Tell me where everything is.", "Who and what is where?"]
READ_OUT = ["Read the ledger to me.", "Please read out all entries.", "What are all the entries now?", "Tell me everything in it."]

LISTEN = ["I will tell you a story. ", "Listen to this story. ", "Here is a story. ", "Please read this and answer. ", "", "", "", ""]

ENDINGS = """
And that was the end of the day.
So the day ended, and everyone went to sleep.
That is all that happened.
And they talked about it for years.
The end.
Then the story was over.
And so everything was all right.
""".strip().splitlines()
