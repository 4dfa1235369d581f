from pathlib import Path

import pytest

from fireedit.platform.data.corpora import keyed_json, rows


def test_members_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": 1, "a": {"c": []}}')
    assert list(keyed_json.read_object(str(tmp_path / "a.json"), "an object").items()) == [("b", 1), ("a", {"c": []})]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "is not JSON: .*; fetch it again"),
        (b'{"a": "\xff"}', "is not JSON: .*; fetch it again"),
        (b"[]", "found a list; write an object of cats"),
        (b"{}", "found an empty object; write an object of cats"),
        (b'{"cat": {"age": 1, "age": 2}}', "the key 'age' stands twice; fetch it again"),
    ],
)
def test_what_is_no_object_with_single_keys_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(rows.CorpusError, match=f"a.json.*{found}"):
        keyed_json.read_object(str(tmp_path / "a.json"), "an object of cats")
