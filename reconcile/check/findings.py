"""What can be found in a file: the closed list of rules, each an error or a warning, each with its mend.

An error is what Audience Manager's documentation forbids, or what it says will be dropped. A warning is what it takes,
but hardly means what its sender meant. Findings never hold an ID or a value: a report may be mailed and kept.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from idsync import ids

Severity = Literal["error", "warning"]


class Rule(NamedTuple):
    severity: Severity
    mend: str


class Fault(NamedTuple):
    """A rule broken at a column, counted in characters from 1; None where no single place is at fault."""

    column: int | None
    rule: str
    message: str


class Finding(NamedTuple):
    """`line` counts from 1; None for what is wrong with the name or the file as a whole."""

    file: str
    line: int | None
    column: int | None
    rule: str
    message: str

    @property
    def severity(self) -> Severity:
        return RULES[self.rule].severity

    @property
    def mend(self) -> str:
        return RULES[self.rule].mend

    def as_dict(self) -> dict[str, str | int | None]:
        return {**self._asdict(), "severity": self.severity, "mend": self.mend}


_HASH = "send a random ID or a one-way hash in its place"

RULES: dict[str, Rule] = {
    # the name
    "name-prefix": Rule("error", "call it ftp_dpm_… (data), adobe_id_… or c2c_id_… (ID sync), in lower case"),
    "name-dpid": Rule("error", "give DPIDs as decimal numbers of at most 10 digits, without zeros in front, each once"),
    "name-target": Rule("error", "put the DPID of the data source that owns the traits after the first one"),
    "name-timestamp": Rule("error", "write the time as ten digits: seconds since 1970 in UTC"),
    "name-mode": Rule("error", "put .sync or, for data files only, .overwrite after the timestamp"),
    "name-split": Rule("error", "number the parts of a split file from 1, after .sync or .overwrite"),
    "name-suffix": Rule("error", "end the name in .gz, .gpg or .pgp, one of them and last, or in nothing"),
    "name-nine-digits": Rule("warning", "write the time as ten digits"),
    "name-time": Rule("warning", "use the time of sending, in seconds since 1970 in UTC"),
    "name-encrypted-sync": Rule("warning", "send ID-sync files plain or gzipped: only that is documented"),
    "name-twice": Rule("warning", "use a new timestamp: a name that was processed before is ignored"),
    "date-folder": Rule("warning", "use the UTC day of sending: date=yyyy-mm-dd"),
    # the file as a whole
    "empty-file": Rule("error", "send no file where there is nothing to say"),
    "file-too-large": Rule("error", "split it: at about 1 GB raw, or 200 to 300 MB gzipped"),
    "split-advised": Rule("warning", "split it: at about 1 GB raw, or 200 to 300 MB gzipped"),
    "not-gzip": Rule("error", "compress it with gzip, or take .gz off its name"),
    "gzip-unnamed": Rule("error", "add .gz to its name, last; an encrypted file must not be gzipped"),
    "gzip-damaged": Rule("error", "compress and send it again, complete"),
    "not-encrypted": Rule("error", "encrypt it with OpenPGP, or name it for what it is"),
    "bom": Rule("error", "save it as UTF-8 without a byte order mark"),
    "encoding": Rule("error", "save it as UTF-8 without a byte order mark, or as ASCII"),
    "mixed-id-types": Rule("error", "put UUIDs and customer IDs into files of their own"),
    "no-final-newline": Rule(
        "warning", "end the last line with a newline, too: its absence is how a cut-off file looks"
    ),
    # any line
    "line-too-long": Rule("error", "spread the items over several lines of the same user"),
    "empty-line": Rule("error", "leave no line empty"),
    "carriage-return": Rule("error", "end lines with a newline alone (LF, not CR LF)"),
    "line-end": Rule("error", "remove tabs and spaces at the line's end: Audience Manager drops the line"),
    "control-character": Rule("error", "remove it; no escape exists for it"),
    # lines of data
    "no-tab": Rule("error", "write <user ID><TAB><item>,<item>,…"),
    "second-tab": Rule("error", "put one tab after the user ID, and commas between the items"),
    "no-items": Rule("error", "put at least one item after the tab, or leave the line out"),
    "empty-item": Rule("error", "remove the comma"),
    "item": Rule("error", 'write d_sid=24, d_unsid=24, 24:0, 24:-1, 24, ic=code or "key"="value"'),
    "quote": Rule("error", "close it; a key or value can't hold a quote, since no escape exists"),
    "trait-id": Rule("error", "write the trait's number, of at most 18 digits, right after d_sid= or d_unsid="),
    "add-and-remove": Rule("error", "keep the one that is meant"),
    "removal-in-overwrite": Rule(
        "warning", "leave it out, or send a .sync file: removals in an .overwrite file are ignored"
    ),
    "item-blank": Rule("warning", "remove the blanks around it"),
    "lines-of-user": Rule("error", "put all items of a user on fewer lines: only the first 200 lines count"),
    "user-in-splits": Rule("warning", "keep a user in one part: the parts of a split file are read in any order"),
    # lines of an ID-sync file
    "column-count": Rule("error", "write one column for each DPID in the name, with tabs between them"),
    "empty-column": Rule("error", "leave the line out: each column needs its ID"),
    "hash-shape": Rule("error", "send the SHA-256 of the trimmed, lower-cased address as 64 hex digits in lower case"),
    "hashes-of-customer": Rule("error", "keep the ten addresses that matter"),
    # IDs
    "uuid-shape": Rule("error", "keep UUIDs as text of 38 digits, with their zeros in front"),
    "id-blank": Rule("warning", "remove the blanks around the ID: IDs are compared byte for byte"),
    "id-percent-encoded": Rule("warning", "write the ID as it is: IDs in files are not percent-encoded"),
    "id-control-character": Rule("error", "remove it from the ID"),
    "id-empty": Rule("error", "leave out lines without an ID"),
    "id-colon": Rule("error", "use IDs without ':' and '%3A'"),
    ids.ID_TOO_LONG: Rule("warning", "use shorter IDs"),
    "id-sentinel": Rule("warning", "leave the line out: it makes one person of all who lack an ID"),
    "id-macro": Rule("warning", "leave the line out, and have the macro expanded"),
    "id-email": Rule("error", _HASH),
    "id-phone": Rule("error", _HASH),
    "id-card": Rule("error", _HASH),
    "id-national-id": Rule("error", _HASH),
    "id-not-hashed-email": Rule("error", "send the SHA-256 of the trimmed, lower-cased address in lower case"),
    ids.DEVICE_ID_SHAPE: Rule("error", "send device IDs as they are, in the case that the DPID asks for, never hashed"),
}


@dataclass(slots=True)
class FileReport:
    """What was found in one file. Each rule is counted in full; of each, the first `limit` findings are kept.

    `checked` is "content", or "name" where the content can't be read: it is encrypted, or its columns are not known.
    `lines` and `raw_bytes` are of the content, unpacked.
    """

    file: str
    limit: int
    kind: str = ""
    checked: Literal["content", "name"] = "name"
    lines: int = 0
    raw_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def add(self, fault: Fault, line: int | None = None) -> None:
        self.counts[fault.rule] += 1
        if self.counts[fault.rule] <= self.limit:
            self.findings.append(Finding(self.file, line, *fault))

    def add_unseen(self, rule: str, count: int) -> None:
        """Findings past those that are kept."""
        self.counts[rule] += count

    def total(self, severity: Severity) -> int:
        return sum(count for rule, count in self.counts.items() if RULES[rule].severity == severity)

    def as_dict(self) -> dict[str, object]:
        return {
            "file": self.file,
            "kind": self.kind,
            "checked": self.checked,
            "lines": self.lines,
            "raw_bytes": self.raw_bytes,
            "errors": self.total("error"),
            "warnings": self.total("warning"),
            "counts": dict(sorted(self.counts.items())),
        }


@dataclass(frozen=True, slots=True)
class Report:
    files: tuple[FileReport, ...]

    def total(self, severity: Severity) -> int:
        return sum(file.total(severity) for file in self.files)

    @property
    def valid(self) -> bool:
        return not self.total("error")

    @property
    def findings(self) -> list[Finding]:
        """File by file, in order of place: what concerns a whole file first."""
        return [
            finding
            for file in self.files
            for finding in sorted(file.findings, key=lambda found: (found.line or 0, found.column or 0, found.rule))
        ]

    def as_dict(self) -> dict[str, object]:
        """`findings` holds the first of each rule and file; `counts` of each file holds how many there are."""
        return {
            "valid": self.valid,
            "errors": self.total("error"),
            "warnings": self.total("warning"),
            "files": [file.as_dict() for file in self.files],
            "findings": [finding.as_dict() for finding in self.findings],
        }
