"""Caches hold what their keys say, are filled once, and follow every change of a picture, a caption or a model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import colours, image_set, prepared, run_settings, scan, sources
from fake_family import FakeEncoders, FakeFamily, latent, text_vector
from worker_sources import Broken

from simpletune.data.caches import encode_pictures, encode_text
from simpletune.data.caches.cache import Stored, TensorCache
from simpletune.data.caches.encode import (
    LATENTS,
    POOLED_PROMPT_EMBEDS,
    PROMPT_EMBEDS,
    Repair,
    fill_latent_cache,
    fill_text_cache,
    latent_key,
    text_key,
)
from simpletune.data.geometry import Placement
from simpletune.data.header import open_picture
from simpletune.errors import DataError, OutOfMemory

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Collecting garbage takes a quarter of a second where torch is loaded, and there is no model to give back."""
    monkeypatch.setattr(encode_pictures, "release", lambda device: None)
    monkeypatch.setattr(encode_text, "release", lambda device: None)


@pytest.fixture
def family() -> FakeFamily:
    return FakeFamily()


@pytest.fixture
def pictures(folder, family, told, tmp_path):
    """Scan the folder and fill the latent cache; gives (samples, result)."""

    def run(settings=None, indexes=None, verify=False, **changes):
        samples = scan(image_set(folder, **changes), 16, 1).samples
        arguments = (sources(image_set(folder)), {"pictures": tmp_path / "vae"}, family, None)
        more = {"indexes": indexes, "verify": verify}
        return samples, fill_latent_cache(samples, *arguments, settings or run_settings(), CPU, told, **more)

    return run


@pytest.fixture
def texts(family, told, tmp_path):
    def run(captions, settings=None):
        return fill_text_cache(captions, tmp_path / "text", family, None, settings or run_settings(), CPU, told)

    return run


class TestCache:
    def test_round_trip_of_every_dtype(self, tmp_path):
        cache = TensorCache(tmp_path / "new" / "cache")
        tensors = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
        tensors["scalar"] = torch.tensor(2.0)
        cache.put("ab12", tensors)
        found = cache.get("ab12")
        assert found.keys() == tensors.keys()
        assert all(found[name].dtype == tensors[name].dtype and found[name].equal(tensors[name]) for name in tensors)
        assert cache.path("ab12") == tmp_path / "new" / "cache" / "ab" / "ab12.safetensors"

    def test_a_slice_is_saved_without_its_batch(self, tmp_path):
        cache = TensorCache(tmp_path)
        cache.put("ab", {"x": torch.zeros(1000, 100)[0]})
        assert cache.path("ab").stat().st_size < 1000

    @pytest.mark.parametrize("position", [3, 40, -1])
    def test_a_changed_byte_reads_as_missing(self, tmp_path, position):
        cache = TensorCache(tmp_path)
        cache.put("ab", {"x": torch.arange(10.0)})
        data = bytearray(cache.path("ab").read_bytes())
        data[position] ^= 1
        cache.path("ab").write_bytes(data)
        assert cache.get("ab") is None

    def test_cut_empty_renamed_and_missing_entries_read_as_missing(self, tmp_path):
        cache = TensorCache(tmp_path)
        cache.put("ab", {"x": torch.arange(10.0)})
        data = cache.path("ab").read_bytes()
        cache.path("abc").write_bytes(data)
        assert cache.get("abc") is None
        for content in (b"", data[:-4], data[:20], b"\xff" * 100):
            cache.path("ab").write_bytes(content)
            assert cache.get("ab") is None
        assert cache.get("cd") is None
        with pytest.raises(DataError, match=r"has vanished|is damaged"):
            Stored(cache, "cd").load()

    def test_a_cache_that_cant_be_written_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="file: a cache entry can't be written"):
            TensorCache(tmp_path / "file").put("ab", {"x": torch.zeros(1)})


class TestKeys:
    def test_each_determinant_makes_another_key(self):
        placement = Placement((80, 60), (0, 0, 64, 48), (64, 48))
        moved = Placement((80, 60), (1, 0, 65, 48), (64, 48))
        smaller = Placement((70, 60), (0, 0, 64, 48), (64, 48))
        keys = [
            latent_key("a", placement, "vae"),
            latent_key("b", placement, "vae"),
            latent_key("a", moved, "vae"),
            latent_key("a", smaller, "vae"),
            latent_key("a", placement, "other"),
            text_key("a", "vae"),
            text_key("a", "77"),
            text_key("a", "154"),
            text_key("b", "154"),
        ]
        assert len(set(keys)) == len(keys)

    def test_keys_stay_what_they_are(self):
        """A change of these throws away everybody's caches: mean it, and count PREPARATION up."""
        placement = Placement((80, 60), (0, 0, 64, 48), (64, 48))
        assert text_key("ä", "i").startswith("11a25346dfef575a")
        assert latent_key("a", placement, "i").startswith("8eb49bfb47f90493")


