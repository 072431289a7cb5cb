import json

import pytest

from app.core.json_data import parse_json, read_json


@pytest.mark.parametrize("value", [None, True, 1, -(10**18), 1.5, "ä😀", [1, {"a": []}], {"a": {"b": None}}])
def test_data_is_what_was_written(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("9" * 400, "a number has 400 digits"),
        ("[" + "9" * 5000 + "]", "a number has 5,000 digits"),
        (r'"\ud800"', "surrogates not allowed"),
        ("", "Expecting value"),
    ],
    ids=range(6),
)
def test_what_no_part_of_the_program_could_handle_is_a_value_error(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_file_that_is_no_text_is_a_value_error(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError):
        read_json(tmp_path / "x.json")
