"""Foreign text made fit for one line of a log: a hook's output, a file's name.

Control characters are shown as \\x1b and the like: what a hook prints must not be able to steer the terminal of
whoever reads the log, nor to look like a line of ours.
"""

_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}
_SHOWN |= {0x2028: "\\u2028", 0x2029: "\\u2029"}  # line breaks too, for many readers


def one_line(text: object, *, most: int = 4_096) -> str:
    """The text without line breaks, control characters or lone surrogates, at most `most` characters long."""
    shown = str(text).translate(_SHOWN).encode("utf-8", "backslashreplace").decode("utf-8")
    return shown if len(shown) <= most else shown[: most - 1] + "…"
