"""What a customer ID may be: every shape that is refused, and its harmless look-alikes."""

import re
import time
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idsync import ids
from idsync.ids import DEFAULT_RULES, customer_id_fault, id_rules
from tests.idsync.ids_of_all_kinds import any_id


def spread(table: str) -> list[str]:
    """The IDs of a table, which stand two spaces apart."""
    return re.split(r"\s{2,}", table.strip())


CARDS = spread("""
    4111111111111111  4222222222222  4917610000000000003  5555555555554444  2223003122003222  378282246310005
    6011111111111117  30569309025904  3530111333300000  6200000000000005  5018000000000009  2200000000000004
    6759649826438453  6521111111111110  6304000000000000  3056930009020004
""")
REFUSED = {
    "id-control-character": ["a\tb", "a\n", "\x00", "a\x7f", "a\x85b", "\n", "john@example.com\n"],
    "id-empty": ["", " ", "   "],
    "id-colon": spread("a:b  a%3Ab  a%3ab  mailto:john@example.com"),
    "id-too-long": ["x" * 513, "é" * 257, "1" * 513, "@" * 513, "john@example.com" * 40],
    "id-sentinel": [
        *spread("""
            0  00  000000000000  00000000000000000000000000000000000000  null  NULL  Null  undefined  UNDEFINED
            none  None  NaN  nan  NAN  nil  Nil  (null)  (NULL)  [object Object]  [Object object]  %28null%29  %30
            00000000-0000-0000-0000-000000000000  00000000000000000000000000000000  0-0
            %5Bobject%20Object%5D  %255Bobject%2520Object%255D
        """),
        " null ",
    ],
    "id-macro": spread("""
        $UID  ${UID}  ${user.id}  ${}  crm-${UID}  ${UID}-7  [UID]  [user_id]  [%UID%]  $[UID]  {{UID}}  {{ user.id }}
        x{{crm id}}y  %%UID%%  %%PATTERN 7%%  a%%UID%%  __UID__  __user.id__  {UID}  {user_id}  #{uid}  {uid}7  <UID>
        <%= uid %>  %UID%  $(UID)  $!{uid}  $uid  ${UID  {{UID}  __DEVICE_ID__  %%DEVICE_ID%%  [USER ID]
        $UID$  $$user.id$$  [[UID]]  <<UID>>  *|UID|*  ##UID##  #UID#  @UID@  @@user_id@@  __USER ID__
        %24%7BUID%7D  %7B%7BUID%7D%7D  %25%25UID%25%25  %5BUID%5D  %2524%257BUID%257D  %5F%5FUID%5F%5F
    """),
    "id-email": [
        *spread("""
            john@example.com  John.Doe+tag@Mail.Example.CO.UK  j@x.de  x-john@example.com  john@example.com|7
            jörg@münchen.de  иван@пример.рф  john@xn--mnchen-3ya.de  john@example.xn--p1ai  7@7.com  o'neil@example.com
            john%40example.com  john%2540example.com  john%40example%2Ecom  <john@example.com>  john@example.com_7
            "john doe"@example.com  a@b@example.com  john@münchen.de  %6A%6F%68%6E@example.com
        """),
        " john@example.com",
    ],
    "id-phone": [
        *spread("""
            +14155552671  +1 415 555 2671  +1 (415) 555-2671  +1-415-555-2671  +1.415.555.2671  +4930123456
            +49 (0)30 123456  +49 30/123456  +44 20 7946 0958  +33 1 42 68 53 00  +290 1234  + 49 30 1234567
            0049 30 1234567  00 49 30 1234567  0049-30-1234567  0044 (20) 7946 0958  001-415-555-2671
            (415) 555-2671  (415)555-2671  (415) 5552671  415-555-2671  415.555.2671  415 555 2671  1-415-555-2671
            1 (415) 555-2671  123-456-7890  (030) 1234567  030/1234567  030 1234567  0171-1234567  01 42 68 53 00
            01.42.68.53.00  020 7946 0958  06-12345678  (11) 98765-4321  (415) 555-2671 x12  +1 415 555 2671 ext. 7
            %2B14155552671  %2B1%20415%20555%202671  415%2D555%2D2671  %252B14155552671
        """),
        *(" +14155552671", "+1\u00a0415\u00a0555\u00a02671", "+1\u2011415\u2011555\u20112671"),
    ],
    "id-card": CARDS
    + spread("""
        4111 1111 1111 1111  4111-1111-1111-1111  3782 822463 10005  4111%201111%201111%201111  %34111111111111111
    """),
}
# As they come out of real systems; each is near to something that is refused.
HARMLESS = [
    *spread("""
        4711  7  007  1e5  10  -1  0.0  00x  0x0  0_0  1000000000000  00012345  12345678901234567890  4155552671
        14155552671  004930123456  0301234567  00493012345678  1234567  555-2671  5552671  2024-000123  2024-01-15
        15.01.2024  01-02-2024  100-2345678-1234567  302-1234567-1234567  0012-3456  0001-1234567  12-34-56
        A-1234-5678  192.168.10.20  10.0.0.1  1.2.3  978-3-16-148410-0  12345-6789  05-123456  00-123-4567
        02-2024-000123  4111111111111112  1234567890123456  9999999999999995  1795491420123  0000000000000001
        41111111111111111111  4111.1111.1111.1111  4111111111111111a  411111111111111
        0123456789012345678901234567890123456
        6f9619ff-8b86-d011-b42d-00cf4fc964ff  6F9619FF-8B86-D011-B42D-00CF4FC964FF
        {6F9619FF-8B86-D011-B42D-00CF4FC964FF}  {abcdefab-8b86-d011-b42d-00cf4fc964ff}
        [abcdefab-8b86-d011-b42d-00cf4fc964ff]  12345678-1234-1234-1234-123456789012
        00000000-0000-0000-0000-000000000001  6f9619ff8b86d011b42d00cf4fc964ff  d41d8cd98f00b204e9800998ecf8427e
        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  da39a3ee5e6b4b0d3255bfef95601890afd80709
        dGhpcyBpcyBhIHRlc3Q=  /9j/4AAQSkZJRg==  +/+/abc=  ab+cd/ef==  +abc  +4711  a+b  +12345678a  +491701234567x+
        user_42  a.b-c  User  user  name  john.doe  johnsmith  __id  id__  a__b__c  _x_  __  ____  __7__
        nullable  null1  nonesuch  undefined_7  nancy  nilsson  nulls  xnull  NaN-7  none@home  (nullx)  n/a
        @john  john@  john@home  7@shop  7@7  id@v1.2  a@b.c  @example.com  user @ example.com  john(at)example.com
        5DC5123F5245B1D20A490D46@AdobeOrg  $2b$10$N9qo8uLOickgx2ZMRZoMye  $5  US$5  $  $$  {}  {  a{b  []  [7]
        items[0]  {7}  user[id]  ${  {{  {UID  [UID  %%  %%UID  %  100%  %UI  50%UID  a%20b  %zz  <  <7>  a<b>c
        #7  ##7##  #tag  US$5$  *7*  |7|  @user  @7@  [[7]]
        Ж  Köln-7  用户42  a b  GA1.2.1234567890.1234567890  2132-3423vn-343fds-3432r
    """),
    *("é" * 256, "x" * 512, "7" * 512, " a", "\u0664\u0661\u0665-\u0665\u0665\u0665-\u0662\u0666\u0667\u0661"),
]


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in REFUSED.items() for text in texts])
def test_ids_that_should_not_be_there(reason: str, text: str) -> None:
    assert customer_id_fault(text) == reason


