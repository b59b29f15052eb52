"""Strings that the IAB Tech Lab's repositories publish, with what they say of them: the verdict follows from that."""

from typing import NamedTuple

_TCF_SPECIFICATION = (
    "https://github.com/InteractiveAdvertisingBureau/GDPR-Transparency-and-Consent-Framework"
    "/blob/master/TCFv2/IAB%20Tech%20Lab%20-%20Consent%20string%20and%20vendor%20list%20formats%20v2.md"
)
_TCF_TESTS = (
    "https://github.com/InteractiveAdvertisingBureau/iabtcf-es/blob/master/modules/core/test/ReportedIssues.test.ts"
)
_GPP_TESTS = "https://github.com/IABTechLab/iabgpp-es/blob/master/modules/cmpapi/test"


class PublishedTc(NamedTuple):
    """`vendor` and `purposes`: those to ask for."""

    source: str
    text: str
    vendor: int
    purposes: tuple[int, ...]
    granted: bool


class PublishedGpp(NamedTuple):
    """`granted`: by what it says. `unreadable`: why we refuse it all the same, or None."""

    source: str
    text: str
    sid: str
    granted: bool
    unreadable: str | None = None


_RESTRICTED = (
    "CO4VGswO4VGswAfZCBDEAzCsAP_AAH_AAAigGUNf_X9fb2vj-_599_t0eY1f9_63t-wzjheMs-8NyZ-X_J4Wv2MyvB34JqQKGRgkunLBAQdtHGncTQ"
    "gBwIlViTLMY02MjzNKJrJEilsbe2dYGH9vn8XT_ZKZ70-_v__7v3___33_5Ayhr_6_r7e18f3_Pvv9ujzGr_v_W9v2GccLxln3huTPy_5PC1-xmV4O"
    "_BNSBQyMEl05YICDto407iaEAOBEqsSZZjGmxkeZpRNZIkUtjb2zrAw_t8_i6f7JTPen39___d-___--__ICgKAOAAcAA4AFAAjgB6AEYALcGACAW0"
    "AtoJAHAAOAAcACgARwA9ACMAFuFABALaAW0GgDgAHAAOABQAI4AegBGAC3DgAgFtALaEQBwADgAHAAoAEcAPQAjABbiQAQC2gFtCoA4ABwADgAUACO"
    "AHoARgAtxYAIBbQC2hkAcAA4ABwAKABHAD0AIwAW40AEAtoBbQ6AOAAcAA4AFAAjgB6AEYALceACAW0AtohAHAAOAAcACgARwA9ACMAFuRABALaAW0"
    "SgDgAHAAOABQAI4AegBGAC3JgAgFtALaKQBwADgAHAAoAEcAPQAjABblQAQC2gFtA"
)

TCF = [
    # Issue 201. For purpose 1, consent is required (type 1) of the vendors 7, 20, 71, 122, 140, 183.
    PublishedTc(_TCF_TESTS, _RESTRICTED, 7, (1, 10), True),
    PublishedTc(_TCF_TESTS, _RESTRICTED, 20, (1,), True),
    PublishedTc(_TCF_TESTS, _RESTRICTED, 20, (1, 11), False),
    PublishedTc(_TCF_TESTS, _RESTRICTED, 730, (1, 10), False),
    PublishedTc(_TCF_TESTS, _RESTRICTED, 809, (1, 10), False),
    # Issue 142: must throw, for a bit field shorter than its highest vendor.
    PublishedTc(
        _TCF_TESTS,
        "CLSYjTaOngnCIAOABBENAXCMAGOAABBAAA7IA5n-m7fP6_3fbqVv6E__PoA5Aqff3aJx8tv_1967rfnQEQoAIAAQCrwkAEABAcACABIMACAAuApEVA"
        "BABUSABgBCAVSAtIoACACIArYQAHACgAFgAVwBJgDcAI7AWgMAAgBiKgAgBMgFfKQAQBRkQAQA4AFiBAAoA-AEVAJlAVgAtYcACAJcAr4eABAK8OgB"
        "gFzAOmAqwgABAWyA.IFukWSQh",
        *(1, (1,), False),
    ),
    # Issue 191: version 1, whose day is over.
    PublishedTc(_TCF_TESTS, "BO2e4qiO2e4qiB9ABADEDS-AAAAxKABgACBiQA", 1, (1,), False),
    # The example of the specification: vendors 1 to 4 have consent, but policy 2 had ended when it was made.
    PublishedTc(
        _TCF_SPECIFICATION,
        "CQSbk4AQSbk4ANwAAAENAwCgAAAAAAAAAAYgACPAAAAA.IDKQA4AAgAKAGQAygAAA.YAAAAAAAAAAA",
        *(1, (), False),
    ),
]

# What these have in them, as the tests of each section say; the headers before them are DBABLA and the like.
GPP = [
    # Made to have no Global Privacy Control; one that had it and was cut off at its dot would look the same.
    PublishedGpp(
        *(f"{_GPP_TESTS}/encoder/section/UsNat.test.ts", "DBABLA~CAAAAAAAAABA", "7", True),
        unreadable="lacks a subsection",
    ),
    *(
        PublishedGpp(f"{_GPP_TESTS}/{file}", text, sid, granted)
        for file, text, sid, granted in [
            ("GppModel.test.ts", "DBABTA~1YNN", "6", True),
            ("GppModel.test.ts", "DBABTA~1YYN", "6", False),
            ("GppModel.test.ts", "DBACNYA~CPSG_8APSG_8ANwAAAENAwCAAAAAAAAAAAAAAAAAAAAA.QAAA.IAAA~1YNN", "6", True),
            ("GppModel.test.ts", "DBACNYA~CPSG_8APSG_8ANwAAAENAwCAAAAAAAAAAAAAAAAAAAAA.QAAA.IAAA~1YNN", "2", False),
            ("GppModel.test.ts", "DBABLA~BVQqAAAAAgA.QA", "7", True),
            ("GppModel.test.ts", "DBABLA~CAAAAAAAAABA.QA", "7", True),
            ("encoder/section/UsNat.test.ts", "DBABLA~CVVVkkkkkpFY.YA", "7", False),
            ("encoder/section/UsNat.test.ts", "DBABLA~BAAAVVVVUQA.QA", "7", False),
            ("encoder/section/UsCa.test.ts", "DBABBg~BAAAAABA.QA", "8", True),
            ("encoder/section/UsCa.test.ts", "DBABBg~BVWSSSVY.YA", "8", False),
            ("encoder/section/UsMn.test.ts", "DBABIYA~BAAAAAQA.QA", "23", True),
            ("encoder/section/UsMn.test.ts", "DBABIYA~BVWSSVWA.YA", "23", False),
        ]
    ),
]
