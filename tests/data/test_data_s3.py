"""Pictures in a bucket, on a real S3 server: what is found, how much is asked for, and what goes wrong on the way."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from data_helpers import Told, colours, image_set, scan
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from s3_server import SECRET, Relay, S3Server, aws_environment, relay, s3_server

from simpletune.data.scan import Sample
from simpletune.data.scan import scan as scan_source
from simpletune.data.sources import Reason, SourceError, open_source
from simpletune.data.sources.s3 import Bucket
from simpletune.data.sources.s3_client import Patience
from simpletune.data.sources.s3_errors import Where, of_bucket, of_picture, passes

HASTY = Patience(connect=2, silence=0.4, tries=2, first_wait=0.01)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        aws_environment(patch)
        yield


@pytest.fixture(scope="module")
def server(environment: None) -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def way(server: S3Server) -> Iterator[Relay]:
    with relay(server) as made:
        yield made


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    """A bucket's name that no other test has."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:60].strip("-")


def picture(width: int = 80, height: int = 60, seed: int = 0, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    colours(width, height, seed).save(data, kind, **options)
    return data.getvalue()


def but_for_stamp(sample: Sample) -> tuple[object, ...]:
    return sample.name, sample.width, sample.height, sample.captions, sample.placements


def large_jpeg(**options: object) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((400, 300), 90).convert("RGB").save(data, "JPEG", quality=100, **options)
    assert len(data.getvalue()) > 1 << 16
    return data.getvalue()


def test_the_same_pictures_in_a_bucket_and_a_folder_are_the_same_samples(
    server: S3Server, bucket: str, tmp_path: Path
) -> None:
    objects = {
        "a.png": picture(seed=1),
        "a.txt": b"a picture",
        "Sub/deep/B.JPG": picture(120, 60, kind="JPEG"),
        "Sub/deep/B.txt": "zwölf Äpfel".encode(),
        "no caption.png": picture(),
        "empty.png": b"",
        "no words.png": picture(),
        "no words.txt": b"",
        "phone.heic": b"ftypheic",
        "notes.md": b"x",
        "ü 日本 %20+&?#.png": picture(seed=3),
        "ü 日本 %20+&?#.txt": b"odd",
        ".hidden.png": picture(),
        ".thumbs/c.png": picture(),
    }
    folder = tmp_path / "pictures"
    for name, data in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    server.fill(bucket, {f"my set/{name}": data for name, data in objects.items()})
    server.fill(bucket, {"my set/": b"", "my set/Sub/": b"", "other/d.png": picture()})
    values = image_set(folder, caption_strategy="textfile")
    local = scan(values, 16, 1)
    url = f"s3://{bucket}/my set/"
    remote = scan(replace(values, type="s3", s3_url=url, s3_endpoint=server.address), 16, 1)
    assert len(local.samples) == 3
    assert [but_for_stamp(sample) for sample in remote.samples] == [but_for_stamp(sample) for sample in local.samples]
    assert remote.excluded == local.excluded
    assert remote.other == local.other


def test_a_look_at_a_header_asks_for_little(server: S3Server, bucket: str, way: Relay) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    server.fill(
        bucket, {"small.png": picture(), "large.jpg": large_jpeg(), "turned.jpg": large_jpeg(exif=exif.tobytes())}
    )
    values = image_set(type="s3", s3_url=f"s3://{bucket}", s3_endpoint=way.address, caption_strategy="filename")
    found = scan(values, 16, 1)
    assert {sample.name: (sample.width, sample.height) for sample in found.samples} == {
        "small.png": (80, 60),
        "large.jpg": (400, 300),
        "turned.jpg": (300, 400),
    }
    asked = [line.rpartition("/")[2] for line in way.requests]
    assert asked.count("small.png") == 1
    assert asked.count("large.jpg") == 2
    assert asked.count("turned.jpg") == 3


def test_no_text_is_asked_for_that_the_listing_did_not_have(server: S3Server, bucket: str, way: Relay) -> None:
    server.fill(bucket, {"a.png": picture(), "b.png": picture(), "b.txt": b"b", "a.TXT": b"another name"})
    source = Bucket(f"s3://{bucket}", way.address)
    first, second = source.list().files
    assert source.read_text(first, 100) is None
    assert source.read_text(second, 100) == b"b"
    assert not [line for line in way.requests if "a.txt" in line]


def test_reading_and_seeking(server: S3Server, bucket: str) -> None:
    data = bytes(range(256)) * 2000
    server.fill(bucket, {"p/a.jpg": data})
    source = Bucket(f"s3://{bucket}/p", server.address)
    [file] = source.list().files
    assert source.read("a.jpg") == data
    assert source.read_ends(file, 1000) == (data[:1000], data[-8:])
    assert source.read_ends(file, 1 << 20) == (data, data[-8:])
    with source.open("a.jpg") as opened:
        assert opened.seek(-3, io.SEEK_END) == len(data) - 3
        assert opened.read() == data[-3:]
        opened.seek(70_000)
        assert opened.read(300_000) == data[70_000:370_000]
        opened.seek(0)
        assert opened.read() == data
    assert source.location("a.jpg") == f"s3://{bucket}/p/a.jpg"


def test_a_stamp_tells_of_a_change(server: S3Server, bucket: str) -> None:
    server.fill(bucket, {"a.png": picture(seed=1), "a.txt": b"one", "b.png": picture(seed=2)})
    source = Bucket(f"s3://{bucket}", server.address)
    before = {file.name: file for file in source.list().files}
    assert source.stamp("a.png") == before["a.png"].stamp
    server.fill(bucket, {"a.png": picture(seed=7), "a.txt": b"two"})
    after = {file.name: file for file in source.list().files}
    assert source.stamp("a.png") == after["a.png"].stamp != before["a.png"].stamp
    assert after["a.png"].text_stamp != before["a.png"].text_stamp
    assert after["b.png"] == before["b.png"]


def test_a_picture_that_changes_while_it_is_read(server: S3Server, bucket: str) -> None:
    server.fill(bucket, {"a.jpg": b"1" * 200_000})
    source = Bucket(f"s3://{bucket}", server.address)
    with source.open("a.jpg") as file:
        file.read(10)
        server.fill(bucket, {"a.jpg": b"2" * 200_000})
        file.seek(100_000)
        with pytest.raises(OSError, match="changed while it was read"):
            file.read(10)


def test_a_picture_deleted_after_the_listing_is_one_exclusion(server: S3Server, bucket: str) -> None:
    server.fill(bucket, {"a.png": picture(), "b.png": picture()})
    source = Bucket(f"s3://{bucket}", server.address)
    listing = source.list()
    server.client.delete_object(Bucket=bucket, Key="a.png")

    class Late(Bucket):
        def list(self):
            return listing

    found = scan_source(image_set(), Late(source.url, source.endpoint), 16, 1)
    assert [sample.name for sample in found.samples] == ["b.png"]
    assert [(entry.name, entry.reason) for entry in found.excluded] == [("a.png", Reason.CHANGED.value)]


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("s3://no-such-bucket/x", "there is no bucket of that name", "s3_url"),
        ("s3://{bucket}/typo", "there is nothing below that", "spelling"),
        ("s3://No_Bucket!", "no name a bucket can have", "s3://bucket/folder"),
    ],
)
def test_a_wrong_url(server: S3Server, bucket: str, url: str, message: str, hint: str) -> None:
    server.fill(bucket, {"a.png": picture()})
    with pytest.raises(SourceError, match=message) as caught:
        Bucket(url.format(bucket=bucket), server.address, HASTY).list()
    assert hint in caught.value.hint


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"^s3://abc at http://127.0.0.1:9: the server can't be reached$"):
        Bucket("s3://abc", "http://127.0.0.1:9", HASTY).list()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"^s3://abc at http://127.0.0.1:9: the server can't be reached$"):
        Bucket("s3://abc", None, HASTY).list()