@pytest.mark.parametrize("text", HARMLESS)
def test_their_look_alikes_pass(text: str) -> None:
    assert customer_id_fault(text) is None
    assert customer_id_fault(text, DEFAULT_RULES._replace(ordinary=None)) is None  # nor by the long way


@pytest.mark.parametrize("reason", ["id-email", "id-macro", "id-phone", "id-sentinel", "id-card"])
def test_encoding_an_id_once_or_twice_hides_nothing(reason: str) -> None:
    for text in REFUSED[reason]:
        once = "".join(f"%{byte:02X}" for byte in text.encode())
        if "%" not in text:
            assert customer_id_fault(once) == reason
            assert customer_id_fault(quote(once, safe="")) == reason


@pytest.mark.parametrize("name", ids._CHECKS)
def test_each_check_can_be_switched_off_alone(name: ids.CheckName) -> None:
    reason = f"id-{name}"
    rules = id_rules(12345, unchecked=[name])
    for other, texts in REFUSED.items():
        faults = {customer_id_fault(text, rules) for text in texts}
        assert reason not in faults
        if other == reason:
            assert None in faults
        else:
            assert faults == {other}


def test_numbers_of_sixteen_digits_are_ordinary_where_cards_are_not_looked_for() -> None:
    rules = id_rules(12345, unchecked=["card"])
    assert rules.ordinary is not None
    assert all(rules.ordinary.fullmatch(text) for text in CARDS)


