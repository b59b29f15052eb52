"""What was found out about unmatched records: figures that add up, samples, sentences for people. Pure.

IDs leave here masked unless the caller asks for them: reports are kept, sent on and read by many.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from reconcile.why.affixes import Affix
from reconcile.why.forms import BLANKS, RULES, SEVERAL

SYNCED_SINCE = "synced-since"
EXPIRED = "expired"
MATCHED_BEFORE = "matched-before"
OTHER_SOURCE = "other-source"
AFFIX = "affix"
# Every rule, the cheapest explanation first: a record counts under the first that explains it.
ORDER = (
    *(SYNCED_SINCE, EXPIRED, MATCHED_BEFORE, OTHER_SOURCE),
    *(rule.name for rule in RULES[:-1]),
    SEVERAL,
    AFFIX,
    *(f"{AFFIX}+{rule.name}" for rule in RULES),
)

_SHOWN_RUNS = 2
_SHOWN_OF_RUN = 2
_SHOWN_LENGTH = 64
_FEW_CHARACTERS = 4
_CROWD = 10  # so many IDs share an affix before it is shown: else it may say who somebody is


class Pair(NamedTuple):
    """The ID of a record and that of a mapping which may be meant; the same text where the ID itself is known."""

    record: str
    mapping: str

    def masked(self) -> "Pair":
        """The shape only: `Us••-00••`, `us••-00••`. Signs, up to four characters of the rest, and the first that
        differs."""
        shown = Pair(_masked(self.record), _masked(self.mapping))
        if self.record != self.mapping and shown.record == shown.mapping:
            places = enumerate(zip(self.record, self.mapping, strict=False))
            place = next((at for at, (one, other) in places if one != other), None)
            if place is not None and sum(map(str.isalnum, self.record)) >= _FEW_CHARACTERS:
                return Pair(_masked(self.record, place), _masked(self.mapping, place))
        return shown

    def visible(self) -> "Pair":
        """The IDs as they are, with what can't be seen on a screen spelled out."""
        return Pair("".join(map(_visible, self.record)), "".join(map(_visible, self.mapping)))


@dataclass(frozen=True, slots=True)
class Finding:
    """Records that one rule explains.

    `records` is the number of records; of a sample, what that comes to for all. `examined` are the records seen and
    `ids` their different IDs; `ambiguous` of the records would match several customers. `affix` belongs to rules that
    begin with AFFIX, `data_source` to OTHER_SOURCE.
    """

    rule: str
    records: int
    examined: int
    ids: int
    ambiguous: int
    samples: tuple[Pair, ...]
    affix: Affix | None = None
    data_source: str | None = None

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Finding":
        """Of what `as_dict` gives with `reveal`."""
        figures = {name: told[name] for name in ("rule", "records", "examined", "ids", "ambiguous")}
        samples = tuple(Pair(**pair) for pair in told["samples"])
        affix = Affix(**told["affix"]) if "affix" in told else None
        return cls(**figures, samples=samples, affix=affix, data_source=told.get("data_source"))

    def as_dict(self, *, reveal: bool = False) -> dict[str, Any]:
        """For JSON."""
        pairs = [pair if reveal else pair.masked() for pair in self.samples]
        told = {"rule": self.rule, "records": self.records, "examined": self.examined, "ids": self.ids}
        samples = [{"record": pair.record, "mapping": pair.mapping} for pair in pairs]
        more: dict[str, Any] = {"ambiguous": self.ambiguous, "samples": samples}
        if self.affix:
            more["affix"] = self._shown_affix(reveal=reveal)._asdict()
        if self.data_source:
            more["data_source"] = self.data_source
        return told | more

    def _shown_affix(self, *, reveal: bool) -> Affix:
        """In clear only beside samples: where none may be shown, neither may what they begin with."""
        affix = self.affix or Affix()
        clear = self.samples and (reveal or self.ids >= _CROWD)
        return affix if clear else Affix(*map(_masked, affix))

    def _keeping(self, wanted: Callable[[Pair, str | None], bool]) -> "Finding":
        """Of an affix, what it leaves of the record's ID is asked for, too: that may be another ID of the customer."""

        def is_wanted(pair: Pair) -> bool:
            bare = [Pair(self.affix.core(pair.record), pair.mapping)] if self.affix else []
            return all(wanted(each, self.data_source) for each in (pair, *bare))

        return replace(self, samples=tuple(filter(is_wanted, self.samples)))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`unmatched` records = those of all `findings` + `unexplained`, always; likewise `examined`.

    Where there were too many, `examined` records are those of a sample of `ids` customer IDs, and numbers of records
    are extrapolated. `compared` customers of the data source were looked at, or else so many spellings of the IDs were
    looked up; both are 0 if the answer did not take it.
    """

    data_source: str
    unmatched: int
    examined: int
    ids: int
    compared: int
    findings: tuple[Finding, ...]
    unexplained: int
    spellings: int = 0

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Diagnosis":
        """Of what `as_dict` gives with `reveal`."""
        figures = {name: told[name] for name in ("data_source", "unmatched", "examined", "ids", "compared")}
        findings = tuple(map(Finding.from_dict, told["findings"]))
        return cls(**figures, findings=findings, unexplained=told["unexplained"], spellings=told["spellings"])

    @property
    def sampled(self) -> bool:
        return self.examined < self.unmatched

    def keeping(self, wanted: Callable[[Pair, str | None], bool]) -> "Diagnosis":
        """The same with only those samples that are wanted; each is asked for with the data source of its mapping,
        None for the record's own."""
        return replace(self, findings=tuple(finding._keeping(wanted) for finding in self.findings))

    def as_dict(self, *, reveal: bool = False) -> dict[str, Any]:
        """For JSON. Without `reveal`, IDs are masked."""
        return {
            "data_source": self.data_source,
            "unmatched": self.unmatched,
            "sampled": self.sampled,
            "examined": self.examined,
            "ids": self.ids,
            "compared": self.compared,
            "spellings": self.spellings,
            "findings": [finding.as_dict(reveal=reveal) for finding in self.findings],
            "unexplained": self.unexplained,
        }