def test_without_credentials_a_bucket_open_to_everyone_is_read(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    server.fill(bucket, {"a.png": picture()})
    Bucket("s3://abc", server.address).fetch(told)
    assert not told.notes
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    source = Bucket(f"s3://{bucket}", server.address)
    source.fetch(told)
    assert "no AWS credentials were found" in told.notes[0]
    assert len(source.list().files) == 1


@pytest.mark.parametrize(
    ("variables", "message", "hint"),
    [
        ({"AWS_SECRET_ACCESS_KEY": None}, "half of the credentials is missing", "aws configure"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile that isn't there", "AWS_PROFILE"),
    ],
)
def test_credentials_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], message: str, hint: str
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(SourceError, match=message) as caught:
        Bucket("s3://abc", "http://127.0.0.1:9", HASTY).list()
    assert hint in caught.value.hint


def refusal(code: str, status: int = 403, text: str = "no") -> Exception:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("AccessDenied", "access is denied", "s3:ListBucket"),
        ("InvalidAccessKeyId", "doesn't know the access key", "aws configure"),
        ("SignatureDoesNotMatch", "the secret key doesn't fit", "AWS_ACCESS_KEY_ID"),
        ("ExpiredToken", "have expired", "sign in again"),
        ("RequestTimeTooSkewed", "clock", "set the clock"),
        ("PermanentRedirect", "another region", "AWS_DEFAULT_REGION"),
        ("SomethingNew", "the server refuses .*SomethingNew", "s3_url"),
    ],
)
def test_each_refusal_has_its_sentence(code: str, message: str, hint: str) -> None:
    where = Where("s3://abc/x", None, unsigned=False)
    error = of_bucket(refusal(code), where, 4)
    assert str(error).startswith("s3://abc/x: ")
    with pytest.raises(SourceError, match=message):
        raise error
    assert hint in error.hint


def test_a_refusal_without_credentials_says_so() -> None:
    error = of_bucket(refusal("AccessDenied"), Where("s3://abc", None, unsigned=True), 4)
    assert "no AWS credentials were found" in error.message
    assert "aws configure" in error.hint


