"""`check`: what is told of all lines of a block at once is what splitting, regular expressions and counting tell."""

import random
import re
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from idsync.ids import DEVICE_ID_SHAPES, id_rules
from reconcile import lines
from reconcile.check.block import Block
from reconcile.check.content import data_line
from reconcile.check.findings import FileReport
from reconcile.check.kinds import IdKinds
from reconcile.check.screen import DataScreen
from reconcile.check.users import Users


@given(st.lists(st.text("a\t,", max_size=6).map(str.encode), min_size=1, max_size=6))
@example([b"", b"\t\t"])  # as many tabs as lines
@example([b"a\t\t", b""])
def test_borders_of_lines_and_users(texts: list[bytes]) -> None:
    block = Block(b"".join(text + b"\n" for text in texts))
    assert [block.line(index) for index in range(len(block))] == texts
    users = [block.data[start:end] for start, end in zip(block.starts.tolist(), block.users.tolist(), strict=True)]
    assert users == [text.partition(b"\t")[0] if b"\t" in text else b"" for text in texts]


@given(st.text("ab", max_size=12).map(str.encode), st.text("ab", min_size=1, max_size=15).map(str.encode))
def test_texts_that_it_holds(data: bytes, text: bytes) -> None:
    assert Block(data + b"\n").holds(text) == (text in data)


def _with(digits: bytes, at: int, sign: bytes) -> bytes:
    return digits[:at] + sign + digits[at + len(sign) :]


digits = st.text("0123456789", min_size=28, max_size=47).map(str.encode)
nearly = st.builds(_with, digits, st.integers(0, 46), st.sampled_from([b"/", b":", b"a", b"\x00", b"\xfa", b"\xff"]))


@given(st.lists(digits | nearly | st.binary(max_size=50).map(lambda text: re.sub(rb"\s", b"", text)), max_size=8))
@example([b"1" * 45])  # with nothing after it but the end of the block
def test_kinds_of_ids(users: list[bytes]) -> None:
    expected = Counter(
        "uuid" if re.fullmatch(rb"[0-9]{38}", user) else "near" if re.fullmatch(rb"[0-9]{30,45}", user) else "other"
        for user in users
        if user
    )
    report = FileReport("", 10)
    kinds = IdKinds(report)
    kinds.look(Block(b"".join(user + b"\t\n" for user in [*users, b"1" * 38, b"x"])), 0)
    kinds.settle()
    assert report.counts["uuid-shape"] == expected["near"]
    told = f"UUIDs on {expected['uuid'] + 1} lines, other IDs on {expected['other'] + 1}"
    assert told in next(found.message for found in report.findings if found.rule == "mixed-id-types")


@given(
    st.sampled_from(sorted(DEVICE_ID_SHAPES)).flatmap(
        lambda dpid: st.tuples(
            st.just(dpid),
            st.lists(
                st.from_regex(DEVICE_ID_SHAPES[dpid].pattern, fullmatch=True)
                | st.sampled_from(["00000000-0000-0000-0000-000000000000", "11111111-2222-3333-4444-555555555555"])
                | st.sampled_from(["null", "0", "4111111111111111", "", "-", "A", "A" * 70, "1" * 70]),
                min_size=1,
                max_size=6,
            ),
        )
    )
)
def test_device_ids_that_are_cleared_break_no_rule(dpid_and_ids: tuple[int, list[str]]) -> None:
    dpid, device_ids = dpid_and_ids
    rules = id_rules(dpid)
    thorough = rules._replace(ordinary=None)
    content = [f"{device_id}\td_sid=1".encode() for device_id in device_ids]
    suspects = DataScreen(rules, overwrite=False).suspects(Block(b"".join(line + b"\n" for line in content)))
    for line, suspect in zip(content, suspects.tolist(), strict=True):
        assert suspect or not list(data_line(line, thorough, overwrite=False))


@given(st.lists(st.integers(198, 203), min_size=1, max_size=4), st.integers(200, 2_000), st.randoms())
@settings(max_examples=40)
def test_lines_of_a_user_in_one_file(counts: list[int], piece: int, chance: random.Random) -> None:
    users = [*(f"u{user}" for user, count in enumerate(counts) for _ in range(count)), *(f"v{n}" for n in range(500))]
    chance.shuffle(users)
    report = FileReport("", 10)
    with Users(piece=piece) as checked:
        checked.begin(report)
        for at in range(0, len(users), 400):
            checked.add(Block("".join(f"{user}\tx\n" for user in users[at : at + 400]).encode()))
        checked.settle()
    seen: Counter[str] = Counter()
    expected = set()
    for number, user in enumerate(users, 1):
        seen[user] += 1
        if seen[user] == lines.MAX_LINES_PER_USER + 1:
            expected.add((number, "lines-of-user"))
    assert {(found.line, found.rule) for found in report.findings} == expected