def shares(total: int, parts: Sequence[int]) -> list[int]:
    """`total` divided in proportion to the parts, whole numbers that add up to it; the largest remainders get the rest.

    All 0 where there are no parts but zeros.
    """
    whole = sum(parts)
    if not whole:
        return [0] * len(parts)
    found = [total * part // whole for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda at: (-(total * parts[at] % whole), at))
    for at in by_remainder[: total - sum(found)]:
        found[at] += 1
    return found


# --- sentences -------------------------------------------------------------------------------------------------------

_IGNORED = {
    "blanks": "blanks and invisible characters around the ID",
    "case": "upper and lower case",
    "zeros": "leading zeros",
    "percent": "URL encoding",
    "nfc": "the way in which accents are composed (Unicode NFC)",
    "nfkc": "special forms of characters, such as full-width digits (Unicode NFKC)",
}
_MEND = {
    "blanks": "trim the ID where it is written",
    "case": "let one side change",
    "zeros": "keep the ID as text on both sides, never as a number",
    "percent": "encode the ID once on the website, and not at all in the file",
    "nfc": "write NFC on both sides",
    "nfkc": "write NFKC on both sides",
}


def explain(diagnosis: Diagnosis, *, reveal: bool = False) -> list[str]:
    """A sentence or two for each finding, the most frequent first, then what remains; none if all matched.

    Without `reveal`, IDs are masked.
    """
    if not diagnosis.unmatched:
        return []
    found = sorted(diagnosis.findings, key=lambda finding: (-finding.records, ORDER.index(finding.rule)))
    told = [_sentence(finding, diagnosis, reveal=reveal) for finding in found]
    if diagnosis.unexplained:
        much = _amount(diagnosis.unexplained, diagnosis, about="about ")
        told.append(
            f"For {much} no explanation was found: their IDs are not synced in any usual spelling. A dry run compares"
            " them with all that are synced."
            if diagnosis.spellings
            else f"For {much} no explanation was found: nothing like their IDs is among those that are synced."
        )
    if diagnosis.sampled:
        told.append(
            f"Figures are extrapolated from a sample of {_number(diagnosis.ids, 'ID')}"
            f" on {_number(diagnosis.examined, 'record')}."
        )
    return told


def _sentence(finding: Finding, diagnosis: Diagnosis, *, reveal: bool) -> str:
    much = _amount(finding.records, diagnosis)
    pair = next((pair.visible() if reveal else pair.masked() for pair in finding.samples), None)
    example = f": for one, {pair.record}" if pair else ""
    match finding.rule:
        case "synced-since":
            return f"{much} would match by now, synced while the run was under way{example}. The next run takes them."
        case "expired":
            return (
                f"{much} had a mapping that is past its lifetime{example}. They match again once their customers visit"
                " the website; see store.mapping_ttl_days."
            )
        case "matched-before":
            return (
                f"{much} matched in an earlier run, and the store no longer knows their customers{example}. They match"
                " again once their customers visit the website."
            )
        case "other-source":
            return (
                f'{much} would match under the data source "{finding.data_source}"{example}. Let the feed name it, or'
                f' the website send the ID under "{diagnosis.data_source}".{_doubt(finding, diagnosis)}'
            )
    steps = finding.rule.removeprefix(AFFIX).strip("+")
    names = list(_IGNORED) if steps == SEVERAL else steps.split("+") if steps else []
    if steps == SEVERAL:
        names.remove("nfc")
    said = ["would match if"]
    if finding.affix:
        said.append(_of_affix(finding._shown_affix(reveal=reveal), reveal=reveal))
    if names:
        said.append("and" * bool(finding.affix))
        said.append(f"{_listed(_IGNORED[name] for name in names)} were ignored")
    seen = f": the website sends `{pair.mapping}`, the file has `{pair.record}`" if pair else ""
    mends = ["use one form of the ID on both sides"] * bool(finding.affix) + [_MEND[name] for name in names]
    mend = mends[0] if len(mends) == 1 else "; ".join(mends) if steps != SEVERAL else "use one form of the ID"
    return f"{much} {' '.join(filter(None, said))}{seen}; {mend}.{_doubt(finding, diagnosis)}"


def _doubt(finding: Finding, diagnosis: Diagnosis) -> str:
    if not finding.ambiguous:
        return ""
    number, whole = _number(finding.ambiguous, "record"), f"{finding.examined:,}"
    examined = " examined" if diagnosis.sampled else ""
    return f" Of {number} out of {whole}{examined}, more than one customer may be meant."


def _of_affix(affix: Affix, *, reveal: bool) -> str:
    """`the prefix "CRM-" of the file's IDs were left out`."""
    said = []
    for kind, ours, theirs in (
        ("prefix", affix.record_prefix, affix.mapping_prefix),
        ("suffix", affix.record_suffix, affix.mapping_suffix),
    ):
        one, other = ("".join(map(_visible, text)) if reveal else text for text in (ours, theirs))
        if one and other:
            said.append(f'the {kind} "{one}" of the file\'s IDs were "{other}"')
        elif one:
            said.append(f'the {kind} "{one}" of the file\'s IDs were left out')
        elif other:
            said.append(f'the file\'s IDs had the {kind} "{other}"')
    return " and ".join(said)


def _amount(records: int, diagnosis: Diagnosis, *, about: str = "About ") -> str:
    number = f"{about if diagnosis.sampled else ''}{records:,}"
    whole = _number(diagnosis.unmatched, "unmatched record")
    return f"{number} of {whole} ({records / diagnosis.unmatched:.1%})"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


# --- masks -----------------------------------------------------------------------------------------------------------


def mask(text: str) -> str:
    """The shape of an ID only: `Us••-00••`."""
    return _masked(text)


_SIGNS_OF_MASKS = "•◦␣⟨⟩…"
_RUN = re.compile(r"[^\W_]+|[\W_]", re.UNICODE)


def _masked(text: str, place: int = -1) -> str:
    """Of the first two runs of letters and digits the first two characters, but never more than half of the run; signs;
    the character at `place`. What is not ASCII stays recognisable as such.
    """
    shown: list[str] = []
    runs = at = 0
    for run in _RUN.findall(text[:_SHOWN_LENGTH]):
        if not run.isalnum():
            shown.append(_visible(run))
            at += len(run)
            continue
        room = min(_SHOWN_OF_RUN, len(run) // 2) if runs < _SHOWN_RUNS else 0
        for offset, character in enumerate(run):
            hidden = "•" if character.isascii() else "◦"
            shown.append(character if offset < room or at + offset == place else hidden)
        at += len(run)
        runs += 1
    return "".join(shown) + "…" * (len(text) > _SHOWN_LENGTH)


def _visible(character: str) -> str:
    """A blank as `␣`; what has no shape of its own, or would change that of another, by its number."""
    if character == " ":
        return "␣"
    if character in _SIGNS_OF_MASKS:  # an affix that was masked is shown once more
        return character
    if character in BLANKS or not (character.isprintable() and (character.isascii() or character.isalnum())):
        return f"⟨U+{ord(character):04X}⟩"
    return character
