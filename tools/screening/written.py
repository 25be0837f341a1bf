"""Training examples written by rule from the word lists beside this: what the public sets have no labels for.

Not collected from people. Written knowing which kinds of case HateCheck and XSTest publish, not from their rows: what
comes near a row of an evaluation set is dropped (`gather.py`). Every kind of harm stands beside its innocent twin.
"""

from collections.abc import Callable, Iterator
from random import Random

from tools.screening import lexicons as lx
from tools.screening.passages import passage
from tools.screening.scenes import BENIGN_SCENES, INJECTIONS, SCENES, WORKADAY

Example = tuple[str, dict[str, int]]
NAMES = ("hate", "harassment", "sexual", "sexual/minors", "violence", "self-harm", "illicit", "jailbreak")
NOTHING = dict.fromkeys(NAMES, 0)

ASK = (
    "How do I {x}?", "How can I {x}?", "how to {x}", "What's the best way to {x}?", "Tell me how to {x}.",
    "Give me step-by-step instructions to {x}.", "Explain how to {x}", "I want to {x}. What do I need?",
    "Is there an easy way to {x}?", "Can you help me {x}?", "What is the quickest way to {x}?", "I need to {x} tonight",
    "Write a guide on how to {x}", "Where can I learn to {x}?", "Ways to {x}", "Please teach me to {x}.",
    "What are some tips if I want to {x}?", "What tools do I need to {x}", "Could you show me how to {x}?",
    "Give me some ideas of how to {x}.", "Help me {x}", "My friend asked me how to {x}", "what do you need to {x}",
)  # fmt: skip
INFORM = (
    "Tell me about {x}.", "What was {x}?", "Explain {x} to a child", "Summarise {x} in two sentences.",
    "Write an essay about {x}", "I have an exam on {x} tomorrow", "Why is {x} important?", "Give me a lecture on {x}",
    "What can we learn from {x}?", "Who wrote about {x}?", "When did people first study {x}?", "Define {x}.",
)  # fmt: skip


def of(**labels: int) -> dict[str, int]:
    """No label but these; names with a slash or a hyphen are written with underscores."""
    named = {"sexual_minors": "sexual/minors", "self_harm": "self-harm"}
    return NOTHING | {named.get(name, name): value for name, value in labels.items()}


def write(seed: int) -> Iterator[Example]:
    """All written examples, the same for the same seed."""
    chance = Random(seed)
    plan: tuple[tuple[Callable[[Random], Example], int], ...] = (
        (hateful, 1900), (not_hateful, 2500), (insulting, 700), (not_insulting, 600), (illicit, 1400),
        (harmless_question, 2000), (threat, 600), (scene, 2200), (benign_scene, 1100), (injection, 600),
        (workaday, 900), (longer, 6200), (discriminating, 300), (private, 400),
    )  # fmt: skip
    for writer, count in plan:
        seen: set[str] = set()
        for _ in range(count * 3):
            if len(seen) == count:
                break
            text, labels = writer(chance)
            if text not in seen:
                seen.add(text)
                yield text, labels


def _group(chance: Random) -> str:
    return chance.choice(lx.GROUPS[chance.choice(list(lx.GROUPS))])


def _say(chance: Random, forms: tuple[str, ...], **parts: str) -> str:
    text = chance.choice(forms).format(**parts)
    return text[0].upper() + text[1:] if chance.random() < 0.7 else text


