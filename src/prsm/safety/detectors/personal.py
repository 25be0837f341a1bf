"""Personal data that has a form: cards, accounts, identity numbers, addresses of all sorts, dates of birth.

What has a check digit is checked; what may be anything (nine digits, a date) is told only beside a word that says so.
Names and places have no form: those are read by the encoder (``tagger``).
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from prsm.safety.detectors import checksums, runs
from prsm.safety.detectors.found import Finder, Kind
from prsm.safety.detectors.windows import refuse_too_long
from prsm.safety.seams import Assessment, Category, Span

VERSION: Final = "2"
SURE: Final = 0.99

_EDGE: Final = r"(?:^|[^\w+.-])"
_DATE: Final = (
    r"(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)?\d{2}|(?:19|20)\d{2}-\d{2}-\d{2}"
    r"|(?:\d{1,2}(?:st|nd|rd|th)?(?: of)? )?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
    r"(?: \d{1,2}(?:st|nd|rd|th)?)?,? (?:19|20)\d{2})"
)
_TLD: Final = (
    r"(?:com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|me|tv|co|us|uk|de|fr|it|es|nl|be|ch|at|pl|cz|ru|ua|se|no|fi|dk|pt"
    r"|gr|ie|eu|ca|au|nz|in|jp|cn|kr|br|mx|ar|za|tr|il|hu|ro|cx|gl|xyz|site|online|shop)"
)
_REST: Final = r"(?:[^\s<>\"')\]]*[^\s<>\"')\],.;:!?])"
_STREET: Final = (
    r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|square|sq|place|pl|terrace|way|highway|hwy"
    r"|parkway|pkwy|circle|cir|straße|strasse|rue|via|calle)"
)

_CALLS: Final = "phone|call|tel|mobile|cell|fax|dial|number is|answering at|reach|desk|office|contact"


def _address(text: str) -> bool:
    """An IP address other than those of one's own machine; one of colons has three groups, or may be a name in code."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    short = address.version == 6 and (len(text.replace("::", ":").strip(":").split(":")) < 3 or text.isalpha())
    return not (address.is_loopback or address.is_unspecified or short)


def _phone(text: str) -> bool:
    """Seven to fifteen digits (ITU-T E.164), brackets that close, and no date."""
    digits = checksums.digits_of(text)
    dated = len(text) >= 10 and text[:2] in {"19", "20"} and text[4] in "-/." and text[7] == text[4]
    return 7 <= len(digits) <= 15 and not dated and text.count("(") == text.count(")")


_PHONES: Final = runs.beginning(_phone)


def _luhn(text: str) -> bool:
    digits = checksums.digits_of(text)
    return len(set(digits)) > 1 and checksums.luhn(digits)


KINDS: Final = (
    Kind("email", r"[\pL\pN_.!#$%&'*+/=?^`{|}~-]+@(?:[\pL\pN-]+\.)+\pL{2,24}"),
    Kind("url", rf"(?i)\b(?:(?:https?|ftp)://|www\.[\w-]+\.){_REST}|\b(?:[a-z0-9-]+\.)+{_TLD}\b(?:/{_REST})?"),
    Kind("card", rf"{_EDGE}(?P<it>\d(?:[ -]?\d){{11,}})\b", checksums.card, within=runs.cards),
    Kind("iban", r"\b(?P<it>[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,})\b", checksums.iban, any_case=True, within=runs.ibans),
    Kind("card", rf"{_EDGE}(?P<it>\d(?:[ -]?\d){{11,18}})\b", _luhn, near="card|cc|visa|amex|mastercard"),
    Kind("iban", r"\b(?P<it>[A-Z]{2}\d{2}[A-Z0-9]{11,30})\b", checksums.iban_form, near="iban|account|transfer"),
    Kind("us-ssn", rf"{_EDGE}(?P<it>\d{{3}}[- ]\d{{2}}[- ]\d{{4}})\b", checksums.us_ssn),
    Kind("us-ssn", rf"{_EDGE}(?P<it>\d{{9}})\b", checksums.us_ssn, near="ssn|social security"),
    Kind("uk-nhs", r"\b\d{3} ?\d{3} ?\d{4}\b", checksums.uk_nhs, near="nhs"),
    Kind("uk-nino", r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b", checksums.uk_nino),
    Kind("es-dni", r"\b(?:[XYZ]-?\d{7}|\d{8})-?[A-Z]\b", checksums.es_dni),
    Kind("it-fiscal", r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b", checksums.it_fiscal, any_case=True),
    Kind("fr-nir", r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}\b", checksums.fr_nir),
    Kind("de-tax", r"\b\d{2} ?\d{3} ?\d{3} ?\d{3}\b", checksums.de_tax, near="steuer|tax|idnr"),
    Kind("nl-bsn", r"\b\d{9}\b", checksums.nl_bsn, near="bsn|burgerservicenummer"),
    Kind("pl-pesel", r"\b\d{11}\b", checksums.pl_pesel, near="pesel"),
    Kind("br-cpf", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", checksums.br_cpf),
    Kind("in-aadhaar", r"\b\d{4}[ -]\d{4}[ -]\d{4}\b", checksums.in_aadhaar),
    Kind("crypto", r"\b(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71})\b", checksums.bitcoin),
    Kind("crypto", r"\b0x[0-9a-fA-F]{40}\b"),
    Kind("ip", r"(?:^|[^\w.])(?P<it>(?:\d{1,3}\.){3,8}\d{1,3})\b", _address),
    Kind("ip", r"(?i)(?:^|[^\w:.])(?P<it>(?:[0-9a-f]{0,4}:){2,8}[0-9a-f]{0,4})", _address),
    Kind("birth-date", rf"(?i){_DATE}", near=r"born|birth|dob|d\.o\.b|birthday"),
    Kind("phone", r"(?:^|[^\w.,#$€£-])(?P<it>\+[1-9]\d{0,3}(?:[ ./-]?\(?\d{1,5}\)?){1,6})\b", _phone, within=_PHONES),
    Kind("phone", r"(?:^|[^\w.,#$€£/-])(?P<it>(?:\+?1[ .-]?)?\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}(?: ?x\d{1,6})?)\b", _phone),
    Kind("phone", r"(?:^|[^\w.,#$€£-])(?P<it>\(?0\d{1,5}\)?(?:[ ./-]?\d{2,5}){2,4})\b", _phone, within=_PHONES),
    Kind("phone", r"(?:^|[^\w.,#$€£-])(?P<it>\(?\d{2,4}\)?(?:[ .-]?\d{2,4}){2,4})\b", _phone, near=_CALLS, within=_PHONES),
    Kind("street-address", rf"(?i)\b\d{{1,5}}[a-z]? (?:[\pL'.]+ ){{1,4}}{_STREET}\b\.?(?:,? (?:apt|suite|unit|#) ?\w{{1,6}})?"),
)  # fmt: skip


class PersonalDetector:
    """Scores PERSONAL_DATA by what is found; spans are kinds such as ``card``."""

    def __init__(self) -> None:
        self._finder = Finder(KINDS)
        self.name = f"personal-{VERSION}"
        self.categories = frozenset[Category]({Category.PERSONAL_DATA})

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """Raises TextTooLong for a text beyond the limit of ``windows``."""
        return [self._assess(text) for text in texts]

    def _assess(self, text: str) -> Assessment:
        refuse_too_long(text)
        found = self._finder.find(text)
        spans = tuple(Span(Category.PERSONAL_DATA, find.kind, find.start, find.end) for find in found)
        return Assessment({Category.PERSONAL_DATA: SURE if spans else 0.0}, spans)
