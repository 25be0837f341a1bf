"""Passages of several sentences as posts, stories and pages have them, put together from clauses; with innocent ones alike.

What scenes.py says in single sentences stands here among others: most of a harmful text is harmless by itself.
"""

from random import Random

# fmt: off
WHO = ("he", "she", "Anna", "Mark", "my wife", "my boyfriend", "the woman", "the man", "Lisa", "Tom", "the stranger", "his mistress", "the nurse", "my ex", "the soldier", "her boss", "I", "we both")
WHOM = ("her", "him", "me", "his wife", "my girlfriend", "the man", "the woman", "my husband")
SETTING = (
    "It was late and the rain beat against the window.", "The bar was almost empty.", "Nobody else was home that evening.", "We had met online a week before.", "The door closed behind them.", "The hotel room smelled of smoke and perfume.", "I had been waiting for this all day.", "The music was loud.", "She put down her glass and smiled.", "He locked the car and walked up the stairs.",
    "It started as a normal shift at work.", "I am 28 and live in Ohio.", "This happened last summer at the lake.", "The office was dark.", "Chapter 4", "Prologue.", "He looked at her for a long time.", "Her phone buzzed on the table.", "The sun went down behind the hills.", "The train was late again.",
)
CLOSING = ("Then it was morning.", "To be continued.", "Let me know what you think!", "They never spoke of it again.", "I still think about it.", "What should I do?", "The end.", "Thanks for reading.", "Anyone else?", "Nobody ever found out.", "Comment below.", "She sighed and closed her eyes.", "It rained for the rest of the week.")
SEX_VERB = ("licked", "sucked", "stroked", "fingered", "fucked", "pounded", "caressed", "squeezed", "teased", "rubbed", "penetrated", "kissed", "spanked", "groped", "rode", "grabbed", "tasted", "massaged", "undressed", "fondled")
SEX_PART = ("cock", "pussy", "clit", "nipples", "tits", "bare ass", "balls", "wet slit", "hard dick", "naked breasts", "inner thighs", "throbbing member", "shaft", "asshole", "boobs", "vagina", "penis", "erection", "swollen lips", "cleavage")
SEX_MORE = ("until she came", "moaning louder and louder", "while he jerked off", "begging for more", "and swallowed every drop of cum", "as her orgasm rolled over her", "harder and deeper", "on all fours", "in front of the mirror", "with a vibrator", "covered in oil", "without a condom", "while her husband watched", "tied to the bed", "until he exploded inside her", "in the shower", "with her panties around her ankles", "and she screamed his name")
SEX_LINES = (
    "Watch {k} porn videos for free, thousands of {k} clips in HD.", "Our {k} cams are live 24/7, chat with naked girls now.", "Looking for a {k} hookup tonight, no strings attached.", "I have a {k} fetish and my wife does not know.", "Best {k} sex toys of the year: dildos, plugs and vibrators compared.", "My first {k} experience was amazing, I came three times.", "{k} erotica: tags: explicit, smut, oral, anal, rough sex",
    "She does {k} on OnlyFans, subscribe for uncensored nudes.", "Any tips for {k}? My girlfriend wants to try it in bed.", "I can't stop watching {k} porn and masturbating.", "Horny and looking for {k}, send pics.", "He had always fantasised about {k}, and now her lips were around his cock.", "The {k} scene left her dripping and spread open.", "AI, write a {k} scene, as filthy as you can.", "in her {k} outfit she bent over and showed him everything",
    "free {k} tube xxx videos teen hot sexy girls fuck hd download", "#cum #{k} #cute #nsfw goal: 500 tokens to get naked, tip for blowjob", "{k} dating site gratis sex chat erotic massage nude webcam", "Pornhub has the best {k} section, exclusive content every day.", "hot {k} babe gets her tight holes filled", "xxx photo gallery {k} busty naked wife homemade", "escort {k} service full body massage happy ending",
)
KINK = ("bdsm", "gangbang", "anal", "threesome", "milf", "hentai", "bondage", "lesbian", "cuckold", "stepmom", "creampie", "latex", "foot fetish", "blowjob", "deepthroat", "squirting", "interracial", "voyeur", "swinger", "femdom", "furry", "stripper", "gay", "public sex", "roleplay", "amateur", "massage", "squirt", "orgy", "tentacle")
GORE_VERB = ("stabbed", "slashed", "shot", "beat", "strangled", "hacked at", "crushed", "burned", "clubbed", "kicked", "drowned", "executed", "impaled", "mutilated", "dismembered", "disembowelled", "skinned", "choked", "whipped", "decapitated")
GORE_MORE = ("until the face was pulp", "and blood poured over the floor", "while the others cheered", "again and again", "without a word", "and left the body in a ditch", "bones cracking under the blows", "as she begged for her life", "and the screams stopped", "slowly, to make it last", "with a rusty knife", "in front of the children", "and smiled at the corpse", "until nothing moved", "with a sledgehammer", "and wiped the blade on his sleeve", "entrails spilling out")
WISH = (
    "We need to start shooting {e}, it is the only language they understand.", "I want to see {e} swing from the bridges.", "Blood will flow and {e} will pay with their lives.", "Kill {e} before they kill us. Load your guns.", "If I see {e} I will smash their heads in, I swear to god.", "Somebody should burn their houses down with {e} inside.", "The bombing was a heroic act and {e} had it coming.", "I'll bring my rifle on Monday and {e} won't come home.", "Rape and death to {e}!", "Praise the martyrs who blew up {e}.",
)
ENEMY = ("the politicians", "those cops", "the traitors", "the teachers", "these people", "the protesters", "the infidels", "the bankers", "all of them", "my coworkers", "the neighbours", "the senators", "the doctors")
RANT = (
    "{g} are behind all of this, wake up people.", "Every time there is a crime, it is {g}.", "The media, the banks, all run by {g}.", "They want to replace us with {g}, this is genocide against our race.", "I don't care if it's politically incorrect: {g} are {b}.", "Our ancestors would puke if they saw how {g} walk around here.", "{g} have lower IQs, it's just biology.", "The holocaust never happened, {g} made it up for money.", "You let one family of {g} in and the whole street goes to hell.", "{g} worship a pedophile and beat their wives.",
    "There's a reason every country kicked out {g}.", "Diversity means {g} raping our daughters.", "God hates {g}. It's in the book.", "{g} shouldn't be allowed near kids.", "If {g} had built anything they'd still live in mud huts.", "Typical {s} behaviour, they can't help it.", "I'm sick of {g} and their whining about rights. You are {b}, deal with it.", "{g} only exist to have babies and make sandwiches.", "Islam is a cancer and {g} spread it.", "Separate the races again, {g} belong in cages.", "{g} are imposters and liars, the truth about the holocaust comes out one day", "wake up: {g} hate us and want us dead, their religion teaches murder", "Fuck {g} and fuck everyone who defends them", "what did you expect from {g}, they have no honour, only greed", "all {g} in this city should go back to the jungle", "women should obey and keep quiet, a wife must never refuse her husband", "some {s} stole my job and now I'm supposed to be nice to {g}",
)
SAD = (
    "I've been thinking about killing myself since Monday.", "I cut my arms again last night, deeper this time.", "The pills are in my drawer and I know how many I need.", "I don't want to wake up tomorrow.", "Nobody would notice if I was gone.", "I starve myself so I can finally disappear.", "I already wrote letters to my family to say goodbye.", "Hurting myself is the only thing that makes me feel real.", "I keep picturing myself jumping in front of the train.", "What is the point of living like this?", "I looked up how to tie a noose.", "I just want the pain to stop, forever.", "I deserve to die.", "My body is covered with scars from the razor.", "I threw up everything I ate again because I hate my body.", "Suicide is the only way out for me.", "I tried to overdose in March and I wish it had worked.",
)
LIFE = (
    "My boyfriend and I have been together for three years.", "I lost my job in April and my rent is due.", "My parents fight a lot.", "I am 17 and in my last year of school.", "She said she needs space.", "The doctor changed my medication.", "I can't sleep and I feel tired all day.", "My best friend moved away.", "He never does the dishes.", "I failed my exam again.", "The dog needs surgery and it costs a fortune.", "My boss yelled at me in the meeting.", "We went to couples counselling.", "I think about my ex a lot.", "I drink too much coffee.", "Work is stressful but okay.", "We argued about money.", "I feel anxious before every date.", "My therapist says I should write it down.", "I am proud of how far I got.",
)
CALM_VERB = ("hugged", "helped", "thanked", "called", "ignored", "photographed", "interviewed", "drove", "taught", "watched", "invited", "congratulated", "painted", "followed", "examined", "surprised", "forgave", "bandaged")
CALM_MORE = ("after the match", "at the market", "before the exam", "with a big smile", "for hours", "on the way to the station", "because the lift was broken", "and made some tea", "without any hurry", "at the wedding", "during the flood", "and told a joke", "in the library", "as the sun came up", "with a map in hand", "over dinner")
OPINION = (
    "The city council wants to build a new bridge and I think that is a waste of money.", "Most voters agree that the border policy needs reform.", "I read an article about {g} who opened a bakery here.", "The president's speech was boring and full of mistakes.", "Why is it that gun control never gets anywhere in this country?", "I'm neither left nor right, I just want working trains.", "There was an interesting documentary on the history of {g} last night.", "Capitalism has its problems, but so does everything else.", "It is unfair that {g} earn less for the same work.", "You can criticise a religion without hating {g}.", "The war has displaced millions, many of them {g}.", "I'm a Christian and I have friends who are {g}.", "In the comments somebody insulted {g}; the moderator deleted it.",
    "If you look at the numbers, {g} are no more likely to commit crimes than anybody else.", "I don't see why a person's race should matter for university admission.", "White supremacists marched yesterday and the town was shocked.", "You seem to think that all {g} vote the same way, they don't.", "My parents wanted me to date only {g}, which I find silly.", "Some feminists argue that the film is sexist, others liked it.", "What is the difference between ethnicity and nationality? I am asking because my friends are {g}.", "As a bisexual man I get tired of explaining myself.", "Racism exists in every country, and {g} can be racist too.", "It's not the fault of {g} that the factory closed.", "The slaves were brought here by force, and their descendants still feel it.", "Do {g} have a word for that in their language?", "The bible has verses on slavery that nobody follows today.", "The fact that he called {g} lazy says more about him.", "Nazis murdered millions of people, that is a historical fact.", "Dating apps are harder for {g}, says a survey.", "The police treat {g} differently, that's what the report found.", "Women's sport has too little money.", "Muslims fast during Ramadan and so does my colleague.", "Honestly that take is dumb, but you have a right to it.", "Murder is murder, whoever does it.", "He was charged with assault after a fight outside a bar.", "In the series, the villain kills the king and takes the throne.", "The game has a lot of blood but the story is good.", "A knife attack in the city centre left two people injured, police said.", "I had scars from an accident covered with a tattoo.", "I was depressed for years; therapy and running got me out.", "I used to self-harm as a teenager and I want to tell you it gets better.", "Consent matters: no means no.", "The novel deals with loss and grief.", "My ex texted me at three in the morning, what a mess.",
    "Our company provides software for dentists. We were founded in 2009.", "Add the onions, then the garlic, and let it simmer.", "The study included 312 patients aged 18 to 65.", "This product is not intended to diagnose or treat any disease.", "The algorithm runs in linear time.", "Join us on Saturday for the annual charity run!", "Copyright 2015. All rights reserved.", "The hero's sword broke, but he did not give up.", "Rated 4 stars: nice place, slow service.", "The committee will vote on the amendment in June.", "I used to play the drums in a band called the Rats.",
)
# fmt: on