def hateful(chance: Random) -> Example:
    group = chance.choice(lx.SLURS) if chance.random() < 0.25 else _group(chance)
    parts = {
        "g": group, "o": chance.choice(lx.ONE_OF), "v": chance.choice(lx.VERMIN), "b": chance.choice(lx.BAD_TRAITS),
        "s": chance.choice(lx.SLUR), "k": chance.choice(lx.ATTACK), "a": chance.choice(lx.ATTACKS),
        "d": chance.choice(lx.GOOD_TRAITS),
    }  # fmt: skip
    kind = chance.random()
    if kind < 0.3:
        forms = (
            "I am going to {k} every last one of those {g}", "somebody should {k} {o} today", "let's {k} some {g}",
            "all {g} ought to get {a}", "{g} need to be {a}, the sooner the better", "we will {k} you, {s}",
            "the only good {g} are dead {g}", "It would be great if {g} were {a}.", "When I see {g} I want to {k} them",
            "I can't wait until {g} are finally {a}", "death to {g}", "{g} should be {a}. Simple as that.",
            "you are {o}, so you deserve to be {a}", "I hope {g} get {a}", "Time to {k} {g}",
        )  # fmt: skip
        return _say(chance, forms, **parts), of(hate=1, violence=1)
    forms = (
        "I really can't stand {g}", "{g} make me sick", "I despise {g} so much", "{g} are {b}", "{g} are {v}",
        "face it, {g} are {b} and always will be", "nobody wants {g} around here", "my country is being ruined by {g}",
        "I would never let {o} into my house", "{g} are {v} and everyone knows it", "what can you expect of {o}, they are {b}",
        "why are {g} so {b}?", "isn't it true that {g} are {b}?", "ugh, {g} again. They are {v}.", "{g} aren't really people",
        "you {s}, go back where you came from", "shut up {s}", "look at that filthy {s}", "another {s} on the bus today, disgusting",
        "no {g} allowed in my town", "{g} don't deserve any rights", "{g} will never be {d}", "{g} are not {d}, they are {b}",
        "I am no racist, but {g} are {b}", "{g} have no place in a civilised country", "We do not need {g} here. They are {b}.",
        "{g} control everything and they are {b}", "I have met many {g}. They are all {b}.", "being {o} is a disease",
        "{o}? I'd rather be friends with {v}", "send {g} back home", "{g} breed like {v}", "{g} do nothing but steal and lie",
        "I wouldn't hire {o}, they are all {b}", "the smell of {g} is unbearable", "{g} belong in the kitchen or in a zoo",
        "fuck {g}", "fuck all those {g}, {b} every one", "{g} are so fucking {b}", "{g} can't do anything right",
        "there is no doubt that {g} are {b}", "I believe that {g} are {b}, change my mind", "{s}s are {b}",
        "if you are {o} you are {b}", "There is nothing worse than {g}.", "Thank god there are no {g} in our school",
        "This {s} can't even speak properly", "Stay away from {g}: they are {b}", "White power! {g} out!",
    )  # fmt: skip
    return _say(chance, forms, **parts), of(hate=1)


def not_hateful(chance: Random) -> Example:
    group, one = _group(chance), chance.choice(lx.ONE_OF)
    parts = {
        "g": group, "o": one, "d": chance.choice(lx.GOOD_TRAITS), "b": chance.choice(lx.BAD_TRAITS), "t": chance.choice(lx.OBJECTS),
        "r": chance.choice(lx.TRADES), "v": chance.choice(lx.VERMIN), "s": chance.choice(lx.SLUR), "a": chance.choice(lx.ATTACKS),
        "w": chance.choice(lx.SLURS), "i": chance.choice(lx.INSULTS),
    }  # fmt: skip
    forms = (
        "I love {g}", "{g} are {d}", "my best friend is {o}", "we need more {g} in parliament", "{g} are not {b}",
        "nobody should say that {g} are {b}", "saying that {g} are {v} is wrong", "it is not okay to hate {g}",
        'He shouted "{g} are {b}" and we all told him to stop', 'If you say "{g} are {b}", you are the problem.',
        'calling people "{s}" is cruel', '"{s}" is a slur and I won\'t use it', "Being called a {s} at school hurt me for years",
        "I was attacked because I am {o}", "stop the violence against {g}", "{g} should never be {a}", "{g} deserve the same rights as all of us",
        "I hate {t}", "{t} should be {a}", "{t} are {v}", "I can't stand {t}, they make me sick", "all {t} are {b}",
        "{r} are {b}", "I despise {r}", "{r} should be {a}, honestly", "fuck {t}", "fucking {t} again", "damn, this is fucking good",
        "{g} celebrated their holiday yesterday", "my neighbours are {g}", "there are many {g} in my class", "I am {o}",
        "as {o}, I find this city friendly", "why do people hate {g}?", "the film is about {o}", "how do {g} celebrate new year?",
        "No one deserves to be {a} for being {o}", "{g} have suffered from being called {v}", "I don't hate {g}", "I would never call {g} {v}",
        "The museum shows how {g} were {a} in the past", "We remember the {g} who were {a}.", "people who think {g} are {b} make me sad",
        "my fellow queers, we will be fine", "us bitches have to stick together", "yes, I'm a dyke and proud of it", "nigga we made it",
        "you are {o}? how nice to meet you", "What rights do {g} have in Spain?", "{g} can do anything they want in life",
        "There is nothing wrong with being {o}.", "it is a lie that {g} are {b}", "I stand with {g}", "Everyone should respect {g}.",
        "I hate people who mistreat {g}", "Racists say {g} are {v}; they could not be more wrong.", "{r} make me sick",
        "I hate it when {g} are treated badly", "this shit is hilarious", "oh fuck, I forgot my keys", "My bitch of a computer crashed",
        "Such hate against {g} has no place here", "You can't just say that {o} is {b}!", "not all {g} are {b}, hardly any in fact",
        "I am proud to be {o}", "{t} can go to hell", "I never want to see {t} again", "you {i}, you broke my phone", "That {i} cut me off in traffic",
        "A {r} convention is in town: run", "retarded hair growth can have medical causes", "the dyke keeps the sea out", "a chink in the armour",
        "He was arrested for calling her a {s}", "The word {s} was once used against {g}", "how can we support {g}?",
    )  # fmt: skip
    text = _say(chance, forms, **parts)
    labels = of(hate=0)
    if "you " in text and parts["i"] in text:
        labels["harassment"] = 1
    return text, labels


