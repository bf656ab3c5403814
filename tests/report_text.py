"""The Markdown report, cut into its sections."""


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level, as far as the next one."""
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]