NATIONAL_IDS = {
    "us": ["536-90-4399", "536904399", "912-90-3456"],
    "de": ["36574261809", "36 574 261 809"],
    "es": ["54362315K", "54362315-K", "X-2482300W"],
    "fi": ["131052-308T"],
    "fr": ["2 95 10 99 126 111 93", "295109912611193"],
    "it": ["RCCMNL83S18D969H"],
    "nl": ["1112.22.333", "111222333"],
    "pl": ["44051401359"],
    "se": ["880320-0016", "8803200016"],
    "dk": ["211062-5629"],
    "ie": ["6433435F"],
    "be": ["85.07.30-033 28"],
}


@pytest.mark.parametrize(
    ("country", "text"), [(country, text) for country, texts in NATIONAL_IDS.items() for text in texts]
)
def test_national_ids_are_refused_where_they_are_asked_for(country: str, text: str) -> None:
    rules = id_rules(12345, national_ids=["gr", country])
    assert customer_id_fault(text, rules) == "id-national-id"
    assert customer_id_fault(quote(f" {text}"), rules) == "id-national-id"
    assert customer_id_fault(text) is None
    other = id_rules(12345, national_ids=["gr"])
    assert customer_id_fault(text, other) is None


def test_other_ids_pass_where_national_ids_are_refused() -> None:
    rules = id_rules(12345, national_ids=["us"])
    for text in [
        "000-12-3456",
        "666-12-3456",
        "12-345-6789",
        "C536904399",
        "4711",
        "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
    ]:
        assert customer_id_fault(text, rules) is None
    assert customer_id_fault("john@example.com", rules) == "id-email"


@given(any_id)
@example("²" * 9)
@example("٤٤٠٥١٤٠١٣٥٩")
def test_no_text_upsets_the_checks_of_any_country(text: str) -> None:
    rules = id_rules(12345, national_ids=sorted(ids.COUNTRIES))
    assert customer_id_fault(text, rules) in {None, *ids.EXPLANATIONS}


LOWER = "e4fe9bde-caa0-47b6-908d-ffba3fa184f2"
DEVICES = {
    LOWER: (20914, 121963, 488258, 1171485),
    LOWER.upper(): (20915,),
    "2bcf5b3e2aa14A3a94e3ca27ba57a1b5": (389146, 963906, 1171489),
}


@pytest.mark.parametrize("dpid", ids.DEVICE_ID_SHAPES)
def test_device_ids_have_the_form_of_their_data_source(dpid: int) -> None:
    rules = id_rules(dpid)
    fitting = [text for text, dpids in DEVICES.items() if customer_id_fault(text, rules) is None and dpid in dpids]
    assert len(fitting) == 1
    (good,) = fitting
    wrong = [text for text in DEVICES if text != good]
    wrong += [f"{good} ", f"x{good}!", f"{good}.", good + "é", good.replace("4", "_"), "C-0001_7", "4711-", "a b"]
    for text in wrong:
        assert customer_id_fault(text, rules) == ids.DEVICE_ID_SHAPE