def insulting(chance: Random) -> Example:
    first, second = chance.sample(lx.INSULTS, 2)
    parts = {"i": first, "j": second, "p": chance.choice(lx.PEOPLE)}
    forms = (
        "you are such a {i}", "you're nothing but a {i} and a {j}", "shut your mouth, {i}", "nobody likes you, {i}",
        "what a {i} you are", "go to hell you {i}", "everyone laughs at you, you {i}", "listen, {i}: you are a {j}",
        "you should be ashamed, {i}", "hey {i}, your mother must be so disappointed", "you look like a {i} in that photo",
        "I hope you fail, {i}", "your face makes me want to puke", "no wonder she left you, {i}", "get lost, {j}",
        "fuck you, {i}", "fuck off you {i}", "you dumb {i}, you can't even spell", "the world would be better without you, {i}",
        "I'll make your life hell, {i}", "I know where you work, {i}, watch your back", "you will regret this, {i}",
        "stupid {i}, quit the team already", "what did you expect from a {i} like her", "he is a {i}, let's all mock him at school tomorrow",
        "Write a message to humiliate {p} in front of everyone, call her a {i}", "Dear {p}, you are a {i} and everyone hates you.",
        "kys {i}", "you're a {i}. Delete your account.", "kill yourself, {i}", "please do us all a favour and die, {i}", "ur a {i} lol",
        "You are ugly, stupid and a {i}.", "No one will ever love a {i} like you", "Your work is trash and so are you, {i}.",
    )  # fmt: skip
    text = _say(chance, forms, **parts)
    labels = of(harassment=1, hate=0)
    if any(part in text.lower() for part in ("kys", "kill yourself", "and die", "without you")):
        labels["self-harm"] = -1
        labels["violence"] = -1
    return text, labels


def not_insulting(chance: Random) -> Example:
    parts = {
        "f": chance.choice(lx.FRIENDS),
        "i": chance.choice(lx.INSULTS),
        "t": chance.choice(lx.OBJECTS),
        "p": chance.choice(lx.PEOPLE),
    }
    forms = (
        "you are such a {f}", "thank you, you're a {f}", "what a {f} you are", "I feel like a {i} today", "sorry, I was a {i} yesterday",
        "someone called me a {i} and it hurt", "why do people say {i} online?", "you look great in that photo", "I was such a {i} at sixteen, lol",
        "I disagree with you on {t}", "your essay has three mistakes on page two", "this movie is a {i} of a film", "what does {i} mean?",
        "you were late again, please come on time", "I think your argument is weak because it skips the costs", "you never listen to me",
        "How do I respond when {p} calls me a {i}?", "My kid is bullied: they call her a {i}. What should I do?", "{t} drive me crazy",
        "I am angry at {p} but I'll calm down", "we lost because we played badly", "Honest feedback: the talk was too long.", "I miss you, {f}",
        "you should be proud of yourself", "nobody dislikes you, don't worry", "that was a stupid mistake of mine", "haha you idiot, I love you",
        "don't be silly, {f}", "get lost in the music", "you're killing it, {f}", "damn you're good at this", "holy shit that goal was insane",
    )  # fmt: skip
    return _say(chance, forms, **parts), of()


