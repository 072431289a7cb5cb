"""Report of a lab as a Markdown page, such as docs/evidence.md."""

import html
import re
from collections.abc import Iterator, Sequence

from app.ablation.evidence_summary import EvidenceSummary, TaskEvidence
from app.ablation.evidence_text import headline, method
from app.ablation.report_tables import TextTable, arm_table, score_table, verdict_table

_ACTIVE = re.compile(r"([\\`*_\[\]|#~$])")  # characters that Markdown may take for markup


def evidence_markdown(summary: EvidenceSummary, name: str, commands: Sequence[str], curves: str, effects: str) -> str:
    """Return the page; everything from files is escaped.

    Args:
        summary: Summary of the evidence.
        name: Name of the lab.
        commands: Commands that made it.
        curves: File name of the picture of the learning curves, beside the page.
        effects: File name of the picture of the effects.
    """
    return "\n\n".join(_blocks(summary, name, commands, curves, effects)) + "\n"


def _blocks(summary: EvidenceSummary, name: str, commands: Sequence[str], curves: str, effects: str) -> Iterator[str]:
    yield f"# What every fault and every fix is worth: {_escaped(name)}"
    if not summary.tasks:
        yield "No run has finished an epoch yet."
    if summary.not_begun:
        yield f"Not begun: {_escaped('; '.join(arm.label for arm in summary.not_begun))}."
    for task in summary.tasks:
        yield f"## Findings on {_escaped(task.task)}"
        yield _list(headline(task))
    if summary.tasks:
        yield "Difference of the mean lap share of every arm from the reference arms, with 95 % intervals:"
        yield f"![Effects of every arm]({effects})"
        yield (
            "Mean lap share after each epoch: interquartile mean over the runs, with its interval; behind every arm, "
            "all fixed (line) and all broken (dashes):"
        )
        yield f"![Learning curves of every arm]({curves})"
    for task in summary.tasks:
        yield from _tables(task)
    yield "## Method"
    yield from map(_escaped, method(summary))
    if commands:
        yield "## Commands"
        yield "```bash\n" + "\n".join(commands) + "\n```"
    yield "## What did not finish"
    yield _list(summary.problems) if summary.problems else "Nothing: every run has finished."


def _tables(task: TaskEvidence) -> Iterator[str]:
    name = _escaped(task.task)
    yield f"## Verdicts on {name}"
    yield _table(verdict_table(task))
    yield f"## Scores on {name}"
    yield _table(score_table(task))
    yield f"## Arms on {name}"
    yield _table(arm_table(task))


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _table(table: TextTable) -> str:
    rule = ["---" if index < table.left else "---:" for index in range(len(table.columns))]
    rows = [[_escaped(cell) for cell in row] for row in (table.columns, *table.rows)]
    rows.insert(1, rule)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    """Return a text in one line that Markdown shows as it is."""
    return _ACTIVE.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
