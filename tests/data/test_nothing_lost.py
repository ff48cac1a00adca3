"""Data is not left out without a word: folders, links, files and encodings that cannot be read."""

import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from muloco.cli import main
from muloco.data.errors import Skipped
from muloco.data.readers import PIECE_BYTES
from muloco.data.sources import open_source, read_texts
from muloco.errors import UserError

from .test_sources import COMPRESSIONS, jsonl, read


def names(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts, which name their files, and what is left out, below the folder."""
    source = open_source(str(path), "text")
    texts = list(read_texts(source, skipped := Skipped(strict=False, quiet=True)))
    assert skipped.count == len(source.left_out)
    if source.left_out:
        with pytest.raises(UserError, match=r"data\.strict refuses"):
            list(read_texts(source, Skipped(strict=True)))
    return texts, [(Path(where).relative_to(path).as_posix(), reason) for where, reason in source.left_out]


def write(path: Path, text: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonl([text or path.name]))
    return path


def refused(path: Path | str) -> str:
    with pytest.raises(UserError) as refusal:
        open_source(str(path), "text")
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def fail(function: Callable, at: Path) -> Callable:
    """`function`, to which the system says no at one path. (It never does so to root.)"""

    def failing(path, *args, **kwargs):
        if Path(path) == at:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return function(path, *args, **kwargs)

    return failing


@pytest.mark.parametrize("below", ["", "closed", "a/closed"])
def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    write(tmp_path / "a" / "1.jsonl")
    closed = tmp_path / below
    closed.mkdir(exist_ok=True)
    monkeypatch.setattr(os, "scandir", fail(os.scandir, closed))
    assert refused(tmp_path) == f"{closed} cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["", "b.jsonl"])
def test_a_file_that_may_not_be_read_is_refused_before_anything_is(tmp_path: Path, monkeypatch, name: str) -> None:
    write(tmp_path / "a.jsonl")
    closed = write(tmp_path / "b.jsonl")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    assert refused(tmp_path / name) == f"{closed} cannot be read: Permission denied"


def test_a_file_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = write(tmp_path / "b.jsonl")
    monkeypatch.setattr(Path, "open", fail(Path.open, closed))
    with pytest.raises(UserError, match=f"{closed} cannot be read: Permission denied"):
        read(tmp_path)


def test_links_are_followed_and_every_folder_read_once(tmp_path: Path) -> None:
    """To a folder outside, to one inside, twice to the same, to one below another link, and to a file."""
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    write(corpus / "inside" / "1.jsonl")
    write(outside / "2.jsonl")
    write(outside / "deep" / "3.jsonl")
    write(tmp_path / "4.jsonl")
    (corpus / "A").symlink_to(outside)
    (corpus / "B").symlink_to(corpus / "inside")
    (corpus / "C").symlink_to(outside)
    (corpus / "inside" / "D").symlink_to(outside / "deep")
    (corpus / "link.jsonl").symlink_to(tmp_path / "4.jsonl")
    texts, left_out = names(corpus)
    assert texts == ["2.jsonl", "3.jsonl", "1.jsonl", "4.jsonl"]
    assert dict(left_out) == {
        "B": f"the folder {corpus / 'inside'}, which is read under that name",
        "C": f"the folder {corpus / 'A'}, which is read under that name",
        "inside/D": f"the folder {corpus / 'A' / 'deep'}, which is read under that name",
    }


def test_a_link_to_a_folder_that_it_lies_in(tmp_path: Path) -> None:
    """It would bring what lies beside the corpus."""
    write(tmp_path / "beside.jsonl")
    write(tmp_path / "corpus" / "a" / "1.jsonl")
    (tmp_path / "corpus" / "a" / "up").symlink_to(tmp_path)
    assert names(tmp_path / "corpus") == (
        ["1.jsonl"],
        [("a/up", "a circular link, to a folder that contains it")],
    )


@pytest.mark.parametrize("name", ["lost.jsonl", "lost"])
def test_broken_and_circular_links(tmp_path: Path, name: str) -> None:
    write(tmp_path / "corpus" / "1.jsonl")
    link = tmp_path / "corpus" / name
    link.symlink_to("/nowhere/at/all")
    message = f"{link} is a broken link: /nowhere/at/all does not exist; restore it, or remove the link"
    assert refused(tmp_path / "corpus") == refused(link) == message
    link.unlink()
    link.symlink_to(name)
    assert refused(tmp_path / "corpus") == refused(link) == f"{link} is a circular link; remove it"


def test_what_is_no_file(tmp_path: Path) -> None:
    """A named pipe would be waited for."""
    write(tmp_path / "1.jsonl")
    os.mkfifo(tmp_path / "2.jsonl")
    (tmp_path / "notes.md").touch()
    texts, left_out = names(tmp_path)
    assert texts == ["1.jsonl"] and [name for name, _ in left_out] == ["2.jsonl", "notes.md"]
    assert "2.jsonl: no file that can be read" in refused(tmp_path / "2.jsonl")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_what_is_no_path(name: str) -> None:
    assert refused(name).startswith(f"there is no file or folder {name};")


@pytest.mark.parametrize("prepare", ["True", "False"])
def test_the_description_says_what_is_left_out(tmp_path: Path, monkeypatch, capsys, prepare: str) -> None:
    """Also where it has come to a folder that was prepared before; and data.strict refuses it."""
    monkeypatch.setenv("MULOCO_CACHE", str(tmp_path / "cache"))
    texts = [f"text {number} " * 200 for number in range(200)]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_bytes(jsonl(texts))
    words = ["prepare", "config/laptop/muon.py", "--data.corpus", str(tmp_path / "corpus")]
    words += ["--validation.sequences", "8", "--data.prepare", prepare]
    assert main(words) == 0
    assert "README.md" not in capsys.readouterr().out
    (tmp_path / "corpus" / "README.md").touch()
    assert main(words) == 0
    described = [line for line in capsys.readouterr().out.splitlines() if line.startswith("corpus ")]
    assert len(described) == 1 and f"1 {'that hold no text ' * (prepare == 'True')}(first: " in described[0]
    assert f"{tmp_path / 'corpus' / 'README.md'}: not a file that can be read" in described[0]
    assert main([*words, "--data.strict", "True"]) == 2
    assert "README.md" in capsys.readouterr().err


ENCODINGS = {
    "utf-16": "UTF-16LE",  # with a byte order mark
    "utf-32": "UTF-32LE",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_encodings_are_named_and_refused(tmp_path: Path, encoding: str, kind: str, compression: str) -> None:
    text = "Größer: ein Satz, der keiner ist.\n" * 40
    path = tmp_path / f"a.{kind}{compression}"
    path.write_bytes(
        COMPRESSIONS[compression]((text if kind == "txt" else json.dumps({"text": text})).encode(encoding))
    )
    with pytest.raises(UserError) as refusal:
        read(path)
    name = ENCODINGS[encoding]
    assert str(refusal.value) == (
        f"{path} is text in {name}, not UTF-8; convert it (iconv -f {name} -t UTF-8), or remove it"
    )


def test_byte_order_marks_of_big_endian_machines(tmp_path: Path) -> None:
    for mark, name in ((b"\xfe\xff", "UTF-16BE"), (b"\0\0\xfe\xff", "UTF-32BE")):
        (tmp_path / "a.txt").write_bytes(mark + "東京".encode(name))
        with pytest.raises(UserError, match=f"is text in {name}"):
            read(tmp_path / "a.txt")


NULS = {
    "a.jsonl": jsonl(["one", "t\0wo", "three"]),
    "a.jsonl.gz": gzip.compress(jsonl(["one", "t\0wo", "three"])),
    "a.jsonl.zst": zstandard.compress(jsonl(["one", "t\0wo", "three"])),
    "a.txt": b"one\n" + b"x" * PIECE_BYTES + b"\n\0" + b"x" * PIECE_BYTES + b"\nthree",
    "zeros.txt": b"\0" * (2 * PIECE_BYTES) + b"three",
}


@pytest.mark.parametrize("name", NULS)
def test_nuls_are_no_text(tmp_path: Path, caplog, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(NULS[name])
    texts, skipped = read(path)
    assert not any("\0" in text for text in texts) and skipped.count
    assert (texts[0], texts[-1]) == ("one", "three") if "jsonl" in name else True
    assert f"skipped {path}, " in caplog.text and "of the text is NUL" in caplog.text
    with pytest.raises(UserError, match="character . of the text is NUL; a text may not hold NULs"):
        read(path, strict=True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac os"])
def test_text_is_cut_at_blank_lines_whatever_ends_lines(tmp_path: Path, end: str) -> None:
    """At the last one in a piece, else at the last line, never inside a line end."""
    paragraph = end.join(f"line {n} {'ü' * 60}" for n in range(5))
    for name, between in (("paragraphs", end + end), ("lines", end)):
        path = tmp_path / f"{name}.txt"
        whole = between.join(f"{number} {paragraph}" for number in range(400))
        path.write_bytes(whole.encode())
        pieces, _ = read(path, strict=True)
        assert "".join(pieces) == whole and len(pieces) > 10
        for piece, following in zip(pieces, pieces[1:], strict=False):
            assert piece.endswith(between) and not following.startswith(("\r", "\n"))
            assert len((piece + following.split(between)[0] + between).encode()) > PIECE_BYTES