def illicit(chance: Random) -> Example:
    if chance.random() < 0.55:
        deed = chance.choice(lx.CRIMES)
        violent = any(
            w in deed for w in ("bomb", "murder", "kill", "shooting", "terror", "kidnap", "hitman", "torture")
        )
        return _say(chance, ASK, x=deed), of(illicit=1, violence=-1 if violent else 0, sexual=-1)
    deed = f"{chance.choice(lx.HARM_PERSON)} {chance.choice(lx.PEOPLE)}"
    return _say(chance, ASK, x=deed), of(illicit=1, violence=-1, harassment=-1, sexual=-1)


def harmless_question(chance: Random) -> Example:
    kind = chance.random()
    if kind < 0.5:
        verb = chance.choice(list(lx.SAFE_OBJECT))
        text = _say(chance, ASK, x=f"{verb} {chance.choice(lx.SAFE_OBJECT[verb])}")
    elif kind < 0.75:
        text = _say(chance, ASK, x=chance.choice(lx.BENIGN_TASKS))
    elif kind < 0.9:
        text = _say(chance, INFORM, x=chance.choice(lx.KNOWLEDGE))
    else:
        verb = chance.choice(
            ("kill", "shoot", "hurt", "rob", "stab", "poison", "blackmail", "kidnap", "blow up", "beat")
        )
        game = chance.choice(
            ("Fortnite", "Call of Duty", "GTA V", "Skyrim", "Hitman 3", "Minecraft", "chess", "The Sims", "Dark Souls")
        )
        forms = (
            "How do I {v} {f} in {g}?", "In {g}, how can I {v} the guards?", "Why did {f} {v} the old king?", "Who wanted to {v} {f}?",
            "What happens when I {v} an NPC in {g}?", "Is it a crime to {v} someone?", "What does the word {v} mean?", "How would {f} {v} a dragon?",
            "What is the definition of '{v}'?", "Which sentence do people get when they {v} somebody?", "Can you {v} a villager in {g}?",
        )  # fmt: skip
        text = _say(chance, forms, v=verb, f=chance.choice(lx.FICTION), g=game)
    return text, of()


def threat(chance: Random) -> Example:
    parts = {
        "k": chance.choice(lx.ATTACK),
        "p": chance.choice(lx.PEOPLE),
        "a": chance.choice(lx.ATTACKS),
        "i": chance.choice(lx.INSULTS),
    }
    if chance.random() < 0.6:
        forms = (
            "I am going to {k} you tonight", "I swear I'll {k} {p}", "you will be {a}, you hear me", "I want to {k} {p} and watch the blood run",
            "{p} deserves to be {a}", "tomorrow I {k} everyone at school", "I'll {k} you and your whole family, {i}", "somebody {k} {p} already",
            "I dream of how I {k} {p}", "I hope {p} gets {a} in front of a crowd", "one more word and I {k} you", "he should be {a} slowly",
            "violence is the only answer: {k} them all", "we must {k} the traitors, spread the word", "I will bring a gun and {k} {p}",
        )  # fmt: skip
        return _say(chance, forms, **parts), of(violence=1, harassment=-1, illicit=-1)
    forms = (
        "the police arrested a man who wanted to {k} {p}", "the film shows two men who {k} each other", "I was afraid that someone would {k} {p}",
        "our team got {a} in the final lol", "this workout will kill me", "my mum is going to kill me when she sees the mess", "I could murder a pizza",
        "the comedian killed it last night", "the victim said she had been {a}", "news: three people were {a} in the attack, the minister condemned it",
        "they shot the scene in one take", "my phone battery is dying", "He bombed the interview", "I would kill for a coffee", "that joke slayed me",
        "in the game you {k} monsters to level up", "how can schools prevent that students {k} each other?", "soldiers were {a} in the war of 1914",
    )  # fmt: skip
    return _say(chance, forms, **parts), of()


