"""The line of a record, made in one step, is its user and its text without the first mark, whatever it says."""

from dataclasses import replace
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconcile.engine import sql
from reconcile.feed import OneOf, Plan, Present, RuleItem, SignalItem, TraitItem, TraitsItem, Within
from reconcile.screen import is_clean

COLUMNS = ("gender", "it's", "traits", "more")
SIGNALS, TRAITS = (0, 1), (2, 3)
ITEMS = st.lists(
    st.one_of(
        st.builds(SignalItem, st.sampled_from(SIGNALS), st.sampled_from(["g", "it's", "k"])),
        st.builds(TraitsItem, st.sampled_from(TRAITS), st.booleans()),
        st.builds(
            RuleItem,
            st.integers(0, 3),
            st.sampled_from([OneOf(("f", "7")), Within(Decimal(5), None), Present(wanted=True)]),
            st.sampled_from([7, 8, "Gold"]),
            st.booleans(),
        ),
        st.builds(TraitItem, st.sampled_from([7, 9, "Gold"])),
    ),
    min_size=1,
    max_size=6,
).map(tuple)
VALUES = st.tuples(
    *[st.sampled_from(["", "f", "7", "é, x=1", 'say "no"', "tab\t", "x" * 120_000])] * 2,
    *[st.sampled_from(["", "7", "12345", "7,8", " 7 | 9;ic=Gold", "8:off", "word", "9" * 20])] * 2,
)
PLANS = st.builds(
    Plan,
    st.just("id"),
    st.just(COLUMNS),
    ITEMS,
    by_uuid=st.just(value=False),
    every_device=st.just(value=False),
    emit_unmatched=st.just(value=True),
    constants=st.sampled_from([(), (("src", "crm"),), (("src", "crm"), ("it's", "x"))]),
    speaks_always=st.booleans(),
    spares_records=st.booleans(),
    policy=st.sampled_from(["all", "first", "last"]),
)


CON = duckdb.connect()  # to open one takes longer than to ask it
SILENT = ("", "", "", "")
ALWAYS = Plan("id", COLUMNS, (SignalItem(0, "g"),), False, False, True, constants=(("src", "crm"),), speaks_always=True)


@settings(max_examples=60, deadline=None)
@example(ALWAYS, [(SILENT, True), (SILENT, False), (("f", "", "", ""), True)])
@given(PLANS, st.lists(st.tuples(VALUES, st.booleans()), min_size=1, max_size=8))
def test_a_line_is_the_user_and_the_text_without_its_first_mark(
    plan: Plan, given_: list[tuple[tuple[str, ...], bool]]
) -> None:
    values = list(zip(*(value for value, _ in given_), strict=True))
    columns = [pa.array(column, pa.string()) for column in values]
    ids = pa.array(["c1"] * len(given_), pa.string())
    signals, traits = (
        [columns[at] for at in sorted({item.column for item in plan.items if isinstance(item, kind)})]
        for kind in (SignalItem, TraitsItem)
    )
    clean = is_clean(ids, plan.id_rules, signals, traits)
    named = {"id": ids, "sent": pa.array([sent for _, sent in given_])}
    with CON.cursor() as con:
        con.register("records", pa.table(named | {f"v{at}": column for at, column in enumerate(columns)}))
        for known in (plan, replace(plan, clean=clean)):
            query = (
                f"SELECT sent, {sql.text_of(plan)} AS text, line FROM ({sql.with_line(known, 'FROM records', 'id')})"
            )
            for sent, text, line in con.sql(query).fetchall():
                assert line == (f"c1\t{text[1:]}\n" if sent and text else None)


@pytest.mark.parametrize("clean", [False, True])
def test_a_signal_of_a_plan_that_spares_records_is_left_out_if_it_cannot_be_sent(clean: bool) -> None:
    plan = Plan("id", ("a", "b"), (SignalItem(0, "a"), SignalItem(1, "b")), False, False, True, spares_records=True)
    with duckdb.connect() as con:
        con.execute("CREATE TABLE records AS SELECT 'c1' AS id, true AS sent, '\"' AS v0, 'x' AS v1")
        found = con.sql(f"SELECT line FROM ({sql.with_line(replace(plan, clean=clean), 'FROM records', 'id')})")
        assert found.fetchall() == [('c1\t"a"=""","b"="x"\n' if clean else 'c1\t"b"="x"\n',)]
