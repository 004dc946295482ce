"""Uploads: the hub's own client against a hub on the loopback interface, with everything that goes wrong on the way."""

import errno
import json
import re
import shlex
import traceback

import pytest
from finished_runs import STEPS, make_run, take_pictures, write_adapter
from hub_uploads import Repo, serve_uploads

from simpletune.config.load import load
from simpletune.errors import EnvironmentNotReady, UploadFailed, UsageError
from simpletune.progress import SilentReporter
from simpletune.results.hub import retry
from simpletune.results.hub.destination import Wish, prepare
from simpletune.results.hub.share import share
from simpletune.results.hub.upload import push

TOKEN = "canary-that-looks-like-no-token"
ONE_LARGE = 3 * 2**19
ADAPTER = "pytorch_lora_weights.safetensors"


class Notes(SilentReporter):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    warn = note


@pytest.fixture(autouse=True)
def account(tmp_path, monkeypatch):
    """No login and no mirror but those a test makes; the hub may be asked, and nobody waits."""
    import huggingface_hub.utils._http as http
    from huggingface_hub import constants

    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "nobody" / "token"))
    monkeypatch.setattr(retry.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(http.time, "sleep", lambda _seconds: None)


@pytest.fixture
def hub(monkeypatch):
    with serve_uploads(TOKEN) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)  # the login goes to no mirror that only a file names
        yield server


@pytest.fixture
def run(tmp_path):
    output = make_run(tmp_path / "project", bytes_of_adapter=ONE_LARGE, validation_prompt="a cat")
    take_pictures(output, {"prompt": "a cat"})
    return output


def sent(run, hub, name=None, private=True, notes=None):
    """What `simpletune push` does."""
    reporter = notes or Notes()
    destination = prepare(Wish(run, name, private, hub.endpoint), reporter.note)
    return push(run, destination, reporter)


def test_everything_goes_up_in_one_commit(run, hub):
    done = sent(run, hub)
    assert (done.changed, done.url) == (True, f"{hub.endpoint}/ada/balls")
    repo = hub.repos["ada/balls"]
    assert repo.private
    assert sorted(repo.files) == [
        ".gitattributes", "README.md", "card/01-base.jpg", "card/01-tuned.jpg", ADAPTER, "simpletune/config.json",
        "simpletune/multidatabackend.json", "simpletune/validation_prompts.json",
    ]  # fmt: skip
    assert repo.files[ADAPTER] == (run / ADAPTER).read_bytes()
    assert repo.messages == [f"LoRA after {STEPS} steps"]
    assert 'adapter = "ada/balls"' in repo.files["README.md"].decode()
    assert json.loads(repo.files["simpletune/config.json"])["lora_rank"]


def test_a_second_upload_sends_what_has_changed(run, hub):
    sent(run, hub)
    again = sent(run, hub)
    assert not again.changed
    assert len(hub.received) == 1
    repo = hub.repos["ada/balls"]
    repo.files["card/09-tuned.jpg"] = b"of an earlier upload"
    repo.files["mine.txt"] = b"put there by hand"
    write_adapter(run / ADAPTER, STEPS + 10, ONE_LARGE, b"\2")
    assert sent(run, hub).changed
    assert len(hub.received) == 2
    assert repo.files[ADAPTER] == (run / ADAPTER).read_bytes()
    assert repo.files["mine.txt"]
    assert not any(name.startswith("card/") for name in repo.files)  # there are no pictures of these steps
    assert repo.messages == [f"LoRA after {STEPS} steps", f"LoRA after {STEPS + 10} steps"]