def _filled(chance: Random, forms: tuple[str, ...], slots: dict[str, tuple[str, ...]]) -> str:
    text = chance.choice(forms)
    for name, words in slots.items():
        while "{" + name + "}" in text:
            text = text.replace("{" + name + "}", chance.choice(words), 1)
    return text[0].upper() + text[1:] if chance.random() < 0.6 else text


def scene(chance: Random) -> Example:
    """One to four sentences of one harmful kind, sometimes within harmless ones."""
    each = chance.choice(SCENES)
    said = [_filled(chance, each.forms, each.slots) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    if chance.random() < 0.25:
        other = chance.choice(BENIGN_SCENES)
        said.insert(chance.randrange(len(said) + 1), _filled(chance, other.forms, other.slots))
    return " ".join(said), NOTHING | dict(each.labels)


def benign_scene(chance: Random) -> Example:
    each = chance.choice(BENIGN_SCENES)
    said = [_filled(chance, each.forms, each.slots) for _ in range(chance.choice((1, 1, 2, 3, 4)))]
    return " ".join(said), NOTHING | dict(each.labels)


def longer(chance: Random) -> Example:
    text, labels = passage(chance, _group(chance), chance.choice(lx.SLUR), chance.choice(lx.BAD_TRAITS))
    return text, NOTHING | labels


def injection(chance: Random) -> Example:
    text = _filled(chance, INJECTIONS.forms, INJECTIONS.slots)
    if chance.random() < 0.4:
        other = _filled(chance, WORKADAY.forms, WORKADAY.slots)
        text = f"{other} {text}" if chance.random() < 0.7 else f"{text} {other}"
    return text, NOTHING | dict(INJECTIONS.labels)


def workaday(chance: Random) -> Example:
    said = [_filled(chance, WORKADAY.forms, WORKADAY.slots) for _ in range(chance.choice((1, 1, 2, 3)))]
    return " ".join(said), of()


def discriminating(chance: Random) -> Example:
    if chance.random() < 0.5:
        forms = (
            "Why should {g} not be allowed to {r}?", "Give me reasons why {g} shouldn't {r}", "Write a law that forbids {g} to {r}",
            "How do I make sure {g} can't {r}?", "Explain why {g} are worse than others", "Why is it good that {g} cannot {r}?",
        )  # fmt: skip
        return _say(chance, forms, g=_group(chance), r=chance.choice(lx.RIGHTS)), of(hate=1, illicit=-1)
    forms = (
        "Why should {g} not be allowed to {r}?", "Give me reasons why {g} shouldn't {r}", "Write a law that forbids {g} to {r}",
        "How do I make sure {g} can't {r}?", "Explain why {g} are worse than others", "Why do {h} have more saunas than {g}?",
        "Why are there so many {h} in choirs?", "Why do {h} get a discount on buses made of cheese?",
    )  # fmt: skip
    return _say(chance, forms, g=chance.choice(lx.ABSURD_GROUPS), h=_group(chance), r=chance.choice(lx.RIGHTS)), of()


def private(chance: Random) -> Example:
    kind = chance.random()
    fact = chance.choice(lx.FICTION_FACTS)
    forms = (
        "What is the {x} of {y}?", "Tell me {y}'s {x}", "How do I find the {x} of {y}?", "Give me {y}'s {x}, please",
        "Can you look up the {x} of {y} for me?", "I need {y}'s {x} without them knowing",
    )  # fmt: skip
    if kind < 0.5:
        return _say(chance, forms, x=fact, y=chance.choice(lx.REAL_PRIVATE)), of(illicit=1, harassment=-1)
    if kind < 0.8:
        return _say(chance, forms[:5], x=fact, y=chance.choice(lx.FICTION)), of()
    return _say(
        chance, ("What is {x}?", "Tell me {x}.", "Where do I find {x}?"), x=chance.choice(lx.PUBLIC_FACTS)
    ), of()
