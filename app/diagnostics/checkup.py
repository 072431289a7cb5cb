"""Checkup of this machine: runs all checks and prints the findings and the roles that it can take."""

import textwrap

from rich.console import Console
from rich.text import Text

from app.config.schema import Config
from app.core.console import print_line
from app.diagnostics import game_checks, network_checks, system_checks
from app.diagnostics.check import CheckResult, Finding, assess_roles, examined_config, run_check

_GROUPS = {"this program": system_checks, "the network": network_checks, "the game": game_checks}
_STYLES = {"ok": "green", "note": "yellow", "missing": "bold red", "broken": "bold red"}
_INDENT = 10
_UNLIMITED_WIDTH = 1_000_000  # columns, for a file or a pipe: its lines are not wrapped


def run_checkup(config: Config, console: Console) -> bool:
    """Examine this machine for a run and print the findings.

    Args:
        config: The run; its rules between keys need not hold.
        console: Console to print on.

    Returns:
        Whether everything that the run needs is there.
    """
    examined = examined_config(config)
    results: list[CheckResult] = []
    for title, group in _GROUPS.items():
        print_line(console, title, "bold")
        for check in group.checks(examined):
            finding = run_check(check, examined)
            results.append((check, finding))
            _print_finding(console, check.name, finding if examined.role in check.needed_by else finding.as_note())
    if examined is not config:
        message = "role = local: cannot drive a game, which never waits; role=all workers=1 was examined instead"
        remedy = "Name the part that this machine will be, such as role=worker."
        _print_finding(console, "role", Finding("note", message, remedy))
    return _print_roles(console, examined, results)


def _print_roles(console: Console, config: Config, results: list[CheckResult]) -> bool:
    """Print which roles this machine can take; returns whether it can take that of the run."""
    print_line(console, "this machine", "bold")
    roles = assess_roles(config, results)
    for role in roles:
        answer = f"no: {', '.join(role.blockers)}" if role.blockers else "yes"
        _print_wrapped(console, Text(f"  can {role.description}: {answer}"), 4)
    blockers = next(role.blockers for role in roles if role.role == config.role)
    subject = f"What env={config.env.name} role={config.role} needs"
    if blockers:
        _print_wrapped(console, Text(f"{subject} is not all there: {', '.join(blockers)}.", "bold red"), 2)
    else:
        _print_wrapped(console, Text(f"{subject} is all there.", "green"), 2)
    return not blockers


def _print_finding(console: Console, name: str, finding: Finding) -> None:
    text = finding.message if finding.message.startswith(name) else f"{name}: {finding.message}"
    head = Text.assemble("  ", (f"{finding.state:7}", _STYLES[finding.state]), f" {text}")
    _print_wrapped(console, head, _INDENT)
    if finding.remedy:
        _print_wrapped(console, Text(f"{' ' * _INDENT}-> {finding.remedy}"), _INDENT + 3)


def _print_wrapped(console: Console, text: Text, indent: int) -> None:
    """Print a text in lines that fit into a terminal; a path that is longer than a line is not broken."""
    width = console.width if console.is_terminal else _UNLIMITED_WIDTH
    lines = textwrap.wrap(
        " ".join(text.plain.splitlines()),
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines):
        printed = Text(line, text.style)
        if number == 0:
            printed.spans = text.spans
        console.print(printed, soft_wrap=True)
