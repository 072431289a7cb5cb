"""Command lines made from the schema by Hypothesis: every command begins its work, or refuses in plain sentences."""

import pkgutil
import re
import string
import time
from dataclasses import fields

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from app.config.describe import known_keys
from app.core.console import printable
from app.core.errors import error_with_place
from tests.helpers.commands import COMMANDS, answer
from tests.helpers.make import CONF
from tests.helpers.trust_size import SEED, cases
from tests.helpers.trust_table import record

# Command lines of the full size, with two overrides each on average: more than 1,000 of them.
COMMAND_LINES = {"train": 300, "doctor": 50, "lab": 50}
OTHERS = 40

LONGEST = 5000  # characters of a refusal
# Words with which a refusal says what is allowed, or what to do.
ADVICE = re.compile(
    r"must (be|divide|equal|sum|not)|there is no such key|Did you mean|[Ss]ettings are written|takes quotes"
    r"|has no value|is missing|To use it|requires --multirun|Use |Add |Write |Leave |Set |remove \+ prefix|not found"
)

PASSWORD = "correct-horse-battery"
GRAMMAR = "[]{}()<>'\"\\,:;=$~+-@/.#%&*!?|^ \t\n"  # what means something to Hydra, YAML, shells or terminals
# What people and programs write where something else belongs.
ODD = (
    "", "null", "NULL", "~", "true", "No", "nan", "-inf", "1e400", "-0", "0x10", "1_000", "007", "1.", ".5", "1e-320",
    "''", '""', "'", "[", "]", "[]", "{}", "[[]]", "[1", "{a:1", "[1,,2]", "[1,2,]", "{a:{b:{c:[1,{d:2}]}}}", "???",
    "${seed}", "${nope}", "${oc.env:HOME}", "${oc.env:NOT_SET}", "${", "${{}}", "${seed", "${oc.decode:'['}",
    "range(1,4)", "choice(1,2)", "interval(0,1)", "glob(*)", "shuffle(1,2)", "sort(3,1)", "str(1)", "int('x')",
    "1,2", "a=b", "a b", "a:b", "a\nb", "a\x1b[31mb", "/", "..", "../../etc/passwd", "/dev/null", "~/x", "C:\\x",
    "!!python/object/apply:os.system [id]", "&a [*a]", "é", "日本", "\u202e", "\udcff", "😀" * 40, "x" * 10_000,
    "9" * 30, "9" * 5_000, "-1", "1.5", "sim", "gym", "mlp", "core", "group", "clean", "collapse", "smoke",
    "cpu", "local",
)  # fmt: skip

numbers = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 15, 16, 100, 256, 257, 65536, 2**31, 2**32 - 1, 2**32, 2**63, -(2**63) - 1]),
    st.integers(),
).map(str) | st.floats().map(repr)
letters = st.characters(exclude_characters="\0", exclude_categories=())  # of an argument; lone surrogates, too
texts = st.text(GRAMMAR + string.ascii_letters + string.digits, max_size=12) | st.text(letters, max_size=12)
plain = st.sampled_from(ODD) | numbers | texts
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.tuples(texts, inner).map(lambda pair: f"{{{pair[0]}:{pair[1]}}}")
    ),
    max_leaves=4,
)
quoted = texts.map(lambda text: f'"{text}"') | texts.map(lambda text: f"'{text}'")
values = st.one_of(plain, nested, quoted)


def misspelt(key: str) -> st.SearchStrategy[str]:
    """Return a strategy for a key with one character removed, doubled or made a capital."""
    changes = (
        lambda i: key[:i] + key[i + 1 :],
        lambda i: key[:i] + key[i] + key[i:],
        lambda i: key[:i] + key[i:].upper(),
    )
    return st.tuples(st.sampled_from(changes), st.integers(0, len(key) - 1)).map(lambda change: change[0](change[1]))


def words_of(name: str) -> st.SearchStrategy[str]:
    """Return a strategy for words on the command line of a command."""
    known = sorted(set(known_keys(pkgutil.resolve_name(COMMANDS[name].schema))))
    exact = st.sampled_from(known)
    inexact = exact.flatmap(misspelt) | st.tuples(exact, texts).map(".".join)
    marks = st.sampled_from(["", "", "", "+", "++", "~"])
    packages = st.sampled_from(["", "", "", "@seed", "@_global_"])
    options = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
    return st.one_of(
        *(st.tuples(exact, values).map("=".join) for _ in range(5)),
        st.tuples(marks, exact | inexact, packages, values).map(lambda word: f"{word[0]}{word[1]}{word[2]}={word[3]}"),
        st.sampled_from(options),
        exact.map("~{}".format),
        texts.filter(lambda text: not text.startswith("-")),  # an option of Hydra's
    )


def flaw(words: list[str], text: str) -> str | None:
    """Return what is wrong with a refusal; None if it is as it should be."""
    if PASSWORD in text:
        return "shows a secret"
    if len(text) > LONGEST:
        return "is too long"
    if not all(line.isprintable() for line in text.split("\n")):
        return "can steer a terminal"
    named = [printable(re.split("[=@.\n]", word.strip("+~"))[0])[:40] for word in words]  # a section, or the whole key
    if not any(name in text for name in named):
        return "names no key"
    if not ADVICE.search(text):
        return "does not say what is allowed"
    return None


REQUIRED = {"run": "run=x", "study": "study=x"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_line_begins_the_work_or_is_refused_in_plain_sentences(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").touch()  # a command looks for it before anything else
    keys = {field.name for field in fields(pkgutil.resolve_name(COMMANDS[name].schema))}
    given_words = [REQUIRED[key] for key in REQUIRED if key in keys]
    if "network" in keys:
        given_words.append(f"network.password={PASSWORD}")
    flaws, tried, begin = [], 0, time.monotonic()

    @seed(SEED)
    @settings(
        max_examples=cases(COMMAND_LINES.get(name, OTHERS)),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(words_of(name), min_size=1, max_size=3))
    def search(words):
        nonlocal tried
        tried += len(words)
        try:
            text = answer(name, [*given_words, *words], monkeypatch)
        except Exception as error:
            flaws.append((words, f"ends in a traceback: {error_with_place(error)}"))
            return
        if text is not None and (found := flaw(words, text)):
            flaws.append((words, f"{found}: {text}"))

    search()
    record(f"overrides of app/{name}.py made from its schema", tried, len(flaws), time.monotonic() - begin)
    assert not flaws, "\n".join(f"{words!r} {found}" for words, found in flaws)
