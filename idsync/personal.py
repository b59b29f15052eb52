"""What gives a person away: e-mail addresses, phone numbers, payment cards, national ID numbers.

Audience Manager forbids all of them in an ID. Each function looks at one text, of at most a few hundred characters, and
takes time that grows with its length alone: no pattern here can match one text in two ways.

What counts is the shape. A bare run of digits is no phone number, since it is how most customer systems number people;
what makes one is a plus sign, brackets or a grouping that only phone numbers have.
"""

import re
from collections.abc import Iterable

from stdnum import luhn
from stdnum.at import tin, vnr
from stdnum.be import ssn as be_ssn
from stdnum.bg import egn, pnf
from stdnum.cz import rc as cz_rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.ee import ik
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nif, nir
from stdnum.gr import amka
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.it import codicefiscale
from stdnum.lt import asmens
from stdnum.lv import pvn
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.pt import cc
from stdnum.ro import cnp
from stdnum.se import personnummer
from stdnum.si import emso
from stdnum.sk import rc as sk_rc
from stdnum.us import itin, ssn

# Anything with a domain that ends in letters, in any script. A name without a dot, as in `7@shop`, is a namespace.
_EMAIL = re.compile(r"[^\s@]@(?:[\w-]++\.)++(?:xn--[\w-]|[^\W\d_]{2})")

_GAP = r"[\s./()\-\u2010-\u2015]{0,3}"
_PHONE = re.compile(
    rf"""(?:
      \+ (?:{_GAP}[0-9]){{7,16}}                                     # +49 (0)30 1234567, +4930123456
    | 00 {_GAP} [1-9] (?:{_GAP}[0-9]){{8,15}}                        # 0049 30 1234567
    | (?:1[\s.-])? [0-9]{{3}} [\s./-] [0-9]{{3}} [\s.-] [0-9]{{4}}   # 415-555-2671
    | (?:1[\s.-]?)? \([2-9][0-9]{{2}}\) \s? [0-9]{{3}} [\s.-]? [0-9]{{4}}  # (415) 555-2671
    | \([1-9][0-9]\) \s? [0-9]{{4,5}} [\s-]? [0-9]{{4}}              # (11) 98765-4321
    | \(0[0-9]{{1,5}}\) (?:[\s/-]{{0,3}}[0-9]){{4,9}}                # (030) 1234567
    | 0[1-9][0-9]{{0,4}} \s?/\s? [0-9](?:[\s-]?[0-9]){{4,8}}         # 030/1234567
    | 0[1-9][0-9]{{0,4}} [\s-] [0-9]{{6,8}}                          # 030 1234567, 0171-1234567
    | 0[1-9](?:[\s.-][0-9]{{2}}){{4}}                                # 01 42 68 53 00
    | 0[1-9][0-9]{{1,3}} (?:\s[0-9]{{2,4}}){{2,3}}                   # 020 7946 0958
    ) (?:\s(?:x|ext\.?)\s?[0-9]{{1,6}})?""",
    re.VERBOSE | re.IGNORECASE,
)
_FEWEST_PHONE_DIGITS = 9  # a plus sign leaves no doubt: there, seven do
_DIGITS = re.compile(r"[0-9]+")

_CARD = re.compile(r"[0-9](?:[ -]?[0-9]){12,18}")
_ISSUED = re.compile(
    r"""
      4[0-9]{12}(?:[0-9]{3}){0,2}                                                           # Visa
    | (?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}     # Mastercard
    | (?:50|5[6-9]|63|67)[0-9]{11,17}                                                       # Maestro
    | 3[47][0-9]{13}                                                                        # American Express
    | 3(?:0[0-59]|[689][0-9])[0-9]{11}(?:[0-9]{2})?                                         # Diners Club
    | 35(?:2[89]|[3-8][0-9])[0-9]{12,15}                                                    # JCB
    | (?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12,15}                                          # Discover
    | 60[0-9]{14}                                                                           # RuPay
    | 62[0-9]{14,17}                                                                        # UnionPay
    | 220[0-4][0-9]{12,15}                                                                  # Mir
    """,
    re.VERBOSE,
)

# The numbers of persons, not of companies. A country is not here where the library knows no number of its persons.
_NATIONAL_NUMBERS = {
    "at": (tin, vnr),
    "be": (be_ssn,),
    "bg": (egn, pnf),
    "cz": (cz_rc,),
    "de": (idnr,),
    "dk": (cpr,),
    "ee": (ik,),
    "es": (dni, nie),
    "fi": (hetu,),
    "fr": (nif, nir),
    "gr": (amka,),
    "hr": (oib,),
    "ie": (pps,),
    "it": (codicefiscale,),
    "lt": (asmens,),
    "lv": (pvn,),
    "nl": (bsn,),
    "pl": (pesel,),
    "pt": (cc,),
    "ro": (cnp,),
    "se": (personnummer,),
    "si": (emso,),
    "sk": (sk_rc,),
    "us": (ssn, itin),
}
COUNTRIES = frozenset(_NATIONAL_NUMBERS)
_LONGEST_NATIONAL_ID = 40  # the longest has 22 characters with its separators


def holds_email(text: str) -> bool:
    """Whether an e-mail address stands anywhere in `text`."""
    return "@" in text and _EMAIL.search(text) is not None


def is_phone(text: str) -> bool:
    """Whether all of `text` is a phone number in a form that nothing else has."""
    text = text.strip()
    if not _PHONE.fullmatch(text):
        return False
    return text.startswith("+") or (not text.isdigit() and sum(map(len, _DIGITS.findall(text))) >= _FEWEST_PHONE_DIGITS)


def is_card(text: str) -> bool:
    """Whether all of `text` is the number of a payment card: issuer, length and check digit are right."""
    text = text.strip()
    if not _CARD.fullmatch(text):
        return False
    number = text.replace(" ", "").replace("-", "")
    return _ISSUED.fullmatch(number) is not None and luhn.is_valid(number)


def is_national_id(text: str, countries: Iterable[str]) -> bool:
    """Whether all of `text` is a valid number of a person in one of `countries` (of COUNTRIES), separators or not.

    Some numbers hold a date of birth; the library refuses those of the future, so the answer may change with time.
    """
    text = text.strip()
    if len(text) > _LONGEST_NATIONAL_ID:
        return False
    return any(number.is_valid(text) for country in countries for number in _NATIONAL_NUMBERS[country])
