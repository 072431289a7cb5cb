"""Shows the findings as they come, and what follows from them."""

import textwrap

from rich.console import Console
from rich.text import Text

from app.config.schema import Config
from app.diagnosis import game, network, program
from app.diagnosis.ability import Examined, abilities, asked_for
from app.diagnosis.finding import Finding, examine
from app.reporting.formatting import tell

_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red", "broken": "bold red"}
_INDENT = 10
_ENDLESS = 1_000_000  # columns where nobody looks: a line of a file or a pipe is not broken


def report(config: Config, console: Console) -> bool:
    """Examine this machine for a run and print what was found.

    Args:
        config: the run, its rules between keys unchecked.
        console: where it is printed.

    Returns:
        Whether everything is there that the run needs.
    """
    asked = asked_for(config)
    examined: list[Examined] = []
    for title, group in {"this program": program, "the network": network, "the game": game}.items():
        tell(console, title, "bold")
        for check in group.checks(asked):
            finding = examine(check, asked)
            examined.append((check, finding))
            _show(console, check.name, finding if asked.role in check.needed_by else finding.softened())
    if asked is not config:
        words = "role = local: cannot drive a game, which never waits; role=all workers=1 was examined instead"
        _show(console, "role", Finding("note", words, "Name the part that this machine will be, such as role=worker."))
    return _conclude(console, asked, examined)


def _conclude(console: Console, asked: Config, examined: list[Examined]) -> bool:
    tell(console, "this machine", "bold")
    found = abilities(asked, examined)
    for ability in found:
        answer = f"no: {', '.join(ability.lacks)}" if ability.lacks else "yes"
        _wrap(console, Text(f"  can {ability.words}: {answer}"), 4)
    lacks = next(ability.lacks for ability in found if ability.role == asked.role)
    words = f"What env={asked.env.name} role={asked.role} needs"
    if lacks:
        _wrap(console, Text(f"{words} is not all there: {', '.join(lacks)}.", "bold red"), 2)
    else:
        _wrap(console, Text(f"{words} is all there.", "green"), 2)
    return not lacks


def _show(console: Console, name: str, finding: Finding) -> None:
    words = finding.found if finding.found.startswith(name) else f"{name}: {finding.found}"
    head = Text.assemble("  ", (f"{finding.state:7}", _STYLES[finding.state]), f" {words}")
    _wrap(console, head, _INDENT)
    if finding.remedy:
        _wrap(console, Text(f"{' ' * _INDENT}-> {finding.remedy}"), _INDENT + 3)


def _wrap(console: Console, text: Text, indent: int) -> None:
    """Print a text as lines that fit; a path that is longer than a line stays whole."""
    width = console.width if console.is_terminal else _ENDLESS
    lines = textwrap.wrap(
        " ".join(text.plain.splitlines()),
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines):
        shown = Text(line, text.style)
        if number == 0:
            shown.spans = text.spans
        console.print(shown, soft_wrap=True)
