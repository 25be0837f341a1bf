"""Tables of what is drawn alike: letters of other scripts for Latin ones, digits for letters, emoji for words.

Only data and the functions that read it. What NFKC folds by itself (fullwidth, mathematical letters) is not repeated.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_CYRILLIC_AND_GREEK: Final = (
    "аa вb еe ёe зz иu йu кk мm нh оo рp сc тt уy хx ѕs іi їi јj ԛq ԝw һh ԁd ӏl ѵv ґr гr пn "
    "АA ВB ЕE ЗZ КK МM НH ОO РP СC ТT УY ХX ЅS ІI ЇI ЈJ ԚQ ԜW ҺH ԀD ӀI Ѵv "
    "αa βb γy δd εe ηn ιi κk μm νv οo πn ρp σo ςs τt υu χx ωw "
    "ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX "
)
_OTHERS: Final = (
    "ᴀa ʙb ᴄc ᴅd ᴇe ꜰf ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ꞯq ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz "
    "ɑa ɐa ƅb ɓb ɔc ƈc ɗd ɖd əe ɛe ɘe ƒf ɡg ɠg ɦh ɨi ıi ɩi ʝj ƙk ɭl łl ŁL ɱm ɯm ɲn ŋn øo ØO ɵo ƥp ʠq ɾr ɹr ʂs ƭt ʇt ʉu "
    "ʊu ʋv ʌv ɰw ʍw ʎy ƴy ʐz ƶz đd ĐD ħh ŧt ꓐB ꓑP ꓓD ꓔT ꓖG ꓗK ꓙJ ꓚC ꓜZ ꓝF ꓟM ꓠN ꓡL ꓢS ꓣR ꓦV ꓧH ꓪW ꓫX ꓬY ꓮA ꓰE ꓲI ꓳO ꓴU "
    "օo հh ոn սu ցg զq ѡw աw ՏS ԼL 🅰A 🅱B 🅾O 🅿P 🅐A 🅑B 🅒C 🅓D 🅔E 🅕F 🅖G 🅗H 🅘I 🅙J 🅚K 🅛L 🅜M 🅝N 🅞O 🅟P 🅠Q 🅡R 🅢S 🅣T 🅤U "
    "🅥V 🅦W 🅧X 🅨Y 🅩Z 🆀Q 🆁R 🆂S 🆃T 🆄U 🆅V 🆆W 🆇X 🆈Y 🆉Z 🅲C 🅳D 🅴E 🅵F 🅶G 🅷H 🅸I 🅹J 🅺K 🅻L 🅼M 🅽N "
    "🇦A 🇧B 🇨C 🇩D 🇪E 🇫F 🇬G 🇭H 🇮I 🇯J 🇰K 🇱L 🇲M 🇳N 🇴O 🇵P 🇶Q 🇷R 🇸S 🇹T 🇺U 🇻V 🇼W 🇽X 🇾Y 🇿Z "
    "\u2018' \u2019' \u201b' \u02bc' \u2032' \u0060' \u201c\" \u201d\" \u2033\" "
    "\u2010- \u2011- \u2012- \u2013- \u2014- \u2212- 💲$ ❗! ❕! ❓? ⭕O"
)
LETTERS: Final = {pair[0]: pair[1] for pair in (_CYRILLIC_AND_GREEK + _OTHERS).split()}
"""Character -> the ASCII character it is drawn like; only within words that mix scripts for those of `SCRIPTS`."""
SCRIPTS: Final = frozenset(pair[0] for pair in _CYRILLIC_AND_GREEK.split())
"""Those of `LETTERS` that are letters of languages in daily use: folded only where a word is a disguise."""
LEET: Final = str.maketrans("013457@$!|€£+8", "oieastasilelAb".lower())
"""Digits and signs that stand for letters inside words."""

_WORDS: Final = (
    "🔪knife 🗡dagger 🔫gun 💣bomb 🧨dynamite 🪓axe ⚔swords 🏹bow 💉needle 💊pill 🪦grave "
    "⚰coffin ⚱urn 🩸blood 🔥fire 🐀rat 🐁mouse 🐭mouse 🐹hamster 🐒monkey 🐵monkey 🙈monkey "
    "🙉monkey 🙊monkey 🦍gorilla 🦧ape 🐖pig 🐷pig 🐗boar 🐽pig 🐶dog 🐕dog 🐩poodle 🐍snake "
    "🪳cockroach 🐛bug 🐜ant 🦟mosquito 🪰fly 🪱worm 🦠virus 🕷spider 🐄cow 🐮cow 🐂bull "
    "🐑sheep 🐐goat 🐴horse 🐔chicken 🐓rooster 🐻bear 🦝raccoon 🦨skunk 🐌snail 🦥sloth 🐈cat "
    "🐱cat 🐋whale 🐳whale 🐘elephant 💩shit 🤮vomit 🤢disgusting 🤬cursing 😡angry 😠angry "
    "👿devil 😈devil 👹ogre 👺goblin 👽alien 👾alien 🤡clown 💀dead ☠dead 🖕fuck 👎bad 👍good "
    "🚮trash 🗑trash 🧻toilet 🚽toilet 🪠plunger 🚿shower 🧼soap 🤖robot 🧟zombie 🧠brain "
    "👶baby 🍼baby 🍆penis 🍑ass 🍒breasts 💦sex 👅tongue 👄lips 💋kiss 🥵horny 🔞adult "
    "🍌banana 🌮taco 🐱cat 🥜nuts 🌽corn 🏳flag 🌈rainbow 🏳️‍🌈gay ⚧transgender 👬gay "
    "👭lesbian 👨man 👩woman 👦boy 👧girl 🧑person 👴old 👵old 👳turban 🧕hijab 🕌mosque "
    "☪Muslim ✡Jew 🕍synagogue ✝Christian ⛪church 🕎Jew 🛕temple 🕉Hindu 卐nazi 🐪camel "
    "🍚rice 🥡Chinese ♿disabled 🦽disabled 🦼disabled 🦯blind 🧏deaf 👲Chinese 🍉watermelon "
    "🍗chicken 🖤black 🤎brown 🤍white 💛yellow 😂laughing 🤣laughing 😭crying 😢sad 😍love "
    "❤love 💕love 💖love 💗love 💘love 💙love 💚love 💜love 🥰love 😘kiss 😊happy 😀happy "
    "😁happy 😃happy 😄happy 🙂happy 😎cool 🙄annoyed 😒annoyed 🤔thinking 🙏please 👏clap "
    "💪strong 🎉party 💯hundred 👀eyes 👁eye 👋hello ✌peace 🔨hammer 🔧wrench ⚡lightning "
    "💥explosion ☢nuclear ☣biohazard 🚬cigarette 🍺beer 🍷wine 🏠home 🚪door ⛓chains "
    "🔒locked 🪢rope 🧑‍🦽disabled 🌍world 🌎world 🌏world 💰money 🤑money 💵money 🚫no ❌no "
    "🙅no ✅yes 🏿black 🏾black 🏽brown 🏼white 🏻white"
)
_EMOJI: Final[dict[str, str]] = {
    pair[:cut]: pair[cut:]
    for pair in _WORDS.split()
    for cut in [next(index for index, char in enumerate(pair) if char.isascii())]
    if cut == 1
}
_LEFT_OUT: Final = re.compile(r"\b(?:with|face|sign|symbol|of|and|the|black|white|heavy|large|medium|small|emoji)\b")


@lru_cache(maxsize=4096)
def emoji_word(char: str) -> str:
    """What an emoji says in words (``knife``), from the table or its Unicode name; "" for what is none."""
    if char in _EMOJI:
        return _EMOJI[char]
    if not (0x2190 <= ord(char) <= 0x2BFF or 0x1F000 <= ord(char) <= 0x1FAFF):
        return ""
    if unicodedata.category(char) not in {"So", "Sk", "Sm"}:
        return ""
    words = _LEFT_OUT.sub(" ", unicodedata.name(char, "").lower().replace("-", " "))
    return " ".join(words.split())[:40]
