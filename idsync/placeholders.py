"""What stands where an ID should: a macro that nobody expanded, or the word for nothing in some language.

Such an ID is the same for all visitors for whom it was sent, and would make one person of them.
"""

import re

_NAME = r"[A-Za-z_][A-Za-z0-9_. -]*"
_GUID = r"[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}"

# These can't be anything else, wherever they stand; a GUID in braces is Microsoft's way of writing one.
_MACRO_WITHIN = re.compile(
    rf"""
      \$\{{[^{{}}]*\}}                      # ${{UID}}
    | \{{\{{[^{{}}]*\}}\}}                  # {{{{ user.id }}}}
    | %%[^%]+%%                             # %%UID%%
    | <%[^%]*%>                             # <%= uid %>
    | \{{(?!{_GUID}\}})\s?{_NAME}\}}        # {{UID}}, #{{uid}}
    """,
    re.VERBOSE,
)
# These may be part of an ID, but are none by themselves.
_MACRO_ALONE = re.compile(
    rf"""
      \$+[!({{\[]?{_NAME}[)}}\]]?\$*        # $UID, $(UID), $UID$
    | \[{{1,2}}[%$]?(?!{_GUID}\]){_NAME}[%$]?\]{{1,2}}  # [UID], [%UID%], [[UID]]
    | __(?=_*[A-Za-z])[A-Za-z0-9_. -]+__    # __UID__
    | %{_NAME}%                             # %UID%
    | <{{1,2}}{_NAME}>{{1,2}}                   # <UID>, <<UID>>
    | \*\|{_NAME}\|\*                        # *|UID|*
    | \#{{1,2}}{_NAME}\#{{1,2}}                 # ##UID##
    | @{{1,2}}{_NAME}@{{1,2}}                   # @UID@, @@UID@@
    """,
    re.VERBOSE,
)

_NOTHING = re.compile(
    r"\(null\)|null|\(none\)|none|undefined|\(undefined\)|nan|nil|<nil>|\[object\ object\]|0+(?:-0+)*",
    re.IGNORECASE,
)


def holds_macro(text: str) -> bool:
    """Whether `text` is, or holds, a macro of a tag manager, an ad server or a template that was not expanded."""
    return _MACRO_WITHIN.search(text) is not None or _MACRO_ALONE.fullmatch(text.strip()) is not None


def is_sentinel(text: str) -> bool:
    """Whether `text` is a word for nothing, in any case, or nothing but zeros, with dashes or without."""
    return _NOTHING.fullmatch(text.strip()) is not None
