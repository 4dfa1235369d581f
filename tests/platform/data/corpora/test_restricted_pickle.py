import pickle
from pathlib import Path

import pytest

from fireedit.platform.data.corpora import restricted_pickle, rows


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("burst"),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_things_are_read(tmp_path: Path, protocol: int) -> None:
    plain = [{"a": 1, "b": [2.5, "café", None, True], "c": (1, 2)}, 1 << 70]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(plain, protocol=protocol))
    assert restricted_pickle.read(str(tmp_path / "refs.p")) == plain


def test_the_byte_strings_of_python_2_become_text(tmp_path: Path) -> None:
    (tmp_path / "refs.p").write_bytes(b"\x80\x02]q\x00(U\x05caf\xc3\xa9q\x01U\x02\xff!q\x02e.")
    assert restricted_pickle.read(str(tmp_path / "refs.p")) == ["café", "\ufffd!"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_imports_is_refused_by_name(
    tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs.p").write_bytes(pickle.dumps([Bomb()], protocol=protocol))
    with pytest.raises(rows.CorpusError, match=r"refs.p tries to import \S+, refused: only lists, dicts"):
        restricted_pickle.read(str(tmp_path / "refs.p"))
    assert not (tmp_path / "burst").exists()


def test_os_system_is_named(tmp_path: Path) -> None:
    (tmp_path / "refs.p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(rows.CorpusError, match="tries to import os.system"):
        restricted_pickle.read(str(tmp_path / "refs.p"))


@pytest.mark.parametrize("data", [b"", b"[]", b"\x80\x02]q\x00(K", b"\x80\x02}b.", b"\x80\x02.", b"\xff\xd8"])
def test_damage_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(data)
    with pytest.raises(rows.CorpusError, match="refs.p is not a pickle: .*; fetch it again"):
        restricted_pickle.read(str(tmp_path / "refs.p"))
