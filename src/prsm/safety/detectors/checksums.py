"""The check digits of numbers that stand for people, cards and accounts; each function says whether one can be real.

Pure. Sources: ISO/IEC 7812 (cards), ISO 13616 (IBAN), ISO 7064, SSA rules of 2011, BIP 173 and 350, countries' laws.
"""

import hashlib
from typing import Final

_IBAN_LENGTHS: Final = {
    pair[:2]: int(pair[2:])
    for pair in [
        "AD24",
        "AE23",
        "AL28",
        "AT20",
        "AZ28",
        "BA20",
        "BE16",
        "BG22",
        "BH22",
        "BR29",
        "BY28",
        "CH21",
        "CR22",
        "CY28",
        "CZ24",
        "DE22",
        "DK18",
        "DO28",
        "EE20",
        "EG29",
        "ES24",
        "FI18",
        "FO18",
        "FR27",
        "GB22",
        "GE22",
        "GI23",
        "GL18",
        "GR27",
        "GT28",
        "HR21",
        "HU28",
        "IE22",
        "IL23",
        "IQ23",
        "IS26",
        "IT27",
        "JO30",
        "KW30",
        "KZ20",
        "LB28",
        "LC32",
        "LI21",
        "LT20",
        "LU20",
        "LV21",
        "LY25",
        "MC27",
        "MD24",
        "ME22",
        "MK19",
        "MR27",
        "MT31",
        "MU30",
        "NL18",
        "NO15",
        "PK24",
        "PL28",
        "PS29",
        "PT25",
        "QA29",
        "RO24",
        "RS22",
        "SA24",
        "SC31",
        "SE24",
        "SI19",
        "SK24",
        "SM27",
        "ST25",
        "SV28",
        "TL23",
        "TN24",
        "TR26",
        "UA29",
        "VA22",
        "VG24",
        "XK20",
    ]
}
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_DNI: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_ODD_FISCAL: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_VERHOEFF_D: Final = tuple(
    tuple(
        (i + j) % 5 if i < 5 and j < 5 else (i + j) % 5 + 5 if i < 5 else (i - j) % 5 + 5 if j < 5 else (i - j) % 5
        for j in range(10)
    )
    for i in range(10)
)
_VERHOEFF_P: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def digits_of(text: str) -> str:
    """Its ASCII digits."""
    return "".join(char for char in text if char in "0123456789")


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of those before it."""
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char) * (1 + index % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def card(text: str) -> bool:
    """A payment card: an issuer's range with its length (ISO/IEC 7812), Luhn, and not one digit throughout."""
    digits = digits_of(text)
    return len(set(digits)) > 1 and _issuer_length(digits) and luhn(digits)


def _issuer_length(d: str) -> bool:
    length, two, four = len(d), int(d[:2] or 0), int(d[:4] or 0)
    if d[:1] == "4":
        return length in {13, 16, 19}
    if two in {34, 37} or four in {1800, 2131}:
        return length == 15
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    if two in {36, 38, 39} or 300 <= int(d[:3] or 0) <= 305:
        return 14 <= length <= 19
    if two == 65 or four == 6011 or 644 <= int(d[:3] or 0) <= 649 or two == 62 or 3528 <= four <= 3589:
        return 16 <= length <= 19
    return (two in {50, 56, 57, 58} or 60 <= two <= 69) and 12 <= length <= 19


def iban_form(text: str) -> bool:
    """The length that the country's accounts have."""
    packed = "".join(text.split()).replace("-", "").upper()
    return _IBAN_LENGTHS.get(packed[:2]) == len(packed) and packed.isalnum() and packed.isascii()


def iban_characters(country: str) -> int:
    """How many characters the accounts of a country have, none where it has no such accounts."""
    return _IBAN_LENGTHS.get(country.upper(), 0)


def iban(text: str) -> bool:
    """ISO 13616: the country's length, and 1 as remainder by 97."""
    packed = "".join(text.split()).replace("-", "").upper()
    return iban_form(packed) and int("".join(str(int(char, 36)) for char in packed[4:] + packed[:4])) % 97 == 1


def us_ssn(text: str) -> bool:
    """Area not 000, 666 or from 900; group and serial not zero; none of those in advertisements."""
    d = digits_of(text)
    known = {"078051120", "219099999", "123456789"}
    return (
        len(d) == 9
        and d[:3] not in {"000", "666"}
        and d[0] != "9"
        and d[3:5] != "00"
        and d[5:] != "0000"
        and d not in known
    )