@pytest.mark.parametrize(
    "text", [LOWER[:-1], LOWER + "0", LOWER.replace("-", ""), LOWER.replace("e", "g"), f"{{{LOWER}}}"]
)
def test_hex_device_ids_have_their_digits_and_dashes_in_place(text: str) -> None:
    assert customer_id_fault(text, id_rules(20914)) == ids.DEVICE_ID_SHAPE
    assert customer_id_fault(text.upper(), id_rules(20915)) == ids.DEVICE_ID_SHAPE


def test_all_zero_device_ids_are_sentinels() -> None:
    for dpid in ids.DEVICE_ID_SHAPES:
        assert customer_id_fault("00000000-0000-0000-0000-000000000000", id_rules(dpid)) == "id-sentinel"


HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_data_source_of_hashed_emails_takes_nothing_else() -> None:
    rules = id_rules(12345, "hashed-email")
    assert customer_id_fault(HASH, rules) is None
    assert customer_id_fault("john@example.com", rules) == "id-email"
    for text in [
        HASH[:-1],
        HASH + "0",
        HASH.upper(),
        HASH[:-1] + "g",
        "d41d8cd98f00b204e9800998ecf8427e",
        "4711",
        f"{HASH} ",
    ]:
        assert customer_id_fault(text, rules) == "id-not-hashed-email"
    assert customer_id_fault("d41d8cd98f00b204e9800998ecf8427e") is None


def test_an_id_is_judged_by_default_when_no_rules_are_given() -> None:
    assert customer_id_fault("null") == customer_id_fault("null", None) == customer_id_fault("null", DEFAULT_RULES)


@given(any_id, st.sampled_from([(), ("card",)]))
def test_what_is_ordinary_breaks_no_rule_but_that_of_length(text: str, unchecked: tuple[ids.CheckName, ...]) -> None:
    rules = id_rules(12345, unchecked=unchecked)
    assert rules.ordinary is not None
    if rules.ordinary.fullmatch(text):
        everything = rules._replace(ordinary=None)
        assert customer_id_fault(text, everything) in {None, ids.ID_TOO_LONG}


COMMON = spread("""
    C00000000000000001  4711  123456789012  00012345  user_42  a.b-c  John  dGhpcyBpcyBhIHRlc3Q=
    6f9619ff-8b86-d011-b42d-00cf4fc964ff  d41d8cd98f00b204e9800998ecf8427e  12345678901234567890123456789012345678
""")


@pytest.mark.parametrize("text", [*COMMON, HASH])
def test_common_ids_are_ordinary(text: str) -> None:
    assert DEFAULT_RULES.ordinary is not None
    assert DEFAULT_RULES.ordinary.fullmatch(text)


HOSTILE = [
    *("${", "{{", "$", "%%", "%25", "%2540", "@a.", "a@", "a@a.a", "a.", "0 ", "(", "((", "4-", "[a", "__", "_", "<%"),
    *("{a ", "+1", "%", " ", "é@", "a@a", "{a", "$a", "0-", "00 ", "{{a}"),
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("end", ["", "!", "\u00a0"])
def test_no_id_keeps_the_checks_busy(piece: str, end: str) -> None:
    text = (piece * 512)[: 512 - 2 * len(end)] + end
    rules = id_rules(12345, national_ids=sorted(ids.COUNTRIES))
    took = []
    for _ in range(3):
        start = time.process_time()
        customer_id_fault(text, rules)
        took.append(time.process_time() - start)
    assert min(took) < 0.01  # a hundred times what it takes; matching in two ways would take a thousand times


def test_reasons_are_words_for_machines_and_explanations_for_people() -> None:
    for reason, explanation in ids.EXPLANATIONS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", reason)
        assert len(explanation) > 20
    assert set(REFUSED) < set(ids.EXPLANATIONS)


def test_uuids_and_dpids() -> None:
    assert ids.is_uuid("0" * 38)
    assert not ids.is_uuid("0" * 37)
    assert ids.parse_dpid("12345") == 12345
    assert ids.parse_dpid("012345") is None
