"""Which inputs are new to a feed, and which are known. Pure.

What was delivered once is passed over, under whatever name: the file came twice. But not where the very file held
something else meanwhile, since then it says so anew. A feed that sends only changes asks for more: what an export said
once may be true again after another said something else, to the byte. There a file is known while it holds what it held
when it was delivered. One that is new is a copy if it says what was delivered last: of customers it has no news, and
what their new devices lack comes with the next export that differs.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from reconcile.inputs import Input


class Judged(NamedTuple):
    """`fresh` inputs are to be read, in order; `copies` have the content of one of them, or of the last delivery."""

    fresh: list[Input]
    copies: Sequence[Input] = ()


def by_content(sources: Sequence[Input], places: Mapping[str, str], delivered: Collection[str]) -> Judged:
    """`places` as below; `delivered`: all content that ever was. Of several with one content the first is read."""
    first: dict[str, Input] = {}
    for source in sources:
        if source.sha256 not in delivered or places.get(source.place, source.sha256) != source.sha256:
            first.setdefault(source.sha256, source)
    return Judged(list(first.values()))


def by_place(sources: Sequence[Input], places: Mapping[str, str], latest: Sequence[str]) -> Judged:
    """`places`: what each input, by place, held when it was last delivered. `latest`: the content of the last delivery,
    in order. Of several with one content the last is read, since it has the last word.
    """
    new = [source for source in sources if places.get(source.place) != source.sha256]
    told = [source.sha256 for source in new]
    ends = (count for count in range(min(len(told), len(latest)), 0, -1) if told[:count] == [*latest[-count:]])
    known = next(ends, 0)
    last = {source.sha256: source for source in new[known:]}
    fresh = [source for source in new[known:] if last[source.sha256] is source]
    read = {source.place for source in fresh}
    return Judged(fresh, [source for source in new if source.place not in read])