def test_a_mirror_below_a_path(run, monkeypatch):
    with serve_uploads(TOKEN, "/mirror/of-hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.says_published = True
        assert sent(run, hub).changed
        assert hub.repos["ada/balls"].files[ADAPTER] == (run / ADAPTER).read_bytes()


def test_the_environments_mirror_wins(run, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
    reporter = Notes()
    destination = prepare(Wish(run, "guild/shared", False, "http://nowhere.example"), reporter.note)
    assert (destination.endpoint, destination.repo_id, destination.private) == (hub.endpoint, "guild/shared", False)


@pytest.mark.parametrize(
    "where", ["whoami", "repos/create", "validate-yaml", "preupload", "objects/batch", "PUT /lfs", "/commit/"]
)
@pytest.mark.parametrize("how", [{"status": 503}, {"keep": 1000}], ids=["503", "dropped"])
def test_what_may_pass_is_tried_again(run, hub, where, how):
    hub.fail(where, 2, **how)
    assert sent(run, hub).changed
    assert len(hub.repos["ada/balls"].commits) == 2
    assert hub.repos["ada/balls"].files[ADAPTER] == (run / ADAPTER).read_bytes()


def test_what_came_through_is_not_sent_again(run, hub):
    (run / "ema").mkdir()
    write_adapter(run / "ema" / ADAPTER, STEPS, ONE_LARGE, b"\3")
    sizes = (run / ADAPTER).stat().st_size
    notes = Notes()
    hub.fail("/commit/", 20, status=503)
    with pytest.raises(UploadFailed):
        sent(run, hub, notes=notes)
    assert [size for _, size in hub.received] == [sizes, sizes]
    hub.faults.clear()
    assert sent(run, hub).changed
    assert [size for _, size in hub.received] == [sizes, sizes]
    assert sum("trying again" in line for line in notes.lines) == 3


def test_an_upload_that_breaks_off_in_the_middle_goes_on(run, hub):
    (run / "ema").mkdir()
    write_adapter(run / "ema" / ADAPTER, STEPS, ONE_LARGE, b"\3")
    size = (run / ADAPTER).stat().st_size
    hub.fail("PUT /lfs", 0, keep=0)
    first = hub.faults[0]

    class AfterTheFirst:
        """The first large file comes through; of the second the hub takes a million bytes, again and again."""

        pattern, keep, status, message = first.pattern, 10**6, None, ""

        @property
        def times(self):
            return 1 if hub.received else 0

        @times.setter
        def times(self, _value):
            pass

    hub.faults[0] = AfterTheFirst()
    with pytest.raises(UploadFailed) as failed:
        sent(run, hub)
    assert "simpletune push" in failed.value.hint
    assert len(hub.blobs) == 1
    hub.faults.clear()
    hub.received.clear()
    assert sent(run, hub).changed
    assert [taken for _, taken in hub.received] == [size]


def test_a_commit_whose_answer_got_lost_is_not_made_twice(run, hub, monkeypatch):
    sent(run, hub)
    write_adapter(run / ADAPTER, STEPS, 2**20, b"\5")
    from huggingface_hub import HfApi

    real, calls = HfApi.create_commit, []

    def lost(self, *arguments, **keys):
        made = real(self, *arguments, **keys)
        calls.append(made)
        if len(calls) == 1:
            raise ConnectionResetError("the answer got lost")
        return made

    monkeypatch.setattr(HfApi, "create_commit", lost)
    sent(run, hub)
    assert len(calls) == 2
    assert len(hub.repos["ada/balls"].messages) == 2


# --- before anything is loaded


@pytest.mark.parametrize(
    ("arrange", "message", "hint"),
    [
        (lambda hub: setattr(hub, "token", "another"), "doesn't accept the token", "hf auth login"),
        (lambda hub: setattr(hub, "role", "read"), "may only read", "make one that may write"),
        (lambda hub: hub.access.update(role="fineGrained", fineGrained={"scoped": [
            {"entity": {"name": "ada"}, "permissions": ["repo.content.read"]}]}), "may only read", "may write"),
        (lambda hub: hub.fail("repos/create", 9, status=403, message=f"Forbidden for {TOKEN}"),
         "may not write to ada/balls", "tokens"),
        (lambda hub: hub.fail("repos/create", 9, status=500), "answers with an error: 500", "later"),
        (lambda hub: (hub.repos.update({"ada/balls": Repo(True)}), hub.closed.add("ada/balls")),
         "may not write to ada/balls", "name another"),
        (lambda hub: hub.fail("repos/create", 9, status=409, message="by bob"), "ada/balls is taken", "hub_model_id"),
        (lambda hub: hub.repos.update({"ada/balls": Repo(False)}), "is there already, and public", "--public"),
        (lambda hub: hub.fail("whoami", 9, keep=0), "can't be reached", "hf_endpoint"),
    ],
    ids=["401", "read", "fine-grained", "403", "500", "closed", "409", "public", "down"],
)  # fmt: skip
def test_what_stands_in_the_way_is_said_before(run, hub, arrange, message, hint):
    arrange(hub)
    with pytest.raises(EnvironmentNotReady) as refused:
        prepare(Wish(run, None, True, hub.endpoint), lambda _line: None)
    assert message in refused.value.message
    assert hint in refused.value.hint
    assert TOKEN not in "".join(traceback.format_exception(refused.value)) + refused.value.hint


def test_a_token_that_may_write_somewhere_is_let_through(run, hub):
    hub.access = {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.write"]}]}}
    assert prepare(Wish(run, None, True, hub.endpoint), lambda _line: None).repo_id == "ada/balls"


def test_without_a_login(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(EnvironmentNotReady, match="nobody is logged in") as refused:
        prepare(Wish(run, None, True, hub.endpoint), lambda _line: None)
    assert "hf auth login" in refused.value.hint
    assert hub.asked == []


def test_offline(run, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentNotReady, match="HF_HUB_OFFLINE"):
        prepare(Wish(run, None, True, hub.endpoint), lambda _line: None)


@pytest.mark.parametrize("name", ["a/b/c", "a b", "--x", "bob/", "x.git"])
def test_a_name_that_the_hub_does_not_take(run, hub, name):
    with pytest.raises(UsageError, match="no name that the hub takes"):
        prepare(Wish(run, name, True, hub.endpoint), lambda _line: None)
    assert hub.repos == {}


def test_somebody_elses_namespace(run, hub):
    with pytest.raises(EnvironmentNotReady, match="may not write to bob/balls"):
        prepare(Wish(run, "bob/balls", True, hub.endpoint), lambda _line: None)


# --- the run is never lost


def test_a_refused_upload_says_how_to_try_again(run, hub):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix == ".safetensors"}
    destination = prepare(Wish(run, None, True, hub.endpoint), lambda _line: None)
    hub.closed.add("ada/balls")
    with pytest.raises(UploadFailed) as failed:
        push(run, destination, SilentReporter())
    assert failed.value.exit_code == 1
    assert "answered 403" in failed.value.message
    command = re.search("`simpletune (.*)`", failed.value.hint)[1]
    assert shlex.split(command) == ["push", str(run), "--repo", "ada/balls"]
    assert {path: path.read_bytes() for path in before} == before
    assert TOKEN not in "".join(traceback.format_exception(failed.value))


def test_an_unfinished_run_is_not_uploaded(run, hub):
    destination = prepare(Wish(run, None, True, hub.endpoint), lambda _line: None)
    (run / "finished.json").unlink()
    with pytest.raises(UsageError, match="has not done all its steps"):
        push(run, destination, SilentReporter())


def test_without_a_card_nothing_is_uploaded_and_that_is_no_success(run, hub):
    settings = load(run.parents[1] / "config.json")[0]
    (run / "evaluation.json").write_text("{")
    notes = Notes()
    share(settings, None, notes)
    assert "no model card was written" in notes.lines[0]
    destination = prepare(Wish(run, None, True, hub.endpoint), notes.note)
    with pytest.raises(UploadFailed, match=r"no model card could be written.*evaluation\.json") as failed:
        share(settings, destination, notes)
    assert "simpletune evaluate" in failed.value.hint
    assert "simpletune push" in failed.value.hint
    assert hub.count("/commit/") == 0


def test_a_disk_that_takes_no_card_is_told_in_words(run, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error", str(run / "README.md"))

    monkeypatch.setattr("simpletune.results.hub.share.write_card", failing)
    notes = Notes()
    share(load(run.parents[1] / "config.json")[0], None, notes)
    assert notes.lines == [
        "no model card was written: the disk reports an error of its own; "
        "check the disk and its connection; `simpletune card` writes it then"
    ]
