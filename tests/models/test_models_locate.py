"""Finding a model: on the hub (served here), in a folder; and what is said when it isn't there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from hub_server import COMMIT, Hub, serve

from simpletune.config.settings import Settings
from simpletune.errors import ModelUnavailable
from simpletune.models import builder
from simpletune.models.hub import patterns
from simpletune.models.locate import locate

MakeSettings = Callable[..., Settings]
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


class Recorder:
    """A reporter that keeps its phases as [title, total, unit, amount]."""

    def __init__(self) -> None:
        self.phases: list[list[Any]] = []

    @contextmanager
    def phase(self, title: str, total: float | None, unit: str, done: float = 0) -> Iterator[Recorder]:
        self.phases.append([title, total, unit, done])
        yield self

    def advance(self, amount: float = 1, **shown: str) -> None:
        self.phases[-1][3] += amount


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose transformer is larger than what the hub's library writes at once, 10 MB."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    builder.build(folder, "tiny", dtype="fp32")
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    with serve(model) as server:
        yield server


@pytest.fixture
def ask(hub: Hub, make_settings: MakeSettings) -> Callable[..., Settings]:
    def make(**values: Any) -> Settings:
        return make_settings(**({"pretrained_model_name_or_path": "owner/model", "hf_endpoint": hub.endpoint} | values))

    return make


def test_a_download_fetches_what_the_run_reads_and_shows_its_bytes(hub: Hub, ask: MakeSettings, model: Path) -> None:
    reporter = Recorder()
    files = locate(ask(use_t5=False), reporter)  # type: ignore[arg-type]
    fetched = {path.relative_to(files.root).as_posix() for path in files.root.rglob("*") if path.is_file()}
    expected = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert fetched == {name for name in expected if "_3/" not in name}
    assert files.commit == COMMIT
    assert (files.source, files.layout) == ("owner/model", "folder")
    size = sum((model / name).stat().st_size for name in fetched)
    assert reporter.phases == [["downloading owner/model", size, "B", size]]


def test_what_is_here_is_not_fetched_again(hub: Hub, ask: MakeSettings) -> None:
    first = locate(ask(use_t5=False))
    hub.served.clear()
    reporter = Recorder()
    assert locate(ask(use_t5=False), reporter) == first  # type: ignore[arg-type]
    assert hub.served == []
    assert reporter.phases == []
    locate(ask())
    assert {name.split("/")[0] for name, _ in hub.served} == {"text_encoder_3", "tokenizer_3"}


def test_an_interrupted_transfer_goes_on_where_it_stopped(hub: Hub, ask: MakeSettings, model: Path) -> None:
    hub.cut[TRANSFORMER] = 12_000_000
    files = locate(ask(use_t5=False))
    ranges = [asked for name, asked in hub.served if name == TRANSFORMER]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert ranges[1].startswith("bytes=1"), "not from the start"
    assert (files.root / TRANSFORMER).read_bytes() == (model / TRANSFORMER).read_bytes()


def test_the_environments_endpoint_wins(
    hub: Hub, ask: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    assert locate(ask(hf_endpoint="http://127.0.0.1:9", use_t5=False)).commit == COMMIT


def test_a_downloaded_model_is_found_without_the_network(
    hub: Hub, ask: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = locate(ask(use_t5=False))
    assert locate(ask(use_t5=False, hf_endpoint="http://127.0.0.1:9")) == files


@pytest.mark.parametrize(
    ("refusal", "message", "hint"),
    [
        ((403, "GatedRepo"), "owner/model is gated", "https://huggingface.co/owner/model, then run `hf auth login`"),
        ((404, "RepoNotFound"), "no model 'owner/model', or it is private", "hf auth login"),
        ((404, "RevisionNotFound"), "no revision 'v9'", '"revision"'),
        ((500, "Broken"), "isn't (fully) on this machine", "connect to the network"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: Hub, ask: MakeSettings, refusal: tuple[int, str], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusal = refusal
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with pytest.raises(ModelUnavailable) as error:
        locate(ask(revision="v9"))
    assert message in error.value.message
    assert hint in (error.value.hint or "")
    assert error.value.exit_code == 3


def test_a_gated_flavour_that_the_hub_hides_is_called_gated(
    hub: Hub, ask: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusal = (401, "RepoNotFound")
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    with pytest.raises(ModelUnavailable) as error:
        locate(ask(model_flavour="sd3-medium", pretrained_model_name_or_path=""))
    assert "stabilityai/stable-diffusion-3-medium-diffusers" in error.value.message
    assert "accept its licence at https://huggingface.co/stabilityai/" in (error.value.hint or "")


def test_offline_names_the_local_way(hub: Hub, ask: MakeSettings) -> None:
    with pytest.raises(ModelUnavailable, match="can't be reached") as error:
        locate(ask(hf_endpoint="http://127.0.0.1:9"))
    assert '"pretrained_model_name_or_path" to a local folder' in (error.value.hint or "")


@pytest.mark.parametrize("source", ["./models/sd3", "/nowhere/sd3", "a/b/c", "model.safetensors", "~/sd3"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(make_settings: MakeSettings, source: str) -> None:
    with pytest.raises(ModelUnavailable, match="no such file or folder"):
        locate(make_settings(pretrained_model_name_or_path=source))


def test_what_is_no_hub_name_is_said(ask: MakeSettings) -> None:
    with pytest.raises(ModelUnavailable, match="neither a path nor a hub name"):
        locate(ask(pretrained_model_name_or_path="my model"))


def test_a_path_is_relative_to_the_config(make_settings: MakeSettings, tiny_model: Path) -> None:
    settings = make_settings(
        pretrained_model_name_or_path=tiny_model.name, config_path=tiny_model.parent / "config.json"
    )
    assert locate(settings).root == tiny_model


class TestFolder:
    @pytest.fixture
    def folder(self, tiny_model: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / "model"))

    def test_all_that_is_missing_is_named(self, folder: Path, make_settings: MakeSettings) -> None:
        shutil.rmtree(folder / "tokenizer_3")
        (folder / "vae" / "config.json").unlink()
        (folder / "text_encoder" / "model.safetensors").unlink()
        with pytest.raises(ModelUnavailable) as error:
            locate(make_settings(pretrained_model_name_or_path=str(folder)))
        for name in ("tokenizer_3/", "vae/config.json", "text_encoder/ (its weights as .safetensors)"):
            assert name in error.value.message

    def test_t5_may_be_missing_when_it_is_not_used(self, folder: Path, make_settings: MakeSettings) -> None:
        shutil.rmtree(folder / "tokenizer_3")
        shutil.rmtree(folder / "text_encoder_3")
        assert locate(make_settings(pretrained_model_name_or_path=str(folder), use_t5=False)).root == folder
        with pytest.raises(ModelUnavailable, match="tokenizer_3") as error:
            locate(make_settings(pretrained_model_name_or_path=str(folder)))
        assert '"use_t5"' in (error.value.hint or "")

    def test_what_it_lacks_may_come_from_the_encoders_folder(
        self, folder: Path, tiny_model: Path, make_settings: MakeSettings
    ) -> None:
        shutil.rmtree(folder / "text_encoder_3")
        values = {"pretrained_model_name_or_path": str(folder), "pretrained_text_encoders_path": tiny_model}
        assert locate(make_settings(**values)).text_encoders_root == tiny_model
        shutil.rmtree(folder / "vae")
        with pytest.raises(ModelUnavailable, match="vae"):
            locate(make_settings(**values))

    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt"])
    def test_pickles_are_refused(self, folder: Path, make_settings: MakeSettings, name: str) -> None:
        (folder / TRANSFORMER).rename(folder / "transformer" / name)
        with pytest.raises(ModelUnavailable, match="pickles") as error:
            locate(make_settings(pretrained_model_name_or_path=str(folder)))
        assert ".safetensors" in (error.value.hint or "")

    def test_a_pickled_file_is_refused(self, folder: Path, make_settings: MakeSettings) -> None:
        (folder / "sd3.ckpt").write_bytes(b"anything")
        with pytest.raises(ModelUnavailable, match=r"not a \.safetensors file"):
            locate(make_settings(pretrained_model_name_or_path=str(folder / "sd3.ckpt")))

    def test_a_model_of_another_flavour_is_refused(self, folder: Path, make_settings: MakeSettings) -> None:
        with pytest.raises(ModelUnavailable, match="4 transformer blocks") as error:
            locate(make_settings(pretrained_model_name_or_path=str(folder), model_flavour="sd3.5-medium"))
        assert error.value.hint == 'set "model_flavour" to "tiny"'

    def test_a_wrong_encoders_folder_names_its_key(self, make_settings: MakeSettings, tmp_path: Path) -> None:
        with pytest.raises(ModelUnavailable, match="pretrained_text_encoders_path"):
            locate(make_settings(pretrained_text_encoders_path=tmp_path / "nothing"))


def test_no_pickle_and_no_second_precision_is_ever_downloaded() -> None:
    from fnmatch import fnmatch

    unwanted = [
        "transformer/diffusion_pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "sd3_medium.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
    ]
    wanted = ["text_encoder_3/model-00001-of-00002.safetensors", "tokenizer_3/spiece.model", "vae/config.json"]
    assert not [name for name in unwanted if any(fnmatch(name, pattern) for pattern in patterns(True))]
    assert all(any(fnmatch(name, pattern) for pattern in patterns(True)) for name in wanted)
