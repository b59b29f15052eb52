"""Numbers in sentences. Pure."""


def amount(number: int, thing: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
