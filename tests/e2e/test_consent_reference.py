"""Whatever our readers grant, the IAB Tech Lab's own decoders grant too; on whole strings the two agree both ways.

Whole is a string with every subsection that its sections have. Without one, the IAB's decoders take it that the
visitor said nothing there; ours can't tell that from a string that was cut off, and refuse.
"""

import json
import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from idsync.consent import gpp, tcf
from idsync.consent.bits import Unreadable
from tests.idsync.consent_published import GPP, TCF
from tests.idsync.consent_strings import (
    PURPOSES,
    US_FIELDS,
    VENDOR,
    WITHOUT_SUBSECTION,
    mutated,
    random_gpp,
    random_tc,
    us,
    us_values,
)
from tests.idsync.consent_strings import gpp as gpp_text
from tests.npm import Package, unpacked

TCF_DECODER = Package(
    *("@iabtcf/core", "1.5.6"),
    "u2q9thI9vLurYZdGtyJsDYOqoeLc4EgQsYGSc+UVibYII61B/ENJPZS6eFlML1F0hSoTR/goptpo5nGRDkKd2w==",
)
GPP_DECODER = Package(
    *("@iabgpp/cmpapi", "3.2.0"),
    "p7qO2vhSZ/dzfRrWUbDWSXIl3rkvdAA+dQdoScDdbyf+HJBNqBuCuM4MsddTwT2QIQYsjb0F9ES6+Cx/KncxrQ==",
)
SCRIPT = Path(__file__).with_name("consent_reference.mjs")
SEED = 20_260_228
WHOLE = 1500
MUTATIONS = 12
TIMEOUT_SECONDS = 120


class Case(NamedTuple):
    """`sid` is "" for a TC string, which stands alone."""

    text: str
    sid: str = ""
    vendor: int = VENDOR
    purposes: tuple[int, ...] = PURPOSES


def ours(case: Case) -> bool:
    try:
        if not case.sid:
            return tcf.refusal(case.text, case.vendor, case.purposes) is None
        return gpp.read(case.text, case.sid, case.vendor, case.purposes).refusal is None
    except Unreadable:
        return False


@pytest.fixture(scope="module")
def decoders(pytestconfig: pytest.Config) -> list[Path]:
    assert pytestconfig.cache is not None
    cache = Path(pytestconfig.cache.mkdir("npm"))
    return [unpacked(package, cache) for package in (TCF_DECODER, GPP_DECODER)]


def theirs(decoders: Sequence[Path], cases: Sequence[Case]) -> list[str]:
    lines = [json.dumps({"kind": "gpp" if case.sid else "tcf", **case._asdict()}) for case in cases]
    run = subprocess.run(
        ["node", str(SCRIPT), *map(str, decoders)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answers: list[str] = json.loads(run.stdout)
    return answers


def whole() -> list[Case]:
    chance = random.Random(SEED)
    return [Case(random_tc(chance).text()) for _ in range(WHOLE)] + [Case(*random_gpp(chance)) for _ in range(WHOLE)]


def test_both_say_the_same_of_whole_strings(decoders: Sequence[Path]) -> None:
    cases = whole()
    answers = theirs(decoders, cases)
    assert [
        (case, answer) for case, answer in zip(cases, answers, strict=True) if ours(case) is not (answer == "grants")
    ] == []
    tally = Counter((bool(case.sid), answer) for case, answer in zip(cases, answers, strict=True))
    assert min(tally[kind, answer] for kind in (True, False) for answer in ("grants", "refuses")) > WHOLE / 5


def test_they_grant_what_lacks_a_subsection_and_we_refuse_it(decoders: Sequence[Path]) -> None:
    def made(section: int, version: int, after: str | None) -> Case:
        text = us(section, us_values(section, version), version=version, after=after)
        return Case(gpp_text({section: text}), str(section))

    layouts = [layout for layout in US_FIELDS if layout[0] not in WITHOUT_SUBSECTION]
    whole, lacking = ([made(*layout, after) for layout in layouts] for after in (None, ""))
    assert [case for case in whole if not ours(case)] == []
    assert [case for case in lacking if ours(case)] == []
    assert theirs(decoders, [*whole, *lacking]) == ["grants"] * 2 * len(layouts)


def test_what_we_grant_of_damaged_strings_they_grant(decoders: Sequence[Path]) -> None:
    chance = random.Random(SEED)
    cases = [case._replace(text=mutated(chance, case.text)) for case in whole() for _ in range(MUTATIONS)]
    granted = [case for case in cases if ours(case)]
    answers = theirs(decoders, granted)
    assert [(case, answer) for case, answer in zip(granted, answers, strict=True) if answer != "grants"] == []
    # A bit flipped in a date or in another vendor's consent is no damage to see.
    assert WHOLE / 2 < sum(not case.sid for case in granted) < len(cases) / 4
    assert WHOLE / 2 < sum(bool(case.sid) for case in granted) < len(cases) / 4


def test_damage_that_they_grant_and_we_refuse(decoders: Sequence[Path]) -> None:
    """Why the readers are our own. Without such cases, the test above would pass with any reader."""
    chance = random.Random(SEED)
    cases = [case._replace(text=mutated(chance, case.text)) for case in whole()[::10] for _ in range(2)]
    answers = theirs(decoders, cases)
    assert sum(answer == "grants" and not ours(case) for case, answer in zip(cases, answers, strict=True)) > 20


def test_published_strings(decoders: Sequence[Path]) -> None:
    cases = [Case(each.text, "", each.vendor, each.purposes) for each in TCF]
    cases += [Case(each.text, each.sid) for each in GPP]
    granted = [each.granted for each in TCF] + [each.granted for each in GPP]
    readable = [True] * len(TCF) + [each.unreadable is None for each in GPP]
    assert [ours(case) for case in cases] == [yes and read for yes, read in zip(granted, readable, strict=True)]
    assert [answer == "grants" for answer in theirs(decoders, cases)] == granted
