"""Text from files and users, made safe for a terminal and for a spreadsheet."""

import unicodedata

MARKS_OF_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates a cell that begins with one


def one_line(text: str) -> str:
    """Text as one line for a terminal: what is not printable is escaped, as in a Python string."""
    return "".join(each if _is_printable(each) else each.encode("unicode_escape", "backslashreplace").decode() for each in text)


def csv_cell(value: object) -> str:
    """Value as a cell of a CSV file: numbers as they are, text on one line that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(value)
    text = one_line(str(value))
    return f"'{text}" if text.startswith(MARKS_OF_A_FORMULA) else text


def _is_printable(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"