def test_what_is_one_picture_only() -> None:
    where = Where("s3://abc", None, unsigned=False)
    assert isinstance(of_picture(refusal("NoSuchKey", 404), where, 4), FileNotFoundError)
    assert isinstance(of_picture(refusal("AccessDenied"), where, 4), PermissionError)
    assert "archived" in str(of_picture(refusal("InvalidObjectState"), where, 4).strerror)
    busy = of_picture(refusal("SlowDown", 503), where, 4)
    assert not isinstance(busy, SourceError)
    assert busy.strerror == "the server was busy or failed (SlowDown), 4 times in a row"
    assert isinstance(of_picture(refusal("ExpiredToken"), where, 4), SourceError)


def test_which_failures_are_tried_again() -> None:
    from botocore import exceptions as botocore

    cut = botocore.ConnectionClosedError(endpoint_url="http://x")
    away = botocore.EndpointConnectionError(endpoint_url="http://x", error="refused")
    late = botocore.ReadTimeoutError(endpoint_url="http://x")
    again = [
        cut,
        away,
        late,
        refusal("SlowDown", 503),
        refusal("Unknown", 500),
        refusal("TooMany", 429),
        TimeoutError(),
    ]
    assert all(passes(error) for error in again)
    untrusted = botocore.SSLError(endpoint_url="http://x", error="self-signed")
    final = [untrusted, botocore.NoCredentialsError(), refusal("AccessDenied"), refusal("NoSuchKey", 404), ValueError()]
    assert not any(passes(error) for error in final)


def test_a_server_that_does_not_know_the_key(server: S3Server, bucket: str) -> None:
    server.fill(bucket, {"a.png": picture()})
    server.check_credentials(True)
    try:
        with pytest.raises(SourceError, match="doesn't know the access key") as caught:
            Bucket(f"s3://{bucket}", server.address, HASTY).list()
    finally:
        server.check_credentials(False)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


@settings(max_examples=30, deadline=None)
@given(before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_secret_is_told(before: str, after: str) -> None:
    told = of_bucket(refusal("SomethingNew", 400, before + SECRET + after), Where("s3://abc", None, False), 4)
    assert SECRET not in told.message + told.hint
    assert told.message.isprintable()


def test_answers_that_come_too_late_or_not_whole_are_asked_for_again(server: S3Server, bucket: str, way: Relay) -> None:
    data = picture(200, 200)
    server.fill(bucket, {"a.png": data})
    source = Bucket(f"s3://{bucket}", way.address, HASTY)
    way.silent = 1
    assert [file.name for file in source.list().files] == ["a.png"]
    way.cut, way.cuts = "a.png", 1
    assert source.read("a.png") == data
    way.silent = 1
    assert source.read("a.png") == data


def test_a_picture_that_never_comes_is_one_rejection(server: S3Server, bucket: str, way: Relay) -> None:
    server.fill(bucket, {f"{number}.png": picture() for number in range(3)})
    source = Bucket(f"s3://{bucket}", way.address, HASTY)
    listing = source.list()

    class Listed(Bucket):
        def list(self):
            return listing

    way.cut, way.cuts = "0.png", 1000
    found = scan_source(image_set(), Listed(source.url, source.endpoint, HASTY), 16, 1)
    assert [(entry.name, entry.detail) for entry in found.excluded] == [
        ("0.png", "the connection was cut off, 2 times in a row")
    ]
    assert [sample.name for sample in found.samples] == ["1.png", "2.png"]


def test_a_server_that_falls_silent_is_given_up(server: S3Server, bucket: str, way: Relay) -> None:
    server.fill(bucket, {"a.png": picture()})
    source = Bucket(f"s3://{bucket}", way.address, replace(HASTY, tries=1, silence=0.05))
    way.silent = 1_000_000
    with pytest.raises(SourceError, match=r"didn't answer in time$"):
        source.list()
    for _ in range(16):
        with pytest.raises(OSError, match=r"didn't answer in time$"):
            source.read("a.png")
    asked = len(way.requests)
    with pytest.raises(SourceError, match="has stopped answering"):
        source.read("a.png")
    assert len(way.requests) == asked


def test_as_many_threads_as_a_scan_uses(server: S3Server, bucket: str) -> None:
    objects = {f"{number}.png": picture(seed=number) for number in range(20)}
    server.fill(bucket, objects)
    source = Bucket(f"s3://{bucket}", server.address)
    names = sorted(objects) * 2
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(source.read, names)) == [objects[name] for name in names]


def test_a_spawned_process_makes_its_own_connection(server: S3Server, bucket: str) -> None:
    server.fill(bucket, {"a.png": picture()})
    source = Bucket(f"s3://{bucket}", server.address, HASTY)
    source.list()
    assert pickle.loads(pickle.dumps(source)) == source
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(source.read, ("a.png",)) == picture()


def test_without_s3fs_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    source = open_source(image_set(type="s3", s3_url="s3://abc"))
    with pytest.raises(SourceError, match="s3fs") as caught:
        source.list()
    assert caught.value.hint == "pip install 'simpletune[s3]'"