class TestText:
    def test_captions_are_encoded_once_each_and_found_again(self, texts, family):
        stored = texts(["b", "a", "b", ""])
        assert sorted(family.captions) == ["", "a", "b"]
        entry = stored["a"].load()
        assert entry[PROMPT_EMBEDS].equal(text_vector("a")[None].repeat(3, 1))
        assert entry[POOLED_PROMPT_EMBEDS].equal(text_vector("a")[:2])
        assert texts(["a", "b"]) == {caption: stored[caption] for caption in "ab"}
        assert family.loaded == ["text"]

    def test_only_a_new_caption_is_encoded_and_all_for_other_encoders(self, texts, family):
        texts(["a", "b"])
        family.captions.clear()
        texts(["a", "c"])
        assert family.captions == ["c"]
        family.text = "text-of-another-token-length"
        family.captions.clear()
        texts(["a", "c"])
        assert family.captions == ["a", "c"]

    def test_the_batch_is_halved_when_memory_runs_out(self, texts, family, told):
        family.fits = 3
        stored = texts(list("abcdefgh"), run_settings(text_encoder_batch_size=8))
        assert told.notes == [
            "out of memory with a batch of 8: going on with 2, and nothing is lost; "
            'to begin with that, set "text_encoder_batch_size" to 2'
        ]
        assert family.captions == list("abcdefgh")
        assert stored["h"].load()[POOLED_PROMPT_EMBEDS].equal(text_vector("h")[:2])

    def test_encoders_get_all_batches_that_are_left_at_once(self, texts, family, monkeypatch):
        """Those that don't fit together are then loaded once for all of them."""
        given, plain = [], FakeEncoders.encode_batches

        def encode(self, batches):
            given.append([len(batch) for batch in batches])
            return plain(self, batches)

        monkeypatch.setattr(FakeEncoders, "encode_batches", encode)
        texts(list("abcdefghijklmn"), run_settings(text_encoder_batch_size=4))
        assert given == [[4, 4, 4, 4]]
        family.fits = 3
        texts(list("opqrst"), run_settings(text_encoder_batch_size=4))
        assert given[1:] == [[4, 4], [2, 2, 2]]

    def test_a_batch_is_filled_up_so_that_its_shape_doesnt_depend_on_what_is_cached(self, texts, family):
        sizes = []
        family.check = sizes.append
        for captions in ("abc", "abcdefghij", "abcdefghijk"):
            texts(list(captions))
        assert sizes == [3, 8, 8]

    def test_a_caption_that_doesnt_fit_alone_is_out_of_memory(self, texts, family, told):
        family.fits = 0
        with pytest.raises(OutOfMemory, match="text_encoder_batch_size 1") as caught:
            texts(["a"])
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
        assert told.notes == []

    def test_numbers_that_arent_finite_are_never_cached(self, texts, family):
        family.poison = "bad"
        with pytest.raises(DataError, match="'bad' gave numbers that aren't finite"):
            texts(["good", "bad"])
        family.poison = None
        texts(["bad"])
        assert family.captions[-1] == "bad"