def uk_nhs(text: str) -> bool:
    """Weighted 10 to 2, modulo 11."""
    d = digits_of(text)
    check = 11 - sum(int(c) * w for c, w in zip(d[:9], range(10, 1, -1), strict=False)) % 11
    return len(d) == 10 and len(set(d)) > 1 and check % 11 == int(d[9])


def uk_nino(text: str) -> bool:
    """Prefixes that HMRC gives out."""
    packed = "".join(text.split()).upper()
    return (
        packed[:2] not in {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"}
        and not set(packed[:2]) & set("DFIQUV")
        and packed[1] != "O"
    )


def es_dni(text: str) -> bool:
    """The letter is that of the number modulo 23; X, Y and Z of foreigners count 0 to 2."""
    packed = "".join(text.split()).replace("-", "").upper()
    number = packed[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdigit() and _DNI[int(number) % 23] == packed[-1]


def it_fiscal(text: str) -> bool:
    """Codice fiscale: odd and even places by table, modulo 26."""
    packed = text.upper()
    total = 0
    for index, char in enumerate(packed[:15]):
        value = int(char) if char.isdigit() else ord(char) - 65
        total += value if index % 2 else _ODD_FISCAL[value]
    return chr(65 + total % 26) == packed[15:]


def fr_nir(text: str) -> bool:
    """97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    packed = "".join(text.split()).upper().replace("2A", "19").replace("2B", "18")
    return packed.isdigit() and len(packed) == 15 and 97 - int(packed[:13]) % 97 == int(packed[13:])


def de_tax(text: str) -> bool:
    """Steuer-IdNr: ISO 7064 mod 11,10; one digit twice or three times, the others at most once."""
    d = digits_of(text)
    if len(d) != 11 or d[0] == "0" or not 8 <= len(set(d[:10])) <= 9:
        return False
    product = 10
    for char in d[:10]:
        total = (int(char) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(d[10])


def nl_bsn(text: str) -> bool:
    """The eleven test, the last digit counting negative."""
    d = digits_of(text)
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return len(d) == 9 and d != "0" * 9 and sum(int(c) * w for c, w in zip(d, weights, strict=True)) % 11 == 0


def pl_pesel(text: str) -> bool:
    """Weights 1, 3, 7, 9 and a month that carries the century."""
    d = digits_of(text)
    if len(d) != 11 or not 1 <= int(d[2:4]) % 20 <= 12 or not 1 <= int(d[4:6]) <= 31:
        return False
    return sum(int(c) * w for c, w in zip(d, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10 == 0


def br_cpf(text: str) -> bool:
    """Two check digits modulo 11."""
    d = digits_of(text)
    if len(d) != 11 or len(set(d)) == 1:
        return False
    firsts = (sum(int(c) * w for c, w in zip(d, range(n + 1, 1, -1), strict=False)) * 10 % 11 % 10 for n in (9, 10))
    return [int(c) for c in d[9:]] == list(firsts)


def in_aadhaar(text: str) -> bool:
    """Verhoeff; the first digit is from 2 to 9."""
    d = digits_of(text)
    check = 0
    for index, char in enumerate(reversed(d)):
        check = _VERHOEFF_D[check][int(_VERHOEFF_P[index % 8][int(char)])]
    return len(d) == 12 and d[0] > "1" and check == 0


def bitcoin(text: str) -> bool:
    """Base58Check of versions 0 and 5, or a Bech32 address of the main chain."""
    if text.lower().startswith("bc1"):
        return _bech32(text)
    number = 0
    for char in text:
        if char not in _BASE58:
            return False
        number = number * 58 + _BASE58.index(char)
    if number >= 1 << 200:
        return False
    raw = number.to_bytes(25, "big")
    return raw[0] in {0, 5} and hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def _bech32(text: str) -> bool:
    if text not in {text.lower(), text.upper()} or set(text.lower()[3:]) - set(_BECH32):
        return False
    values = [3, 3, 0, 2, 3, *(_BECH32.index(char) for char in text.lower()[3:])]
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            state ^= generator if top >> bit & 1 else 0
    return state in {1, 0x2BC830A3}