def _one(chance: Random, words: tuple[str, ...]) -> str:
    return chance.choice(words)


def _act(chance: Random, verbs: tuple[str, ...], more: tuple[str, ...], parts: tuple[str, ...] = ()) -> str:
    whose = {"her": "her", "him": "his", "me": "my"}.get(whom := _one(chance, WHOM), f"{whom}'s")
    what = f"{whose} {_one(chance, parts)}" if parts else whom
    text = f"{_one(chance, WHO)} {_one(chance, verbs)} {what}"
    text += f" {_one(chance, more)}" if chance.random() < 0.7 else ""
    return text[0].upper() + text[1:] + _one(chance, (".", ".", "!", "...", ","))


def passage(chance: Random, group: str, slur: str, trait: str) -> tuple[str, dict[str, int]]:
    """One passage and what it is of; labels as in ``written``."""
    kind = chance.choice(
        (
            "sex",
            "sex",
            "sex",
            "gore",
            "wish",
            "rant",
            "rant",
            "sad",
            "calm",
            "calm",
            "calm",
            "life",
            "opinion",
            "opinion",
        )
    )
    count = chance.choice((1, 2, 2, 3, 4))
    labels: dict[str, int] = {}
    if kind == "sex":
        said = [
            _act(chance, SEX_VERB, SEX_MORE, SEX_PART)
            if chance.random() < 0.6
            else _one(chance, SEX_LINES).format(k=_one(chance, KINK))
            for _ in range(count)
        ]
        labels = {"sexual": 1, "violence": 0}
    elif kind == "gore":
        said = [_act(chance, GORE_VERB, GORE_MORE) for _ in range(count)]
        labels = {"violence": 1}
    elif kind == "wish":
        said = [_one(chance, WISH).format(e=_one(chance, ENEMY)) for _ in range(min(count, 2))]
        labels = {"violence": 1, "hate": -1, "harassment": -1, "illicit": -1}
    elif kind == "rant":
        said = [_one(chance, RANT).format(g=group, s=slur, b=trait) for _ in range(count)]
        labels = {"hate": 1, "harassment": -1}
    elif kind == "sad":
        said = [_one(chance, SAD) for _ in range(min(count, 2))] + [_one(chance, LIFE) for _ in range(count - 1)]
        chance.shuffle(said)
        labels = {"self-harm": 1}
    elif kind == "calm":
        said = [_act(chance, CALM_VERB, CALM_MORE) for _ in range(count)]
    else:
        said = [_one(chance, LIFE if kind == "life" else OPINION).format(g=group) for _ in range(count + 1)]
    if kind in {"sex", "gore", "calm"}:
        said = (
            [_one(chance, SETTING) for _ in range(chance.choice((0, 1, 2)))]
            + said
            + [_one(chance, CLOSING)] * chance.choice((0, 1))
        )
    text = chance.choice((" ", " ", "\n")).join(said)
    return (text.lower() if chance.random() < 0.2 else text), labels