class TestUnreadable:
    @pytest.fixture
    def fill(self, folder, family, told, tmp_path):
        def run(samples, **more):
            arguments = (sources(image_set(folder)), {"pictures": tmp_path / "vae"}, family, None)
            return fill_latent_cache(samples, *arguments, run_settings(**more), CPU, told)

        return run

    @pytest.fixture
    def samples(self, save, folder):
        """Twelve pictures, the first `count` of which are cut short after the scan."""

        def make(count):
            for number in range(12):
                save(f"{number:02}.png", colours(64, 64, number))
            found = scan(image_set(folder), 16, 1).samples
            for number in range(count):
                path = folder / f"{number:02}.png"
                path.write_bytes(path.read_bytes()[:-40])
            return found

        return make

    def test_up_to_the_share_they_are_named_once_each(self, samples, fill, told):
        result = fill(samples(3))
        assert len(result.entries) == 9
        assert [exclusion.name for exclusion in result.excluded] == ["00.png", "01.png", "02.png"]
        assert [warning.split("/")[-1].split(":")[0] for warning in told.warnings] == ["00.png", "01.png", "02.png"]

    def test_beyond_it_the_run_ends_and_names_the_key(self, samples, fill):
        with pytest.raises(DataError, match=r"4 of 12 pictures can't be read.*allows 0\.25.*03\.png") as caught:
            fill(samples(5))
        assert "max_unreadable_share" in caught.value.hint

    def test_what_the_scan_couldnt_read_counts_too(self, save, folder, family, told, tmp_path):
        for number in range(12):
            save(f"{number:02}.png", colours(64, 64, number))
        for number in range(4):
            (folder / f"zero {number}.png").touch()
        scanned = scan(image_set(folder), 16, 1)
        (folder / "00.png").unlink()
        arguments = (sources(image_set(folder)), {"pictures": tmp_path / "vae"}, family, None, run_settings(), CPU)
        with pytest.raises(DataError, match="5 of 16 pictures"):
            fill_latent_cache(scanned.samples, *arguments, told, scanned=[scanned])

    def test_of_many_the_first_are_named_and_the_rest_counted(self, save, folder, fill, told):
        for number in range(30):
            save(f"{number:02}.png", colours(64, 64, number))
        found = scan(image_set(folder), 16, 1).samples
        for number in range(25):
            (folder / f"{number:02}.png").unlink()
        assert len(fill(found, max_unreadable_share=1.0).entries) == 5
        assert len(told.warnings) == 21
        assert told.warnings[-1] == "left out: 5 more pictures that can't be read"

    def test_a_source_that_cant_be_read_ends_the_run(self, samples, folder, family, told, tmp_path):
        broken = {"pictures": Broken(str(folder), bug=False)}
        arguments = ({"pictures": tmp_path / "vae"}, family, None, run_settings(), CPU, told)
        with pytest.raises(DataError, match='data set "pictures": the bucket is gone') as caught:
            fill_latent_cache(samples(0), broken, *arguments)
        assert caught.value.hint == "log in again"


class TestIndex:
    def test_a_file_whose_digest_is_known_isnt_read(self, save, folder, pictures, told):
        save("a.png", colours(64, 64, 1))
        save("b.png", colours(64, 64, 2))
        index = Known()
        samples, result = pictures(indexes={"pictures": index})
        assert sorted(index.digests) == [("a.png", samples[0].stamp), ("b.png", samples[1].stamp)]
        told.phases.clear()
        status = (folder / "a.png").stat()
        assert pictures(indexes={"pictures": index})[1] == result
        assert told.phases == []
        assert pictures(indexes={"pictures": index}, verify=True)[1] == result
        assert told.phases == ["Reading and encoding pictures", "Checking cached pictures"]
        assert (folder / "a.png").stat().st_mtime_ns == status.st_mtime_ns

    def test_a_file_that_changes_after_the_scan_isnt_noted(self, save, folder, family, told, tmp_path):
        save("a.png", colours(64, 64, 1))
        samples = scan(image_set(folder), 16, 1).samples
        save("a.png", colours(64, 64, 2))
        os.utime(folder / "a.png", (1, 1))
        index = Known()
        arguments = (
            sources(image_set(folder)),
            {"pictures": tmp_path / "vae"},
            family,
            None,
            run_settings(),
            CPU,
            told,
        )
        result = fill_latent_cache(samples, *arguments, indexes={"pictures": index})
        assert index.digests == {}
        (stored,) = result.entries[samples[0].id]
        assert stored.load()[LATENTS].equal(latent(prepared(samples[0], folder)[None])[0])

    def test_a_known_digest_of_a_missing_entry_is_encoded(self, save, pictures, family):
        save("a.png", colours(64, 64, 1))
        index = Known()
        samples, result = pictures(indexes={"pictures": index})
        (stored,) = result.entries[samples[0].id]
        stored.cache.path(stored.key).unlink()
        family.pictures.clear()
        pictures(indexes={"pictures": index})
        assert len(family.pictures) == 1


class Known:
    """An index of digests alone."""

    def __init__(self) -> None:
        self.digests: dict = {}

    def digest(self, name, stamp):
        return self.digests.get((name, stamp))

    def note_digest(self, name, stamp, digest):
        self.digests[name, stamp] = digest


