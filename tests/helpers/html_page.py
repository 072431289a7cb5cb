"""Tags, text and figures of the report of a study."""

import json
import re
from html.parser import HTMLParser
from typing import Any

from app.sweep.report.writer import StudyResults


class ReportTags(HTMLParser):
    """The tags of a report, and the text that a reader sees."""

    def __init__(self, results: StudyResults):
        super().__init__()
        self.found, self.text, self._inside = [], "", ""
        self.feed(results.report.read_text())
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside, self.text = tag, f"{self.text} "

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    def ids(self) -> list[str]:
        return [attrs["id"] for tag, attrs in self.found if tag == "div" and "id" in attrs]


def drawn(results: StudyResults) -> dict[str, Any]:
    """The figures of a report by name, as JSON."""
    found = re.search(r"^const drawn = (.*);$", results.report.read_text(), re.MULTILINE)
    return json.loads(found[1]) if found else {}  # a page without figures has no script
