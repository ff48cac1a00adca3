"""Every format and compression; broken records named, counted, skipped or refused; going on from any place."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from muloco.data.errors import Skipped
from muloco.data.readers import PIECE_BYTES
from muloco.data.sources import Files, Hub, open_source, read_texts
from muloco.errors import UserError

pytestmark = pytest.mark.usefixtures("offline")

TEXTS = [f"Text {number}: größer,\n東京 😀 " + "x" * (7 * number) for number in range(40)]


def plain(data: bytes) -> bytes:
    return data


def frames(data: bytes) -> bytes:
    """Zstandard files may be of several frames."""
    return zstandard.compress(data[:500]) + zstandard.compress(data[500:])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": plain, ".gz": gzip.compress, ".zst": frames}


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": 7, field: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def write_parquet(path: Path, texts: list, field: str = "text") -> None:
    table = pyarrow.table({"id": list(range(len(texts))), field: texts})
    pyarrow.parquet.write_table(table, path, row_group_size=17)


def read(path: Path | str, field: str = "text", strict: bool = False) -> tuple[list[str], Skipped]:
    skipped = Skipped(strict=strict)
    return list(read_texts(open_source(str(path), field), skipped)), skipped


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("field", ["text", "content"])
def test_jsonl(tmp_path: Path, compression: str, field: str) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(COMPRESSIONS[compression](jsonl(TEXTS, field)))
    texts, skipped = read(path, field)
    assert texts == TEXTS and skipped.count == 0


def test_jsonl_as_others_write_it(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, blank lines, no newline at the end, escapes."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "\\u00e4\\ud83d\\ude00"}')
    texts, skipped = read(path, strict=True)
    assert texts == ["a", "ä😀"] and skipped.count == 0


def test_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", TEXTS, "content")
    assert read(tmp_path / "a.parquet", "content")[0] == TEXTS


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_text_files_are_cut_into_pieces(tmp_path: Path, compression: str) -> None:
    """Together the pieces are the file; they end at blank lines, at lines, or else between characters."""
    for name, whole in {
        "paragraphs": "".join(f"Absatz {n}\n{'ü' * 300}\n\n" for n in range(200)),
        "lines": "".join(f"Zeile {n} {'ü' * 300}\n" for n in range(200)),
        "none": "😀" * 20_000,
        "short": "ein Satz",
    }.items():
        path = tmp_path / f"{name}.txt{compression}"
        path.write_bytes(COMPRESSIONS[compression](whole.encode()))
        pieces, skipped = read(path, strict=True)
        assert "".join(pieces) == whole and skipped.count == 0
        assert all(0.5 * PIECE_BYTES - 8 <= len(piece.encode()) <= PIECE_BYTES for piece in pieces[:-1])
        ends = {"paragraphs": "\n\n", "lines": "\n"}.get(name, "")
        assert all(piece.endswith(ends) for piece in pieces)
        assert len(pieces) == 1 or name != "short"


def test_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate(["b/2.jsonl", "b/10.txt", "a.parquet", "c.jsonl.zst", ".hidden/d.jsonl", ".e.jsonl"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith("parquet"):
            write_parquet(path, [name])
        else:
            data = name.encode() if name.endswith("txt") else jsonl([name])
            path.write_bytes(zstandard.compress(data) if name.endswith("zst") else data)
        os.utime(path, (number, number))
    assert read(tmp_path)[0] == ["a.parquet", "b/10.txt", "b/2.jsonl", "c.jsonl.zst"]


BAD_LINES = {
    b'{"text": "cut': "not JSON",
    b'["text"]': "list, not an object with a field 'text'",
    b'{"txt": "a", "id": 1}': "no field 'text'; it has: txt, id",
    b'{"text": 5}': "field 'text' is int, not a text",
    b'{"text": null}': "field 'text' is NoneType, not a text",
    b'{"text": " \\n"}': "the text is empty",
    b'{"text": "\\ud83d"}': "half of a surrogate pair",
    b'{"text": "gr\xf6\xdfer"}': "not UTF-8 (byte 12 of the line)",
    b"[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:12].decode("latin-1"))
def test_bad_lines_are_named_counted_and_skipped_or_refused(tmp_path: Path, caplog, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join([b'{"text": "one"}\n', b"\n", line, b'\n{"text": "two"}\n']))
    texts, skipped = read(path)
    assert texts == ["one", "two"] and skipped.count == 1
    assert f"skipped {path}, line 3: " in caplog.text and BAD_LINES[line] in caplog.text
    with pytest.raises(UserError, match="line 3: .*; data.strict refuses what is skipped"):
        read(path, strict=True)


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def spoiled(data: bytes) -> bytes:
    return data[:20] + b"garbage!" * 4 + data[52:]


LONG = jsonl([os.urandom(600).hex() for _ in range(400)])
BAD_FILES = {
    "empty.jsonl": (b"", "an empty file"),
    "empty.txt": (b"", "an empty file"),
    "blank.txt": (b" \n\n", "an empty file"),
    "blank.jsonl": (b"\n\n", "an empty file"),
    "empty.jsonl.gz": (gzip.compress(b""), "an empty file"),
    "empty.jsonl.zst": (b"", "an empty file"),
    "cut.jsonl.zst": (cut_off(zstandard.compress(LONG)), "cut off inside a Zstandard frame"),
    "cut.jsonl.gz": (cut_off(gzip.compress(LONG)), "not gzip, damaged or cut off"),
    "spoiled.jsonl.zst": (spoiled(zstandard.compress(LONG)), "Zstandard"),
    "spoiled.jsonl.gz": (spoiled(gzip.compress(LONG)), "not gzip, damaged or cut off"),
    "no.jsonl.zst": (LONG, "not Zstandard, or damaged"),
    "no.jsonl.gz": (LONG, "not gzip, damaged or cut off"),
    "no.parquet": (LONG, "not parquet, or damaged"),
    "empty.parquet": (b"", "not parquet, or damaged"),
    "latin.txt": ("größer".encode("latin-1"), "not UTF-8 (byte 2 of the piece)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_counted_and_skipped_or_refused(tmp_path: Path, caplog, name: str) -> None:
    """What can be read of them is; the files after them are read."""
    data, reason = BAD_FILES[name]
    (tmp_path / "0.jsonl").write_bytes(jsonl(["first"]))
    (tmp_path / name).write_bytes(data)
    (tmp_path / "z.jsonl").write_bytes(jsonl(["last"]))
    texts, skipped = read(tmp_path)
    assert texts[0] == "first" and texts[-1] == "last" and skipped.count == 1
    assert str(tmp_path / name) in caplog.text and reason in caplog.text
    expected = [json.loads(line)["text"] for line in LONG.splitlines()]
    assert texts[1:-1] == expected[: len(texts) - 2]
    assert (len(texts) > 100) == (name in ("cut.jsonl.zst", "cut.jsonl.gz"))
    with pytest.raises(UserError, match="data.strict refuses"):
        read(tmp_path, strict=True)


def test_bad_rows_of_parquet(tmp_path: Path, caplog) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, "", "two"])
    texts, skipped = read(tmp_path / "a.parquet")
    assert texts == ["one", "two"] and skipped.count == 2
    assert "row 2: field 'text' is NoneType" in caplog.text and "row 3: the text is empty" in caplog.text
    write_parquet(tmp_path / "b.parquet", [1, 2])
    assert read(tmp_path / "b.parquet")[1].count == 2
    write_parquet(tmp_path / "c.parquet", ["a"], "content")
    with pytest.raises(UserError, match="no column 'text'; it has: id, content"):
        read(tmp_path / "c.parquet", strict=True)


def test_many_bad_records_are_not_all_named(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 500 + jsonl(["good"]))
    texts, skipped = read(tmp_path / "a.jsonl")
    assert texts == ["good"] and skipped.count == 500
    assert len(caplog.records) == Skipped.NAMED + 1
    assert str(skipped).startswith(f"skipped 500 (first: {tmp_path / 'a.jsonl'}, line 1: not JSON")


def test_foreign_files(tmp_path: Path, caplog) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(["a"]))
    (tmp_path / "README.md").write_text("hello")
    texts, skipped = read(tmp_path)
    assert texts == ["a"] and skipped.count == 1 and "README.md: not a file that can be read (.jsonl, " in caplog.text
    with pytest.raises(UserError, match="README.md"):
        read(tmp_path, strict=True)
    with pytest.raises(UserError, match=r"README.md: no file that can be read; a file ends in .jsonl, .jsonl.gz"):
        open_source(str(tmp_path / "README.md"), "text")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match="no file that can be read; it holds README.md; a file ends in"):
        open_source(str(tmp_path), "text")
    with pytest.raises(UserError, match="there is no file or folder .*nowhere; a corpus is a path, embedded, or hf:"):
        open_source(str(tmp_path / "nowhere"), "text")


def test_a_file_that_the_disk_does_not_give_is_never_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(["a"]))
    source = open_source(str(tmp_path), "text")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(UserError, match=r"a.jsonl cannot be read: .*No such file"):
        list(read_texts(source, Skipped(strict=False)))


def many_files(folder: Path) -> Path:
    """One file of each kind, with an empty one, a broken one and bad lines among them."""
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(jsonl(TEXTS[:10]) + b"{\n\n" + jsonl(TEXTS[10:12]))
    (folder / "b.jsonl").write_bytes(b"")
    (folder / "c.jsonl.zst").write_bytes(cut_off(zstandard.compress(LONG)))
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(jsonl(TEXTS)))
    (folder / "e.txt").write_text("Zeile\n" * 20_000)
    write_parquet(folder / "f.parquet", TEXTS)
    return folder


def hub_folder(folder: Path) -> str:
    folder.mkdir()
    for number in range(3):
        (folder / f"train-{number}.jsonl").write_bytes(jsonl([f"{number} {text}" for text in TEXTS * 18]))
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["files", "hub", "embedded"])
def test_every_place_can_be_gone_on_from(tmp_path: Path, kind: str) -> None:
    name = {"files": lambda: str(many_files(tmp_path / "m")), "hub": lambda: hub_folder(tmp_path / "h")}.get(
        kind, lambda: "embedded"
    )()
    source = open_source(name, "text")

    def rest(place: dict | None) -> list[tuple[str, dict]]:
        records = source.read(Skipped(strict=False), place)
        return [(record.where, json.loads(json.dumps(record.place))) for record in records]

    whole = rest(None)
    count = len(whole)
    assert count > 100
    for at in sorted({0, 1, 11, 12, 13, count // 3, count // 2, 500, 501, 1000, count - 1} & set(range(count))):
        place = whole[at][1]
        assert [where for where, _ in rest(place)] == [where for where, _ in whole[at:]], at


def test_hub_names_and_their_mistakes(tmp_path: Path) -> None:
    name = hub_folder(tmp_path / "h")
    texts, skipped = read(name)
    assert texts == [f"{number} {text}" for number in range(3) for text in TEXTS * 18] and skipped.count == 0
    assert read(f"{name}:default@train")[0] == texts
    with pytest.raises(UserError, match="Bad split: test"):
        read(f"{name}@test")
    with pytest.raises(UserError, match="'other' not found"):
        read(f"{name}:other")
    with pytest.raises(UserError, match="has no field 'content'; it has: id, text"):
        read(name, "content")
    with pytest.raises(UserError, match="nobody/nothing"):
        read("hf:nobody/nothing")
    for bad in ("hf:", "hf:a@", "hf:a:b:c", "hf:a", "hf:a/", "hf:a/b/c", "hf:a b/c"):
        with pytest.raises(UserError, match="write hf:OWNER/NAME"):
            Hub(bad, "text")


def test_keys_follow_the_files_and_identities_the_copies(tmp_path: Path) -> None:
    def make(folder: str) -> Files:
        path = tmp_path / folder / "texts"
        path.mkdir(parents=True, exist_ok=True)
        (path / "a.jsonl").write_bytes(jsonl(["a"]))
        os.utime(path / "a.jsonl", ns=(5, 5))
        return Files(str(path), "text")

    one, copy = make("one"), make("copy")
    assert one.identity == copy.identity and one.key != copy.key and one.key == make("one").key
    assert Files(str(tmp_path / "one" / "texts"), "content").key != one.key
    os.utime(tmp_path / "one" / "texts" / "a.jsonl", ns=(6, 6))
    touched = Files(str(tmp_path / "one" / "texts"), "text")
    assert touched.key != one.key and touched.identity == one.identity
    (tmp_path / "one" / "texts" / "b.jsonl").write_bytes(jsonl(["b"]))
    assert Files(str(tmp_path / "one" / "texts"), "text").identity != one.identity