class TestRepair:
    @pytest.fixture
    def repair(self, folder, family, told):
        return Repair(family, None, run_settings(), sources(image_set(folder)), CPU, told)

    def test_a_latent(self, save, pictures, repair, family, told):
        save("a.png", colours(80, 64, 1))
        samples, result = pictures(crop=True, horizontal_flip=True)
        for index, stored in enumerate(result.entries[samples[0].id]):
            whole = stored.load()[LATENTS]
            stored.cache.path(stored.key).write_bytes(b"damaged")
            assert repair.latent(samples[0], index, stored)[LATENTS].equal(whole)
            assert stored.load()[LATENTS].equal(whole)
        assert told.warnings == ["the cached latent of a.png is damaged or gone: it is encoded again"] * 2

    def test_a_picture_that_has_changed_or_gone_is_said(self, save, folder, pictures, repair):
        save("a.png", colours(64, 64, 1))
        samples, result = pictures()
        (stored,) = result.entries[samples[0].id]
        save("a.png", colours(64, 64, 2))
        with pytest.raises(DataError, match=r"changed since the run started: .*a\.png") as caught:
            repair.latent(samples[0], 0, stored)
        assert "start the run again" in caught.value.hint
        (folder / "a.png").unlink()
        with pytest.raises(DataError, match="its picture can't be read"):
            repair.latent(samples[0], 0, stored)

    def test_a_caption(self, texts, repair, told):
        stored = texts(["a cat"])["a cat"]
        stored.cache.path(stored.key).unlink()
        assert repair.text("a cat", stored)[PROMPT_EMBEDS].equal(text_vector("a cat")[None].repeat(3, 1))
        assert stored.load()[POOLED_PROMPT_EMBEDS].equal(text_vector("a cat")[:2])
        assert "'a cat' is damaged or gone" in told.warnings[0]

    def test_without_memory_on_the_device_it_is_done_on_the_processor(self, texts, family, told):
        stored = texts(["a cat"])["a cat"]
        loads = []

        class Full(FakeFamily):
            def load_text_encoders(self, files, settings, device, reporter=None):
                loads.append(device.type)
                if len(loads) == 1:
                    raise torch.OutOfMemoryError("full")
                return super().load_text_encoders(files, settings, device, reporter)

        Repair(Full(), None, run_settings(), {}, torch.device("meta"), told).text("a cat", stored)
        assert loads == ["meta", "cpu"]
        assert "on the processor" in told.notes[0]


