"""Sync calls as a website causes them: its customers load a page, and their browsers call the endpoint.

    python deploy/sample/visits.py http://127.0.0.1:8000 deploy/sample/crm.csv                a morning's visitors
    python deploy/sample/visits.py http://127.0.0.1:8000 deploy/sample/crm.csv crm-000296     one customer more

Who comes, and how, follows from the customer's ID alone, so every run makes the same calls.
"""

import csv
import http.client
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlsplit

DPID = 12345  # of data source "crm" in deploy/idsync.example.toml
VISITORS_OF_256 = 190
OBJECTS = "crm-000299"  # has switched on Global Privacy Control


@dataclass(frozen=True)
class Visit:
    """A call of `target`. The visits of one `device` share a cookie."""

    target: str
    device: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def kind(self) -> str:
        return {"image/gif": "pixel", "application/json": "JSON"}.get(self.headers["Content-Type"], "redirect")


def main(address: str, path: str, latecomer: str | None = None) -> int:
    with Path(path).open(newline="", encoding="utf-8") as file:
        customers = [row["customer_id"] for row in csv.DictReader(file)]
    host = urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    visits = [Visit(call(latecomer), latecomer)] if latecomer else list(morning(customers))
    answers = send(connection, visits)
    connection.close()
    if latecomer:
        show(visits[0], answers[0])
    else:
        tell(visits, answers)
    return int(any(answer.status >= http.client.INTERNAL_SERVER_ERROR for answer in answers))


def call(customer_id: str, *, dpid: int = DPID, more: str = "") -> str:
    return f"/ibs:dpid={dpid}&dpuuid={quote(customer_id, safe='')}{more}"


def morning(customers: list[str]) -> Iterator[Visit]:
    """Most load a page or two; some of the pages know Audience Manager's UUID, some ask for JSON."""
    for customer in customers:
        dice = sha256(customer.encode()).digest()
        if ":" in customer:
            yield Visit(call(customer), customer)  # as wrong on the page as it is in the CRM
        elif dice[0] < VISITORS_OF_256:
            uuid = f"&d_uuid={int.from_bytes(dice[1:]) % 10**38:038}" if dice[1] % 4 == 0 else ""
            yield Visit(call(customer, more=uuid), customer)
            if dice[2] % 2:
                yield Visit(call(customer, more="&d_rtbd=json" if dice[3] % 8 == 0 else ""), customer)
    redir = quote("https://dpm.demdex.net/ibs:dpid=12345&dpuuid=${DD_UUID}", safe="")
    yield Visit(call(customers[0], more=f"&redir={redir}"), customers[0])
    yield Visit(call(OBJECTS), OBJECTS, (("Sec-GPC", "1"),))
    yield Visit(call(customers[0], dpid=99999), customers[0])
    yield Visit(f"/ibs:dpid={DPID}&dpuuid=M%FCller", "Müller")


def send(connection: http.client.HTTPConnection, visits: list[Visit]) -> list[Answer]:
    cookies: dict[str, str] = {}
    answers = []
    for visit in visits:
        headers = dict(visit.headers)
        if visit.device in cookies:
            headers["Cookie"] = cookies[visit.device]
        connection.request("GET", visit.target, headers=headers)
        with connection.getresponse() as response:
            answers.append(Answer(response.status, response.headers, response.read()))
        if cookie := response.headers["Set-Cookie"]:
            cookies[visit.device] = cookie.partition(";")[0]
    return answers


def tell(visits: list[Visit], answers: list[Answer]) -> None:
    """One call of each kind in full, the number of all."""
    kinds = [answer.kind if answer.status < http.client.BAD_REQUEST else "refused" for answer in answers]
    for kind in ("pixel", "JSON", "redirect", "refused"):
        at = kinds.index(kind)
        show(visits[at], answers[at])
    counts = Counter(kinds)
    say(f"  {len(answers)} calls: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))
    for answer in answers:
        if code := answer.headers["X-Error"]:
            why = json.loads(answer.body)["errors"][0]["msg"] if answer.kind == "JSON" else "no consent"
            say(f"    not stored, X-Error {code}: {why}")


def show(visit: Visit, answer: Answer) -> None:
    say(f"  GET {visit.target}")
    body = f"{answer.headers['Content-Type']}, {len(answer.body)} bytes"
    what = answer.headers["Location"] or (answer.body.decode().strip() if answer.kind == "JSON" else body)
    say(f"    {answer.status}  {what}")
    if cookie := answer.headers["Set-Cookie"]:
        say(f"    Set-Cookie: {cookie}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
