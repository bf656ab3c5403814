"""Text that comes from files, made safe for a terminal or a spreadsheet."""

LONGEST = 500  # characters; enough for any path


def one_line(text: str) -> str:
    """Escapes what a terminal would act on: control characters, line breaks, bidirectional marks, bytes that are not UTF-8.

    Args:
        text: Any string; may hold surrogates, as names of files do.

    Returns:
        Printable text without a line break, cut after 500 characters.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def csv_cell(value: object) -> str:
    """Writes a value for a CSV file; text that a spreadsheet would run as a formula gets an apostrophe in front.

    Source of the list of characters: OWASP, "CSV Injection".
    """
    text = "" if value is None else str(value)
    if isinstance(value, str):
        text = text.encode("utf-8", "backslashreplace").decode()
        if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            return "'" + text
    return text
