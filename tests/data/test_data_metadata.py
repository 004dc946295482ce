"""Caption tables: CSV, JSON Lines and Parquet, what is wrong with their rows, and what a scan makes of them."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import colours, image_set, run_settings, scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpletune.config.settings import ImageSet
from simpletune.data.captions.metadata import Metadata, needs_metadata, open_metadata
from simpletune.data.preflight import preflight
from simpletune.data.sources import SourceError

FOX = "file_name,caption\nfox.png,a red fox\n"


def table(folder: Path, content: str | bytes, kind: str = "csv", **changes: object) -> ImageSet:
    path = folder / f"captions.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return image_set(folder / "pictures", caption_strategy=kind, metadata_path=path, **changes)


def opened(folder: Path, content: str | bytes, kind: str = "csv", **changes: object) -> Metadata:
    return open_metadata(table(folder, content, kind, **changes))


def parquet(folder: Path, columns: dict[str, list[object]], **changes: object) -> ImageSet:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), folder / "captions.parquet", row_group_size=2)
    values = {"caption_strategy": "parquet", "metadata_path": folder / "captions.parquet", **changes}
    return image_set(folder / "pictures", **values)


def told(metadata: Metadata, *names: str) -> dict[str, tuple[str, ...]]:
    return {remark.message: remark.examples for remark in metadata.remarks(names)}


def refusal(folder: Path, content: str | bytes, kind: str = "csv", **changes: object) -> str:
    with pytest.raises(SourceError) as caught:
        opened(folder, content, kind, **changes)
    return f"{caught.value.message} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (FOX, "a red fox"),
        ("\ufeff" + FOX, "a red fox"),
        (FOX.replace("\n", "\r\n"), "a red fox"),
        (FOX.replace("\n", "\r"), "a red fox"),
        (FOX.rstrip("\n"), "a red fox"),
        ("file_name;caption\nfox.png;a fox, red, on grass\n", "a fox, red, on grass"),
        ("file_name\tcaption\nfox.png\ta fox, red; on grass\n", "a fox, red; on grass"),
        ("file_name,caption\nfox.png,a\0fox\n", "a fox"),
        ("sep=;\nfile_name;caption\nfox.png;a fox\n", "a fox"),
        (FOX.encode("utf-16"), "a red fox"),
        (FOX.encode("utf-16-be"), "a red fox"),
        ('caption,file_name\n"a ""red"" fox, on\na lawn",fox.png\n', 'a "red" fox, on a lawn'),
        ('file_name, caption\nfox.png, "a fox, red"\n', "a fox, red"),
        ("\nImage,width,Text\n\nfox.png,3,a fox\n,,\n", "a fox"),
        ("file_name,caption,\nfox.png,a fox,\n", "a fox"),
        ("file_name,caption,licence\nfox.png,a fox\n", "a fox"),
        ("file_name,caption,text\nfox.png,a fox,not this\n", "a fox"),
        (f"file_name,junk,caption\nfox.png,{'x' * 300_000},a fox\n", "a fox"),
        ("file_name,caption\nfox.png,b\u00e4r 😀\n", "bär 😀"),
        ("file_name,caption\nfox.png," + "word " * 10_000 + "\n", "word " * 9_999 + "word"),
    ],
)
def test_csv(tmp_path, content, caption):
    metadata = opened(tmp_path, content)
    assert metadata.captions("fox.png") == (caption,)
    assert metadata.captions("cat.png") is None
    assert not metadata.remarks(["fox.png"])


@pytest.mark.parametrize(
    ("line", "captions"),
    [
        ('{"file_name": "fox.png", "text": "a fox"}', ("a fox",)),
        ('{"image": "fox.png", "description": " a\\n fox "}', ("a fox",)),
        ('\ufeff{"file_name": "fox.png", "prompt": "a fox", "text": "no"}', ("no",)),
        ('{"file_name": "fox.png", "caption": ["a fox", null, "red", "a fox", ""]}', ("a fox", "red")),
        ('{"file_name": "fox.png", "caption": null}', ()),
        ('{"file_name": "fox.png", "caption": "half a \\ud83d"}', ("half a \ufffd",)),
    ],
)
def test_jsonl(tmp_path, line, captions):
    assert opened(tmp_path, f"{line}\r\n\n", "jsonl").captions("fox.png") == captions


def test_parquet(tmp_path):
    names = [f"{number}.png" for number in range(5)]
    columns = {"bytes": [b"x"] * 5, "file_name": names, "caption": [["a", "b"], ["c"], None, [], ["a", None]]}
    metadata = open_metadata(parquet(tmp_path, columns))
    assert [metadata.captions(name) for name in names] == [("a", "b"), ("c",), (), (), ("a",)]
    columns = {"image": [b"x"], "path": ["fox.png"], "Text": ["a fox"]}
    assert open_metadata(parquet(tmp_path, columns)).captions("fox.png") == ("a fox",)


def test_parquet_rows_are_numbered_in_order(tmp_path):
    columns = {"file_name": [f"{n}.png" for n in range(5)], "caption": [1, 2, 3, 4, 5]}
    with pytest.raises(SourceError, match=r"captions\.parquet row 1: the caption is a number, not text"):
        open_metadata(parquet(tmp_path, columns, caption_column="caption"))
    columns = {"file_name": ["a.png", None, "b.png", "", "c.png"], "caption": ["a"] * 5}
    found = told(open_metadata(parquet(tmp_path, columns)), "a.png", "b.png", "c.png")
    assert found == {
        "2 rows of captions.parquet: not usable": (
            "captions.parquet row 2: the file name is missing, not text",
            "captions.parquet row 4: no file name",
        )
    }


def test_a_damaged_parquet_file_and_a_missing_package(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    assert "captions.parquet can't be read" in refusal(tmp_path, b"PAR1 and then nothing", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'simpletune[parquet]'" in refusal(tmp_path, b"", "parquet")


def test_columns_by_name(tmp_path):
    content = "key,long,short,w,h\nfox.png,a red fox on a lawn,fox,640,480\ncat.png,a cat,,x,480\n"
    columns = {"filename_column": "key", "caption_column": ("short", "long")}
    metadata = opened(tmp_path, content, **columns, width_column="w", height_column="h")
    assert metadata.captions("fox.png") == ("fox", "a red fox on a lawn")
    assert metadata.captions("cat.png") == ("a cat",)
    assert (metadata.size("fox.png"), metadata.size("cat.png"), metadata.size("dog.png")) == ((640, 480), None, None)
    assert list(told(metadata, "fox.png", "cat.png").values()) == [("captions.csv:3: cat.png",)]


@pytest.mark.parametrize(
    ("cell", "width"),
    [("640", 640), (" 640.0 ", 640), ("0", 0), ("-1", 0), ("1e99", 0), ("nan", 0), ("", 0), ("6 4", 0), ("0.5", 0)],
)
def test_sizes(tmp_path, cell, width):
    content = f"file_name,caption,w,h\nfox.png,a fox,{cell},480\n"
    metadata = opened(tmp_path, content, width_column="w", height_column="h")
    assert metadata.size("fox.png") == ((width, 480) if width else None)


def test_sizes_from_json_beside_another_caption_strategy(tmp_path):
    row = {"file_name": "fox.png", "w": 640, "h": 480}
    found = table(tmp_path, json.dumps(row), "jsonl", width_column="w", height_column="h")
    named = replace(found, caption_strategy="filename")
    assert needs_metadata(named)
    assert open_metadata(named).size("fox.png") == (640, 480)
    assert not needs_metadata(replace(named, width_column=None))
    assert not needs_metadata(replace(table(tmp_path, FOX), only_instance_prompt=True))


@pytest.mark.parametrize(
    "name",
    ["sub/fox.png", "./sub/fox.png", "sub\\fox.png", "sub//./fox.png", "../pictures/sub/fox.png", "a/../sub/fox.png"],
)
def test_names_are_normalised(tmp_path, name):
    metadata = opened(tmp_path, f"file_name,caption\n{name},a fox\n")
    assert metadata.captions("sub/fox.png") == ("a fox",)
    assert metadata.unused(["sub/fox.png"]) == []


def test_absolute_names_inside_the_folder_and_through_a_link(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    rows = f"{tmp_path}/pictures/fox.png,a fox\n{tmp_path}/link/cat.png,a cat\n"
    named = table(tmp_path, f"file_name,caption\n{rows}")
    metadata = open_metadata(replace(named, instance_data_dir=tmp_path / "link"))
    assert metadata.captions("fox.png") == ("a fox",)
    assert metadata.captions("cat.png") == ("a cat",)


def test_names_in_a_bucket(tmp_path):
    rows = "s3://b/pics/fox.png,a fox\ncat.png,a cat\n/dog.png,a dog\n../cow.png,a cow\n"
    named = table(tmp_path, f"file_name,caption\n{rows}")
    metadata = open_metadata(replace(named, type="s3", instance_data_dir=None, s3_url="s3://b/pics/"))
    assert metadata.unused(["fox.png", "cat.png"]) == []
    assert list(told(metadata, "fox.png", "cat.png").values()) == [
        ("captions.csv:4: /dog.png", "captions.csv:5: ../cow.png")
    ]


def test_names_that_are_spelt_otherwise(tmp_path):
    metadata = opened(tmp_path, "file_name,caption\nba\u0308r.png,one\n".encode() + b"h\xe4r.png,two\n")
    assert metadata.captions("b\u00e4r.png") == ("one",)
    assert metadata.captions("ba\u0308r.png") == ("one",)
    assert metadata.captions("h\u00e4r.png") == ("two",)
    assert metadata.captions("h\udce4r.png") == ("two",)  # as a folder's listing gives a name of Latin-1 bytes


def test_rows_outside_the_data_set_are_named_and_never_read(tmp_path, monkeypatch):
    outside = ["../secret.png", "/etc/passwd", "C:\\Windows\\fox.png", "a/../../b.png", "..", "/", "."]
    rows = "".join(f"{name},x\n" for name in outside)
    named = table(tmp_path, f"{FOX}{rows}")
    reached, really = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args, **keys: reached.append(path) or really(path, *args, **keys))
    metadata = open_metadata(named)
    assert set(reached) == {tmp_path / "captions.csv"}
    assert metadata.unused(["fox.png"]) == []
    (message, examples) = next(iter(told(metadata, "fox.png").items()))
    assert message == "7 rows of captions.csv: left out, as the file named is outside the data set"
    assert examples[0] == "captions.csv:3: ../secret.png"


def test_several_rows_of_a_picture(tmp_path):
    content = f"{FOX}fox.png,a fox at dusk\n./fox.png,a red fox\nfox.png,\n"
    metadata = opened(tmp_path, content)
    assert metadata.captions("fox.png") == ("a red fox", "a fox at dusk")
    message = "3 rows of captions.csv: for a picture that had one already; each different caption counts"
    assert told(metadata, "fox.png")[message][0] == "captions.csv:3: fox.png"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['bad.png,"a quote', "cat.png,a cat"], "captions.csv:3: a quote that is never closed"),
        (['bad.png,"a" b', "cat.png,a cat"], "captions.csv:3: a quote inside a quoted cell; it must be doubled"),
        (["bad.png,a,b,c", "cat.png,a cat"], "captions.csv:3: 4 cells in a table of 2 columns"),
        ([",a caption", "cat.png,a cat"], "captions.csv:3: no file name"),
        ([f"bad.png,{'x' * (1 << 21)}", "cat.png,a cat"], "captions.csv:3: a cell of over 1 MiB"),
        ([f"bad.png,{'x' * (5 << 20)}", "cat.png,a cat"], "captions.csv:3: a line of over 4 MiB"),
        (['bad.png,"a', f"{'x' * (5 << 20)}", "cat.png,a cat"], "captions.csv:3: a line of over 4 MiB"),
        (['bad.png,"a', *["x.png,y"] * 1500, "cat.png,a cat"], "captions.csv:3: a quote that is never closed"),
    ],
)
def test_a_bad_line_costs_only_itself(tmp_path, lines, said):
    metadata = opened(tmp_path, FOX + "\n".join(lines) + "\n")
    assert metadata.captions("fox.png") == ("a red fox",)
    assert metadata.captions("cat.png") == ("a cat",)
    assert metadata.captions("bad.png") is None
    examples = next(examples for message, examples in told(metadata).items() if "not usable" in message)
    assert examples[0].startswith(said)


def test_lines_after_several_open_quotes_keep_their_numbers(tmp_path):
    content = FOX + 'a.png,"x\nb.png,b\nc.png,"y\nd.png,"two\nlines"\ne.png,"z\nf.png,1,2\n'
    metadata = opened(tmp_path, content)
    assert metadata.captions("b.png") == ("b",)
    assert metadata.captions("d.png") == ("two lines",)
    message, examples = next(iter(told(metadata, "fox.png", "b.png", "d.png").items()))
    assert message == "4 rows of captions.csv: not usable"
    assert [example.split(":")[1] for example in examples] == ["3", "5", "8"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "a.png"', "not JSON: Expecting ',' delimiter (column 22)"),
        ("[1]", "not an object in braces"),
        ('{"file_name": "a.png", "alt": "x"}', 'no caption, text, prompt or description in it; there is "file_name"'),
        ('{"name": "a.png", "text": "x"}', 'no file_name, filename, file, path or image in it; there is "name"'),
        ('{"file_name": "a.png", "text": 3}', "the caption is a number, not text"),
        ('{"file_name": "a.png", "text": {}}', "the caption is an object, not text"),
        ('{"file_name": ["a.png"], "text": "x"}', "the file name is a list, not text"),
        ("[" * 100_000, "not JSON"),
        ('{"file_name": "a.png", "text": "' + "x" * (5 << 20), "a line of over 4 MiB"),
    ],
)
def test_bad_lines_of_json(tmp_path, line, said):
    metadata = opened(tmp_path, f'{{"file_name": "fox.png", "text": "a fox"}}\n{line}\n', "jsonl")
    (message, examples) = next(iter(told(metadata, "fox.png").items()))
    assert message == "1 row of captions.jsonl: not usable"
    assert examples[0].startswith(f"captions.jsonl:2: {said}")


def test_lines_that_are_not_utf8(tmp_path):
    metadata = opened(tmp_path, FOX.encode() + b"cat.png,ein B\xe4r\ndog.png,a dog\n")
    assert metadata.captions("cat.png") == ("ein Bär",)
    message = "1 row of captions.csv: not UTF-8, read as Latin-1 (Windows-1252)"
    assert told(metadata, "fox.png", "cat.png", "dog.png") == {message: ("captions.csv:3",)}


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("", "csv", "captions.csv is empty"),
        ("\n\n", "jsonl", "captions.jsonl is empty"),
        ("file_name,caption\n", "csv", "captions.csv has no rows"),
        ("a.png,a cat\nb.png,a dog\n", "csv", 'there is "a.png", "a cat"'),
        ("file_name,notes\na.png,x\n", "csv", "no column named caption, text, prompt or description"),
        ("name,caption\na.png,x\n", "csv", 'set "filename_column"'),
        ("file_name,caption\n../a.png,x\n", "csv", "as the files named are outside the data set"),
        ('{"file_name": "a.png", "text": "x"}\n', "csv", "captions.csv has no column named"),
        (FOX, "jsonl", "none of 2 rows of captions.jsonl can be used: captions.jsonl:1: not JSON"),
        ("file_name,caption\na.png,b,c\n", "csv", "3 cells in a table of 2 columns"),
    ],
)
def test_a_table_that_can_not_be_used(tmp_path, content, kind, said):
    assert said in refusal(tmp_path, content, kind)


def test_a_column_that_is_not_there(tmp_path):
    said = refusal(tmp_path, FOX, caption_column="captoin")
    assert 'no column "captoin"; did you mean "caption"?' in said
    assert 'there is "file_name", "caption"' in said
    assert "no column" in refusal(tmp_path, FOX, filename_column="key")
    assert "no column" in refusal(tmp_path, FOX, width_column="w", height_column="h")
    line = '{"file_name": "a.png", "text": "x"}'
    assert 'no "alt"' in refusal(tmp_path, line, "jsonl", caption_column="alt")


def test_files_that_can_not_be_opened(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(SourceError, match="can't be read"):
            open_metadata(image_set(tmp_path, caption_strategy="csv", metadata_path=path))


def test_names_cannot_disturb_a_terminal(tmp_path):
    content = 'file_name,caption\n"\x1b[31m../red\n.png",x\n"../\x1b[2Jx",y\n'
    said = " ".join(example for examples in told(opened(tmp_path, content)).values() for example in examples)
    assert said.isprintable()


def test_files_written_by_the_captioner(tmp_path):
    lines = [{"file_name": f"sub/{number}.jpg", "text": f"picture {number}"} for number in range(3)]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    metadata = opened(tmp_path, content, "jsonl")
    assert metadata.captions("sub/2.jpg") == ("picture 2",)


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(rows=st.dictionaries(names, st.text(max_size=40).filter(str.strip), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_csv_writers_write_is_read(tmp_path, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(
        [("file_name", "caption"), *((f"{number} {name}.png", rows[name]) for number, name in enumerate(rows))]
    )
    path = tmp_path / "captions.csv"
    path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    metadata = open_metadata(image_set(tmp_path, caption_strategy="csv", metadata_path=path))
    assert not [remark for remark in metadata.remarks([]) if "not usable" in remark.message]


@given(data=st.binary(max_size=300), kind=st.sampled_from(["csv", "jsonl"]))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_can_break_the_reader(tmp_path, data, kind):
    head = b"" if kind == "jsonl" else b"file_name,caption\n"
    try:
        metadata = opened(tmp_path, head + data, kind)
    except SourceError:
        return
    for name in metadata.unused([]):
        assert metadata.captions(name) is not None


def test_scans_take_captions_from_a_table(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("fox.png", "cat.png", "dog.png"):
        colours(64, 64).save(pictures / name)
    (pictures / "empty.png").touch()
    rows = "cat.png,a cat\ncat.png,a tabby\ncow.png,a cow\ndog.png,\nempty.png,there\nbroken,1,2\n"
    result = scan(table(tmp_path, FOX + rows), 16, 1)
    assert [(sample.name, sample.captions) for sample in result.samples] == [
        ("cat.png", ("a cat", "a tabby")),
        ("fox.png", ("a red fox",)),
    ]
    details = {one.name: one.detail for one in result.excluded}
    assert list(details) == ["dog.png", "empty.png"]
    assert details["dog.png"] == "no caption in its row of captions.csv"
    assert [remark.message for remark in result.remarks] == [
        "1 row of captions.csv: not usable",
        "1 row of captions.csv: for a picture that had one already; each different caption counts",
        "1 row of captions.csv: no such picture",
    ]
    (pictures / "new.png").write_bytes((pictures / "fox.png").read_bytes())
    assert scan(table(tmp_path, FOX), 16, 1).excluded[-1].detail == "no row in captions.csv"


def test_the_report_before_training_names_the_table_once(tmp_path):
    (tmp_path / "pictures").mkdir()
    colours(64, 64).save(tmp_path / "pictures" / "fox.png")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "multidatabackend.json").write_text('[{\n"id": "pictures",\n"metadata_path": "captions.csv"}]')
    paths = {name: tmp_path / f"{name}.json" for name in ("config", "multidatabackend")}
    files = {"config_path": paths["config"], "data_backend_config": paths["multidatabackend"]}

    report = preflight(run_settings(table(tmp_path, f"{FOX}cow.png,a cow\n"), train_batch_size=1, **files))
    (problem,) = report.problems
    assert (problem.path, problem.line, problem.severity) == ("0.metadata_path", 3, "warning")
    assert "1 row of captions.csv: no such picture" in problem.message
    assert "cow.png" in (problem.hint or "")
    assert sum("no such picture" in line for line in report.lines()) == 1

    report = preflight(run_settings(table(tmp_path, ""), **files))
    assert [(problem.path, problem.severity) for problem in report.problems] == [("0.metadata_path", "error")]


def test_rows_may_leave_the_extension_out(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("file_name,caption\n0001,a fox\nsub/0002,a cat\nv1.5,a version\n0003.png,a dog\n0003,another\n")
    table = open_metadata(image_set(tmp_path, caption_strategy="csv", metadata_path=path))
    names = ["0001.png", "sub/0002.jpg", "v1.5.webp", "0003.png"]
    assert [table.captions(name) for name in names] == [("a fox",), ("a cat",), ("a version",), ("a dog",)]
    assert table.captions("0002.jpg") is None
    assert table.remarks(names) == ()
