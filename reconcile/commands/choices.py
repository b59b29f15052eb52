"""What several commands are asked in the same way."""

from datetime import UTC, datetime
from typing import Any

import click


class Moment(click.ParamType[int]):
    """A date or a time, of UTC unless it says otherwise; milliseconds since the epoch."""

    name = "date or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            told = f"{value!r} is neither a date, 2026-11-24, nor a time, 2026-11-24T06:30 or with +01:00"
            self.fail(told, param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