class TestPictures:
    def test_every_picture_by_its_bucket_and_a_warm_run_loads_nothing(self, save, folder, pictures, family, told):
        for number in range(5):
            save(f"{number}.png", colours(64, 64, number))
            save(f"wide-{number}.jpg", colours(96, 48, number))
        samples, result = pictures()
        assert len(family.pictures) == 10
        for sample in samples:
            found = result.entries[sample.id][0].load()[LATENTS]
            assert found.equal(latent(prepared(sample, folder)[None])[0])
        assert pictures()[1] == result
        assert family.loaded == ["vae"]
        assert told.warnings == []

    def test_only_what_changed_is_encoded_again(self, save, pictures, family):
        for name in "abc":
            save(f"{name}.png", colours(64, 64, ord(name)))
        _, before = pictures()
        family.pictures.clear()
        save("b.png", colours(64, 64, 7))
        _, after = pictures()
        assert len(family.pictures) == 1
        changed = {name for (_, name), stored in after.entries.items() if stored != before.entries["pictures", name]}
        assert changed == {"b.png"}
        family.pictures.clear()
        family.vae = "another"
        pictures()
        assert len(family.pictures) == 3
        family.pictures.clear()
        pictures(resolution=32)
        assert len(family.pictures) == 3

    def test_names_say_nothing(self, save, pictures, family):
        picture = colours(64, 64)
        for name in ("a.png", "copy of a.png", "sub/a.png"):
            save(name, picture)
        _, result = pictures()
        assert len(family.pictures) == 1
        assert len({stored.key for (stored,) in result.entries.values()}) == 1
        (save("a.png", picture)).rename(save("b.png", picture).with_name("renamed.png"))
        pictures()
        assert len(family.pictures) == 1

    def test_many_placements_are_read_and_decoded_once(self, save, folder, pictures, family, monkeypatch):
        import simpletune.data.images as images

        opened = []
        monkeypatch.setattr(images, "open_picture", lambda file: opened.append(file) or open_picture(file))
        save("a.jpg", colours(160, 64, 1), quality=95)
        options = {"crop": True, "crop_style": "random", "crop_variants": 3, "horizontal_flip": True}
        samples, result = pictures(**options)
        assert len(opened) == 1
        entries = result.entries[samples[0].id]
        assert len(entries) == len(samples[0].placements) == len(family.pictures) == 6
        for placement, pixels in zip(samples[0].placements, family.pictures, strict=True):
            alone = images.prepare("", (folder / "a.jpg").read_bytes(), (160, 64), placement)
            assert np.array_equal(alone, pixels)

    def test_the_same_stem_is_two_pictures(self, save, pictures):
        save("a.png", colours(64, 64, 1))
        save("a.jpg", colours(64, 64, 100))
        samples, result = pictures()
        one, two = (result.entries[sample.id][0].load()[LATENTS] for sample in samples)
        assert not one.equal(two)

    def test_verify_finds_a_damaged_entry_and_encodes_it_again(self, save, pictures, family, told):
        save("a.png", colours(64, 64, 1))
        save("b.png", colours(64, 64, 2))
        samples, result = pictures()
        (stored,) = result.entries[samples[0].id]
        whole = stored.cache.path(stored.key).read_bytes()
        stored.cache.path(stored.key).write_bytes(whole[:-1] + b"?")
        family.pictures.clear()
        assert pictures()[1] == result
        assert family.pictures == []
        assert pictures(verify=True)[1] == result
        assert len(family.pictures) == 1
        assert told.warnings == ["1 damaged cache entry is encoded again (pictures)"]
        assert stored.cache.path(stored.key).read_bytes() == whole

    def test_a_picture_that_cant_be_read_any_more_is_named_once_and_left_out(
        self, save, folder, family, told, tmp_path
    ):
        for name in "abcd":
            save(f"{name}.png", colours(64, 64, ord(name)))
        samples = scan(image_set(folder), 16, 1).samples
        (folder / "b.png").unlink()
        content = (folder / "c.png").read_bytes()
        (folder / "c.png").write_bytes(content[:60] + b"x" * 20 + content[80:])
        folders = {"pictures": tmp_path / "vae"}
        arguments = (
            sources(image_set(folder)),
            folders,
            family,
            None,
            run_settings(max_unreadable_share=0.5),
            CPU,
            told,
        )
        result = fill_latent_cache(samples, *arguments)
        assert sorted(name for _, name in result.entries) == ["a.png", "d.png"]
        assert sorted(exclusion.name for exclusion in result.excluded) == ["b.png", "c.png"]
        assert len(told.warnings) == 2
        with pytest.raises(DataError, match='data set "pictures": none of its 1 pictures') as caught:
            fill_latent_cache([sample for sample in samples if sample.name == "b.png"], *arguments)
        assert "No such file" in caught.value.hint

    def test_the_batch_is_halved_when_memory_runs_out(self, save, pictures, family, told):
        for number in range(6):
            save(f"{number}.png", colours(64, 64, number))
        family.fits = 2
        _, result = pictures(run_settings(vae_batch_size=4))
        assert len(told.notes) == 1
        assert len(result.entries) == len(family.pictures) == 6

    def test_two_data_sets_keep_to_their_own_caches(self, save, folder, family, told, tmp_path):
        save("a.png", colours(64, 64))
        sets = [image_set(folder, id=set_id) for set_id in "xy"]
        samples = [sample for one in sets for sample in scan(one, 16, 1).samples]
        folders = {"x": tmp_path / "x", "y": tmp_path / "y"}
        result = fill_latent_cache(samples, sources(*sets), folders, family, None, run_settings(), CPU, told)
        assert {set_id: stored.cache.folder for (set_id, _), (stored,) in result.entries.items()} == folders
        assert all(stored.sound() for (stored,) in result.entries.values())

    def test_the_folder_stays_as_it_was_read_only(self, save, pictures, folder):
        for number in range(3):
            save(f"sub/{number}.png", colours(64, 64, number))
            (folder / "sub" / f"{number}.txt").write_text(f"caption {number}")
        everything = [folder, *folder.rglob("*")]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {path: fingerprint(path) for path in everything}
        try:
            _, result = pictures(caption_strategy="textfile")
            assert len(result.entries) == 3
            assert {path: fingerprint(path) for path in [folder, *folder.rglob("*")]} == before
        finally:
            for path in everything:
                path.chmod(0o755 if path.is_dir() else 0o644)


def fingerprint(path: Path) -> tuple:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_mode, path.is_file() and path.read_bytes()
